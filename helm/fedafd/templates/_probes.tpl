{{/* The aggregator answers gRPC's standard health protocol. The kubelet speaks it too, but not over TLS: then the
     image's own `fedafd health` asks, less often, since each time a Python starts. With TLS of its own the aggregator
     answers about its health, and nothing else, on a port without. */}}
{{- define "fedafd.aggregatorProbes" -}}
{{- if .Values.aggregator.tls.existingSecret -}}
{{- $ask := dict "root" . "host" "127.0.0.1:7443" "timeout" 8 -}}
startupProbe:
  exec:
    command: {{ include "fedafd.askAggregator" (merge (dict "service" "liveness") $ask) | nindent 6 }}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 24
livenessProbe:
  exec:
    command: {{ include "fedafd.askAggregator" (merge (dict "service" "liveness") $ask) | nindent 6 }}
  periodSeconds: 60
  timeoutSeconds: 10
readinessProbe:
  exec:
    command: {{ include "fedafd.askAggregator" (merge (dict "service" "") $ask) | nindent 6 }}
  periodSeconds: 15
  timeoutSeconds: 10
{{- else -}}
{{- $port := ternary 7445 7443 (eq (include "fedafd.aggregatorTls" .) "own") -}}
startupProbe:
  grpc: {port: {{ $port }}, service: liveness}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  grpc: {port: {{ $port }}, service: liveness}
  periodSeconds: 15
  timeoutSeconds: 5
readinessProbe:
  grpc: {port: {{ $port }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}
{{- end -}}
