{{/* Definitions that several templates use: names, labels, checks of the values, and the text of carillon.toml. */}}

{{- define "carillon.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "carillon.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: carillon
{{ include "carillon.instance" . }}
{{- end -}}

{{- define "carillon.instance" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Arguments: root, role. The labels that select a role's pods. They must never change, because the selector of a
Deployment is immutable. */}}
{{- define "carillon.selector" -}}
{{ include "carillon.instance" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "carillon.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "carillon.serviceAccountName" -}}
{{- $own := ternary (include "carillon.fullname" .) "default" .Values.serviceAccount.create -}}
{{ default $own .Values.serviceAccount.name }}
{{- end -}}

{{- define "carillon.secretName" -}}
{{ default (include "carillon.fullname" .) .Values.auth.existingSecret }}
{{- end -}}

{{/* Checks the values that depend on each other, which values.schema.json cannot do. It fails with an explanation. */}}
{{- define "carillon.check" -}}
{{- if not .Values.nats.urlSecret.name -}}
{{- $_ := required "nats.url is required: the address of your NATS servers, for example nats://nats.messaging:4222 (or nats.urlSecret.name)" .Values.nats.url -}}
{{- end -}}
{{- if not .Values.scylla.nodes -}}
{{- fail "scylla.nodes is required: at least one host:port of your ScyllaDB cluster, for example scylla-client.database:9042" -}}
{{- end -}}
{{- $auth := .Values.auth -}}
{{- if and $auth.existingSecret (or $auth.secret $auth.previousSecret $auth.apiKeys) -}}
{{- fail "auth.existingSecret excludes auth.secret, auth.previousSecret and auth.apiKeys: put these into that Secret" -}}
{{- end -}}
{{- if not (or $auth.existingSecret $auth.secret) -}}
{{- fail "auth.existingSecret or auth.secret is required: tokens are signed with it (openssl rand -hex 32 makes one)" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts is required where ingress.enabled is true" -}}
{{- end -}}
{{- if gt (int .Values.gateway.autoscaling.minReplicas) (int .Values.gateway.autoscaling.maxReplicas) -}}
{{- fail "gateway.autoscaling.minReplicas is above maxReplicas" -}}
{{- end -}}
{{- end -}}

{{/* Arguments: table, path. Renders a TOML table and its subtables. JSON's scalars and lists are also valid TOML. */}}
{{- define "carillon.tomlTable" -}}
{{- range $key, $value := .table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "carillon.tomlKey" $key }} = {{ mustToJson $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value -}}
{{- $path := append $.path (include "carillon.tomlKey" $key) }}

[{{ join "." $path }}]
{{- include "carillon.tomlTable" (dict "table" $value "path" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "carillon.tomlKey" -}}
{{ regexMatch "^[A-Za-z0-9_-]+$" . | ternary . (quote .) }}
{{- end -}}

{{/* carillon.toml: the user's settings, and the settings that the chart decides, which override the user's. It contains
no secrets. */}}
{{- define "carillon.toml" -}}
{{- include "carillon.check" . -}}
{{- $nats := omit .Values.nats "urlSecret" "url" -}}
{{- if not .Values.nats.urlSecret.name -}}{{- $nats = set $nats "url" .Values.nats.url -}}{{- end -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $_ := set $settings "listen" "0.0.0.0:8000" -}}
{{- $_ := set $settings "drain_timeout" .Values.drainTimeoutSeconds -}}
{{- $_ := set $settings "nats" $nats -}}
{{- $_ := set $settings "scylla" .Values.scylla -}}
# Settings of every role of this release; secrets come by environment.
{{- include "carillon.tomlTable" (dict "table" $settings "path" list) }}
{{ end -}}
