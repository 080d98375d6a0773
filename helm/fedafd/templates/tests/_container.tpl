{{- define "fedafd.testContainer" -}}
image: {{ include "fedafd.image" (dict "root" . "image" .Values.controlPlane.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi}}
securityContext: {{ include "fedafd.containerSecurity" . | nindent 2 }}
{{- end -}}
