{{/* The upper federation's aggregator, and its port for the NetworkPolicy. */}}
{{- define "fedafd.upperAddress" -}}
{{- $address := required "region: set region.aggregator to host:port of the upper federation's aggregator" .Values.region.aggregator -}}
{{- if not (regexMatch "^[^:/ ]+:[0-9]+$" $address) -}}
{{- fail (printf "region.aggregator: %q is not host:port" $address) -}}
{{- end -}}
{{ $address }}
{{- end -}}
{{- define "fedafd.upperPort" -}}
{{ include "fedafd.upperAddress" . | splitList ":" | last }}
{{- end -}}

{{/* region.yaml. */}}
{{- define "fedafd.regionYaml" -}}
{{- $config := dict "aggregator" (include "fedafd.upperAddress" .) "state_dir" "/var/lib/fedafd/state" }}
{{- with .Values.region }}
{{- $_ := set $config "federation" (required "region: set region.federation to the region's own federation" .federation) }}
{{- $_ := set $config "deadline_share" .deadlineShare }}
{{- with .tls }}
{{- if .enabled }}
{{- $tls := dict }}
{{- if .caSecret }}{{ $_ := set $tls "authorities" "/etc/fedafd/tls/ca.crt" }}{{ end }}
{{- if .serverName }}{{ $_ := set $tls "server_name" .serverName }}{{ end }}
{{- if or .publicAuthorities $tls }}{{ $_ := set $config "tls" $tls }}{{ end }}
{{- else }}
{{- $_ := set $config "plaintext" true }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end -}}
