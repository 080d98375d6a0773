{{/* Which Secret holds what: the one given, or the one that the chart generates. Each stops with what to set. */}}
{{- define "fedafd.generatedSecret" -}}{{ include "fedafd.fullname" . }}-generated{{- end -}}

{{- define "fedafd.authSecret" -}}
{{- if .Values.auth.existingSecret -}}{{ .Values.auth.existingSecret }}
{{- else if .Values.auth.generate -}}{{ include "fedafd.generatedSecret" . }}
{{- else -}}
{{- fail "auth: set auth.existingSecret to a Secret with the keys admin-key and internal-token, or auth.generate=true for a trial" -}}
{{- end -}}
{{- end -}}
{{- define "fedafd.adminKeyKey" -}}
{{- ternary .Values.auth.adminKeyKey "admin-key" (ne .Values.auth.existingSecret "") -}}
{{- end -}}
{{- define "fedafd.internalTokenKey" -}}
{{- ternary .Values.auth.internalTokenKey "internal-token" (ne .Values.auth.existingSecret "") -}}
{{- end -}}

{{- define "fedafd.databaseSecret" -}}
{{- if and .Values.database.existingSecret .Values.database.trial.enabled -}}
{{- fail "database: set database.existingSecret or database.trial.enabled, not both" -}}
{{- else if .Values.database.trial.enabled -}}{{ include "fedafd.generatedSecret" . }}
{{- else if .Values.database.existingSecret -}}{{ .Values.database.existingSecret }}
{{- else -}}
{{- fail "database: set database.existingSecret to a Secret with the key url (postgresql://...), or database.trial.enabled=true for a trial" -}}
{{- end -}}
{{- end -}}
{{- define "fedafd.databaseUrlKey" -}}
{{- ternary "database-url" .Values.database.urlKey .Values.database.trial.enabled -}}
{{- end -}}

{{- define "fedafd.redisSecret" -}}
{{- if and .Values.redis.existingSecret .Values.redis.trial.enabled -}}
{{- fail "redis: set redis.existingSecret or redis.trial.enabled, not both" -}}
{{- else if .Values.redis.trial.enabled -}}{{ include "fedafd.generatedSecret" . }}
{{- else if .Values.redis.existingSecret -}}{{ .Values.redis.existingSecret }}
{{- else -}}
{{- fail "redis: set redis.existingSecret to a Secret with the key url (redis://...), or redis.trial.enabled=true for a trial" -}}
{{- end -}}
{{- end -}}
{{- define "fedafd.redisUrlKey" -}}
{{- ternary "redis-url" .Values.redis.urlKey .Values.redis.trial.enabled -}}
{{- end -}}

{{/* Takes (dict "root" $ "own" SECRET). */}}
{{- define "fedafd.storeSecret" -}}
{{- $store := .root.Values.objectStore -}}
{{- if $store.trial.enabled -}}
{{- if or .own $store.existingSecret -}}
{{- fail "objectStore: with objectStore.trial.enabled the chart makes the access keys; leave existingSecret and objectStoreSecret empty" -}}
{{- end -}}
{{ include "fedafd.generatedSecret" .root }}
{{- else if or .own $store.existingSecret -}}{{ default $store.existingSecret .own }}
{{- else -}}
{{- fail "objectStore: set objectStore.existingSecret to a Secret with the keys access-key and secret-key, or objectStore.trial.enabled=true for a trial" -}}
{{- end -}}
{{- end -}}

{{- define "fedafd.storeEndpoint" -}}
{{- if .Values.objectStore.trial.enabled -}}{{ include "fedafd.fullname" . }}-minio:9000
{{- else -}}{{ required "objectStore: set objectStore.endpoint to host:port of the S3 service" .Values.objectStore.endpoint }}
{{- end -}}
{{- end -}}

{{/* The environment that says where the stores are. Takes (dict "root" $ "prefix" PREFIX "values" COMPONENT "who" NAME
     "database" BOOL). What is no secret is in the ConfigMap, see fedafd.storeSettings. */}}
{{- define "fedafd.storesEnv" -}}
{{- $trial := .root.Values.objectStore.trial.enabled -}}
{{- $store := include "fedafd.storeSecret" (dict "root" .root "own" .values.objectStoreSecret) -}}
{{- if .database -}}
{{ include "fedafd.secretEnv" (dict "name" (printf "%s_DATABASE_URL" .prefix) "secret" (include "fedafd.databaseSecret" .root) "key" (include "fedafd.databaseUrlKey" .root)) }}
{{ end -}}
{{ include "fedafd.secretEnv" (dict "name" (printf "%s_REDIS_URL" .prefix) "secret" (include "fedafd.redisSecret" .root) "key" (include "fedafd.redisUrlKey" .root)) }}
{{ include "fedafd.secretEnv" (dict "name" (printf "%s_STORE__ACCESS_KEY" .prefix) "secret" $store "key" (ternary (printf "%s-access-key" .who) .root.Values.objectStore.accessKeyKey $trial)) }}
{{ include "fedafd.secretEnv" (dict "name" (printf "%s_STORE__SECRET_KEY" .prefix) "secret" $store "key" (ternary (printf "%s-secret-key" .who) .root.Values.objectStore.secretKeyKey $trial)) }}
{{- end -}}

{{/* Takes (dict "root" $ "prefix" PREFIX). */}}
{{- define "fedafd.storeSettings" -}}
{{ .prefix }}_STORE__URL: {{ printf "s3://%s" .root.Values.objectStore.bucket | quote }}
{{ .prefix }}_STORE__ENDPOINT: {{ include "fedafd.storeEndpoint" .root | quote }}
{{ .prefix }}_STORE__SECURE: {{ ternary "false" (toString .root.Values.objectStore.secure) .root.Values.objectStore.trial.enabled | quote }}
{{- with .root.Values.objectStore.region }}
{{ $.prefix }}_STORE__REGION: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The token that aggregator and distiller share. Takes (dict "root" $ "prefix" PREFIX). */}}
{{- define "fedafd.internalTokenEnv" -}}
{{ include "fedafd.secretEnv" (dict "name" (printf "%s_INTERNAL_TOKEN" .prefix) "secret" (include "fedafd.authSecret" .root) "key" (include "fedafd.internalTokenKey" .root)) }}
{{- end -}}

{{/* Where distillers call. */}}
{{- define "fedafd.distillersAddress" -}}
{{ include "fedafd.fullname" . }}-aggregator-internal:7444
{{- end -}}

{{- define "fedafd.aggregatorAddress" -}}
{{ include "fedafd.fullname" . }}-aggregator:{{ .Values.aggregator.service.port }}
{{- end -}}

{{/* OpenTelemetry's own variables, for the ConfigMap. */}}
{{- define "fedafd.tracingSettings" -}}
{{- with .Values.tracing -}}
{{- if .endpoint -}}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ .endpoint | quote }}
OTEL_EXPORTER_OTLP_PROTOCOL: {{ .protocol | quote }}
OTEL_TRACES_SAMPLER: parentbased_traceidratio
OTEL_TRACES_SAMPLER_ARG: {{ .sampledShare | quote }}
{{- end -}}
{{- end -}}
{{- end -}}
