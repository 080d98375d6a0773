{{/* TLS of the aggregator's listener for agents. Probes get what they trust and, with mutual TLS, what they show. Distillers have
a listener of their own, whose certificates follow from the internal token. */}}
{{/* Where the aggregator's TLS comes from: "files", "own" (its built-in authority) or "off". */}}
{{- define "fedafd.aggregatorTls" -}}
{{- if .Values.aggregator.tls.existingSecret -}}files
{{- else if ne .Values.aggregator.tls.mode "auto" -}}{{ .Values.aggregator.tls.mode }}
{{- else if or .Values.ingress.grpc.enabled .Values.gateway.enabled -}}off
{{- else -}}own
{{- end -}}
{{- end -}}

{{- define "fedafd.tlsServerName" -}}
{{- default (printf "%s-aggregator" (include "fedafd.fullname" .)) .Values.aggregator.tls.serverName -}}
{{- end -}}

{{/* "yes" where a caller needs files. */}}
{{- define "fedafd.callerHasFiles" -}}
{{- with .Values.aggregator.tls -}}
{{- if and .existingSecret (or .caKey .clientSecret) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fedafd.callerMount" -}}
{{- if include "fedafd.callerHasFiles" . -}}
- {name: caller-tls, mountPath: /etc/fedafd/caller-tls, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "fedafd.callerVolume" -}}
{{- if include "fedafd.callerHasFiles" . -}}
- name: caller-tls
  projected:
    defaultMode: 0440
    sources:
      {{- with .Values.aggregator.tls }}
      {{- if .caKey }}
      - secret: {name: {{ .existingSecret | quote }}, items: [{key: {{ .caKey }}, path: ca.crt}]}
      {{- end }}
      {{- if .clientSecret }}
      - secret: {name: {{ .clientSecret | quote }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
      {{- end }}
      {{- end }}
{{- end -}}
{{- end -}}

{{/* A command that asks the aggregator for its health. Takes (dict "root" $ "host" HOST:PORT "service" NAME "timeout" SECONDS). */}}
{{- define "fedafd.askAggregator" -}}
{{- $tls := .root.Values.aggregator.tls -}}
- fedafd
- health
- --timeout
- {{ .timeout | quote }}
{{- if $tls.existingSecret }}
{{- if $tls.caKey }}
- --authorities
- /etc/fedafd/caller-tls/ca.crt
{{- end }}
{{- if $tls.clientSecret }}
- --certificate
- /etc/fedafd/caller-tls/tls.crt
- --key
- /etc/fedafd/caller-tls/tls.key
{{- end }}
- --server-name
- {{ include "fedafd.tlsServerName" .root }}
- grpcs://{{ .host }}/{{ .service }}
{{- else if eq (include "fedafd.aggregatorTls" .root) "own" }}
- --any-certificate
- grpcs://{{ .host }}/{{ .service }}
{{- else }}
- grpc://{{ .host }}/{{ .service }}
{{- end }}
{{- end -}}
