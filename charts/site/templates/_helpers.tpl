{{- define "site.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "site.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The files that are served: every page below the title and the banners that there are. */ -}}
{{- define "site.files" -}}
{{- $banners := (lookup "site.example.io/v1" "Banner" .Release.Namespace "").items | default list -}}
{{- range $name, $text := .Values.pages }}
{{ $name }}: |
  <html><head><title>{{ $.Values.title }}</title></head><body>
  <h1>{{ $.Values.title }}</h1>
  {{- range $banners }}
  <p class="banner">{{ .spec.text }}</p>
  {{- end }}
  {{- $text | trim | nindent 2 }}
  </body></html>
{{- end }}
{{- end }}

{{- /* The Service's address as its pods' environment has it: no cluster DNS is needed. */ -}}
{{- define "site.address" -}}
{{- $name := .Release.Name | upper | replace "-" "_" -}}
http://${{ $name }}_SERVICE_HOST:${{ $name }}_SERVICE_PORT
{{- end }}
