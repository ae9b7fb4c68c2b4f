{{/* The parts that all pods of the chart share: user, permissions, settings, probes and placement. */}}

{{- define "carillon.podSecurity" -}}
automountServiceAccountToken: false
# Service links would set CARILLON_* variables, which the binary refuses as unknown settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Arguments: root, role, command (a list). The container without its ports, probes and resources. */}}
{{- define "carillon.container" -}}
{{- $values := .root.Values -}}
name: {{ .role }}
image: {{ include "carillon.image" .root | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
args: {{ concat .command (list "--config" "/etc/carillon/carillon.toml") | mustToJson }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- with include "carillon.env" . | trim }}
env:
  {{- . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: settings
    mountPath: /etc/carillon
    readOnly: true
{{- end -}}

{{/* Arguments: root, role. Only gateways check tokens and API keys, so only gateways get the secrets. */}}
{{- define "carillon.env" -}}
{{- $values := .root.Values -}}
{{- if eq .role "gateway" }}
- name: AUTH_SECRET
  valueFrom:
    secretKeyRef: {name: {{ include "carillon.secretName" .root }}, key: AUTH_SECRET}
- name: AUTH_SECRET_PREVIOUS
  valueFrom:
    secretKeyRef: {name: {{ include "carillon.secretName" .root }}, key: AUTH_SECRET_PREVIOUS, optional: true}
- name: CARILLON_API__KEYS
  valueFrom:
    secretKeyRef: {name: {{ include "carillon.secretName" .root }}, key: CARILLON_API__KEYS, optional: true}
{{- end }}
{{- with $values.nats.urlSecret }}
{{- if .name }}
- name: NATS_URL
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: port. A start may take 60 s. After that a failing pod becomes unready after 6 s, and is restarted only
if /livez fails for 60 s. */}}
{{- define "carillon.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* Arguments: root, role, values (of the role). The nodes on which the role's pods may run. */}}
{{- define "carillon.placement" -}}
{{- with .root.Values.topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  {{- range $topologyKey := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $topologyKey }}
    whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "carillon.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with get $.values $field }}
{{ $field }}: {{ mustToJson . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Arguments: root, role, values, port, portName, command, preStopSeconds, replicas (absent if there is a
HorizontalPodAutoscaler). */}}
{{- define "carillon.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "carillon.fullname" $root }}-{{ .role }}
  labels:
    {{- include "carillon.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  strategy:
    type: RollingUpdate
    # One pod at a time, and the new one starts first: clients and partitions move step by step, and capacity stays.
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels:
      {{- include "carillon.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "carillon.selector" . | nindent 8 }}
        {{- with .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/settings: {{ include "carillon.toml" $root | sha256sum }}
        checksum/auth: {{ mustToJson $root.Values.auth | sha256sum }}
        {{- if and $root.Values.metrics.annotations (not $root.Values.metrics.podMonitor.enabled) }}
        prometheus.io/scrape: "true"
        prometheus.io/port: {{ .port | quote }}
        prometheus.io/path: /metrics
        {{- end }}
        {{- with .values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "carillon.serviceAccountName" $root }}
      {{- include "carillon.podSecurity" $root | nindent 6 }}
      # preStop, the drain, and ten seconds more, so that SIGKILL never interrupts a drain.
      terminationGracePeriodSeconds: {{ add .preStopSeconds $root.Values.drainTimeoutSeconds 10 }}
      {{- with include "carillon.placement" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - {{ include "carillon.container" . | nindent 10 | trim }}
          ports:
            - name: {{ .portName }}
              containerPort: {{ .port }}
          {{- include "carillon.probes" .portName | nindent 10 }}
          {{- if .preStopSeconds }}
          lifecycle:
            preStop:
              sleep: {seconds: {{ .preStopSeconds }}}
          {{- end }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
      volumes:
        - name: settings
          configMap:
            name: {{ include "carillon.fullname" $root }}
{{- end -}}

{{/* Arguments: root, role, values. */}}
{{- define "carillon.podDisruptionBudget" -}}
{{- if .values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "carillon.fullname" .root }}-{{ .role }}
  labels:
    {{- include "carillon.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  # A pod that is not ready serves no clients and must not block the drain of its node.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "carillon.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}
