{{- define "reservoir.labels" -}}
app.kubernetes.io/name: reservoir
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "reservoir.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "reservoir.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:reservoir-agent
{{- end -}}
