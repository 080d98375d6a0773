{{/* Names. Objects are <fullname>-<component>; 40 characters leave room for the longest component. */}}
{{- define "fedafd.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "fedafd.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fedafd.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Labels. `fedafd.releaseSelector` selects all pods of the release; each component has its own pair below. */}}
{{- define "fedafd.releaseSelector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fedafd.labels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: fedafd
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fedafd.controlPlane.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: control-plane
{{- end -}}
{{- define "fedafd.controlPlane.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: control-plane
{{- end -}}

{{- define "fedafd.aggregator.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: aggregator
{{- end -}}
{{- define "fedafd.aggregator.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: aggregator
{{- end -}}

{{- define "fedafd.distiller.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: distiller
{{- end -}}
{{- define "fedafd.distiller.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: distiller
{{- end -}}

{{- define "fedafd.queries.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: queries
{{- end -}}
{{- define "fedafd.queries.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: queries
{{- end -}}

{{- define "fedafd.region.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: region
{{- end -}}
{{- define "fedafd.region.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: region
{{- end -}}

{{- define "fedafd.migration.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: migration
{{- end -}}
{{- define "fedafd.migration.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: migration
{{- end -}}

{{- define "fedafd.postgresql.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: postgresql
{{- end -}}
{{- define "fedafd.postgresql.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: postgresql
{{- end -}}

{{- define "fedafd.redis.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: redis
{{- end -}}
{{- define "fedafd.redis.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: redis
{{- end -}}

{{- define "fedafd.minio.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: minio
{{- end -}}
{{- define "fedafd.minio.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: minio
{{- end -}}

{{- define "fedafd.bucketSetup.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: bucket-setup
{{- end -}}
{{- define "fedafd.bucketSetup.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: bucket-setup
{{- end -}}

{{- define "fedafd.test.selectorLabels" -}}
{{ include "fedafd.releaseSelector" . }}
app.kubernetes.io/component: test
{{- end -}}
{{- define "fedafd.test.labels" -}}
{{ include "fedafd.labels" . }}
app.kubernetes.io/component: test
{{- end -}}

{{/* An image of the project. Takes (dict "root" $ "image" NAME "tag" TAG). */}}
{{- define "fedafd.image" -}}
{{- $name := printf "%s:%s" .image (default (default .root.Chart.AppVersion .root.Values.image.tag) .tag) -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ $name -}}
{{- end -}}

{{/* What every container and every pod says about security. Takes (dict "uid" UID). */}}
{{- define "fedafd.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}
{{- define "fedafd.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
fsGroup: {{ .uid }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "fedafd.uid" -}}10001{{- end -}}

{{/* The common part of a pod's spec of this project. Takes (dict "root" $ "uid" UID). */}}
{{- define "fedafd.podBase" -}}
serviceAccountName: {{ include "fedafd.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ include "fedafd.podSecurity" . | nindent 2 }}
{{- end -}}

{{/* Where a process's pods run. Takes (dict "values" COMPONENT "selector" LABELS). */}}
{{- define "fedafd.scheduling" -}}
terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
{{ toYaml .values.topologySpreadConstraints | indent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ .selector | nindent 8 }}
{{- end }}
{{- end -}}

{{/* An environment variable from a Secret. Takes (dict "name" VARIABLE "secret" NAME "key" KEY). */}}
{{- define "fedafd.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret | quote }}, key: {{ .key | quote }}}
{{- end -}}

{{- define "fedafd.gatewayParents" -}}
{{- if not .Values.gateway.parentRefs }}{{ fail "gateway: set gateway.parentRefs to the Gateways that serve the routes" }}{{ end -}}
{{ toYaml .Values.gateway.parentRefs }}
{{- end -}}

{{/* How long a process may finish what it does: what the kubelet grants, less the preStop pause and time to end. */}}
{{- define "fedafd.shutdownGrace" -}}
{{- max 1 (sub (int .) 10) -}}
{{- end -}}
