{{/* Whether the database is the trial's and not there yet: a hook before the install would wait for it in vain. */}}
{{- define "fedafd.databaseComesWithRelease" -}}
{{- if .Values.database.trial.enabled -}}
{{- if not (lookup "apps/v1" "StatefulSet" .Release.Namespace (printf "%s-postgresql" (include "fedafd.fullname" .))) -}}
yes
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The spec of the job. */}}
{{- define "fedafd.migrationSpec" -}}
backoffLimit: {{ .Values.migration.backoffLimit }}
activeDeadlineSeconds: {{ .Values.migration.activeDeadlineSeconds }}
template:
  metadata:
    labels: {{ include "fedafd.migration.labels" . | nindent 6 }}
  spec:
    # Not the release's ServiceAccount: a hook runs before it exists.
    automountServiceAccountToken: false
    enableServiceLinks: false
    restartPolicy: Never
    {{- with .Values.image.pullSecrets }}
    imagePullSecrets: {{ toYaml . | nindent 6 }}
    {{- end }}
    securityContext: {{ include "fedafd.podSecurity" (dict "uid" (include "fedafd.uid" .)) | nindent 6 }}
    containers:
      - name: migration
        image: {{ include "fedafd.image" (dict "root" . "image" .Values.controlPlane.image) }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [fedafd, migrate, --wait, "120"]
        env:
          {{- include "fedafd.secretEnv" (dict "name" "FEDAFD_DATABASE_URL" "secret" (include "fedafd.databaseSecret" .) "key" (include "fedafd.databaseUrlKey" .)) | nindent 10 }}
        resources: {{ toYaml .Values.migration.resources | nindent 10 }}
        securityContext: {{ include "fedafd.containerSecurity" . | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
    volumes:
      - name: tmp
        emptyDir: {}
{{- end -}}

{{/* Init container that waits until the database has this version's schema. Takes (dict "root" $ "image" IMAGE). */}}
{{- define "fedafd.waitForSchema" -}}
initContainers:
  - name: schema
    image: {{ include "fedafd.image" . }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [sh, -c, "until fedafd migrate current; do sleep 2; done"]
    env:
      {{- include "fedafd.secretEnv" (dict "name" "FEDAFD_DATABASE_URL" "secret" (include "fedafd.databaseSecret" .root) "key" (include "fedafd.databaseUrlKey" .root)) | nindent 6 }}
    resources: {{ toYaml .root.Values.migration.resources | nindent 6 }}
    securityContext: {{ include "fedafd.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
{{- end -}}
