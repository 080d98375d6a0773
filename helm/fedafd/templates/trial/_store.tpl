{{/* The Service of a trial store. Takes (dict "root" $ "name" COMPONENT "labels" LABELS "selector" LABELS "port" PORT "portName" NAME). */}}
{{- define "fedafd.trialService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "fedafd.fullname" .root }}-{{ .name }}
  labels: {{ .labels | nindent 4 }}
spec:
  selector: {{ .selector | nindent 4 }}
  ports:
    - {name: {{ .portName }}, port: {{ .port }}, targetPort: {{ .portName }}}
{{- end -}}

{{/* The volume claim of a trial store. Takes (dict "labels" LABELS "values" TRIAL). */}}
{{- define "fedafd.trialClaim" -}}
volumeClaimTemplates:
  - metadata:
      name: data
      labels: {{ .labels | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .values.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests: {storage: {{ .values.size }}}
{{- end -}}

{{/* Who may call a trial store. Takes (dict "root" $ "name" COMPONENT "labels" LABELS "selector" LABELS "portName" NAME "from" LIST). */}}
{{- define "fedafd.trialPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "fedafd.fullname" .root }}-{{ .name }}
  labels: {{ .labels | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ .selector | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: {{ .portName }}}]
      from:
        {{- range $who := .from }}
        - podSelector:
            matchLabels: {{ include (printf "fedafd.%s.selectorLabels" $who) $.root | nindent 14 }}
        {{- end }}
        {{- range .more }}
        - {{ toYaml . | nindent 10 }}
        {{- end }}
{{- end -}}
