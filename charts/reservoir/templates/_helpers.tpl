{{- define "reservoir.labels" -}}
app.kubernetes.io/name: reservoir
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Of an object with nothing special in its metadata but its name. */ -}}
{{- define "reservoir.metadata" -}}
namespace: {{ .Release.Namespace }}
labels: {{- include "reservoir.labels" . | nindent 2 }}
{{- with .Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "reservoir.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "reservoir.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:reservoir-agent
{{- end -}}

{{- define "reservoir.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:reservoir-controller
{{- end -}}
