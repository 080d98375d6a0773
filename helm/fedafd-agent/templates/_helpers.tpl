{{/* Names. */}}
{{- define "fedafd-agent.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "fedafd-agent.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fedafd-agent.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Labels, a pair per component. */}}
{{- define "fedafd-agent.releaseSelector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "fedafd-agent.commonLabels" -}}
{{ include "fedafd-agent.releaseSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fedafd
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fedafd-agent.agent.selectorLabels" -}}
{{ include "fedafd-agent.releaseSelector" . }}
app.kubernetes.io/component: agent
{{- end -}}
{{- define "fedafd-agent.agent.labels" -}}
{{ include "fedafd-agent.commonLabels" . }}
app.kubernetes.io/component: agent
{{- end -}}

{{- define "fedafd-agent.test.selectorLabels" -}}
{{ include "fedafd-agent.releaseSelector" . }}
app.kubernetes.io/component: test
{{- end -}}
{{- define "fedafd-agent.test.labels" -}}
{{ include "fedafd-agent.commonLabels" . }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "fedafd-agent.image" -}}
{{- with .Values.image.registry }}{{ . }}/{{ end -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* What every pod and every container says about security. */}}
{{- define "fedafd-agent.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser | int64 }}
runAsGroup: {{ .Values.runAsUser | int64 }}
fsGroup: {{ .Values.runAsUser | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "fedafd-agent.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/* The aggregator's address, and its port for the NetworkPolicy. */}}
{{- define "fedafd-agent.address" -}}
{{- $address := required "aggregator: set aggregator.address to host:port" .Values.aggregator.address -}}
{{- if not (regexMatch "^[^:/ ]+:[0-9]+$" $address) -}}
{{- fail (printf "aggregator.address: %q is not host:port" $address) -}}
{{- end -}}
{{ $address }}
{{- end -}}
{{- define "fedafd-agent.port" -}}
{{ include "fedafd-agent.address" . | splitList ":" | last }}
{{- end -}}

{{/* Files for TLS: what the agent trusts, and what it shows. */}}
{{- define "fedafd-agent.tlsHasFiles" -}}
{{- with .Values.aggregator.tls -}}
{{- if and .enabled (or .caSecret .clientSecret) -}}yes{{- end -}}
{{- end -}}
{{- end -}}
{{- define "fedafd-agent.tlsMount" -}}
{{- if include "fedafd-agent.tlsHasFiles" . -}}
- {name: tls, mountPath: /etc/fedafd/tls, readOnly: true}
{{- end -}}
{{- end -}}
{{- define "fedafd-agent.tlsVolume" -}}
{{- if include "fedafd-agent.tlsHasFiles" . -}}
- name: tls
  projected:
    defaultMode: 0440
    sources:
      {{- with .Values.aggregator.tls }}
      {{- if .caSecret }}
      - secret: {name: {{ .caSecret | quote }}, items: [{key: {{ .caKey }}, path: ca.crt}]}
      {{- end }}
      {{- if .clientSecret }}
      - secret: {name: {{ .clientSecret | quote }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
      {{- end }}
      {{- end }}
{{- end -}}
{{- end -}}
