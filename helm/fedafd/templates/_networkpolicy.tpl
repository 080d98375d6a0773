{{/* Egress rules to one thing each: to the pods of the trial, or to a port outside the cluster. */}}
{{/* Takes (dict "root" $ "port" NAME). */}}
{{- define "fedafd.toAggregator" -}}
- ports: [{port: {{ .port }}}]
  to:
    - podSelector:
        matchLabels: {{ include "fedafd.aggregator.selectorLabels" .root | nindent 10 }}
{{- end -}}

{{/* Takes (dict "root" $ "trial" BOOL "selector" LABELS "trialPort" PORT "port" PORT). */}}
{{- define "fedafd.toStoreOf" -}}
{{- if .trial -}}
- ports: [{port: {{ .trialPort }}}]
  to:
    - podSelector:
        matchLabels: {{ .selector | nindent 10 }}
{{- else -}}
- ports: [{port: {{ .port }}}]
  {{- with .root.Values.networkPolicy.storesTo }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "fedafd.toDatabase" -}}
{{ include "fedafd.toStoreOf" (dict "root" . "trial" .Values.database.trial.enabled "selector" (include "fedafd.postgresql.selectorLabels" .) "trialPort" 5432 "port" .Values.database.port) }}
{{- end -}}
{{- define "fedafd.toRedis" -}}
{{ include "fedafd.toStoreOf" (dict "root" . "trial" .Values.redis.trial.enabled "selector" (include "fedafd.redis.selectorLabels" .) "trialPort" 6379 "port" .Values.redis.port) }}
{{- end -}}
{{- define "fedafd.toStore" -}}
{{ include "fedafd.toStoreOf" (dict "root" . "trial" .Values.objectStore.trial.enabled "selector" (include "fedafd.minio.selectorLabels" .) "trialPort" 9000 "port" .Values.objectStore.port) }}
{{- end -}}

{{- define "fedafd.metricsFrom" -}}
{{- if .Values.networkPolicy.metricsFrom -}}
{{ toYaml .Values.networkPolicy.metricsFrom }}
{{- else -}}
- namespaceSelector: {}
{{- end -}}
{{- end -}}
{{- define "fedafd.metricsIngress" -}}
{{- if .Values.metrics.enabled -}}
- ports: [{port: metrics}]
  from: {{ include "fedafd.metricsFrom" . | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* To the collector of traces, where one is given. */}}
{{- define "fedafd.toCollector" -}}
{{- if .Values.tracing.endpoint -}}
- ports: [{port: {{ .Values.tracing.port }}}]
  {{- with .Values.tracing.collectorTo }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
