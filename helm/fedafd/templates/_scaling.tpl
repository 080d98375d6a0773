{{/* HorizontalPodAutoscaler on the CPU. Takes (dict "root" $ "name" COMPONENT "labels" LABELS "values" AUTOSCALING). */}}
{{- define "fedafd.horizontalPodAutoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "fedafd.fullname" .root }}-{{ .name }}
  labels: {{ .labels | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "fedafd.fullname" .root }}-{{ .name }}
  minReplicas: {{ .values.minReplicas }}
  maxReplicas: {{ .values.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .values.targetCPUUtilizationPercentage }}}
{{- end -}}

{{/* PodDisruptionBudget. Takes (dict "root" $ "name" COMPONENT "labels" LABELS "selector" LABELS "values" BUDGET). */}}
{{- define "fedafd.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "fedafd.fullname" .root }}-{{ .name }}
  labels: {{ .labels | nindent 4 }}
spec:
  maxUnavailable: {{ .values.maxUnavailable }}
  selector:
    matchLabels: {{ .selector | nindent 6 }}
{{- end -}}
