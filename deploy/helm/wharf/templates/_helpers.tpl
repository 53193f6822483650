{{/* Name of the release's objects. */}}
{{- define "wharf.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "wharf.operator.name" -}}{{ include "wharf.fullname" . }}-operator{{- end }}
{{- define "wharf.nodeAgent.name" -}}{{ include "wharf.fullname" . }}-node-agent{{- end }}
{{- define "wharf.metricsApi.name" -}}{{ include "wharf.fullname" . }}-metrics-api{{- end }}
{{- define "wharf.logs.name" -}}{{ include "wharf.fullname" . }}-logs{{- end }}
{{- define "wharf.gateway.name" -}}{{ include "wharf.fullname" . }}-gateway{{- end }}

{{/* Headless: every gateway's address, ready or not. */}}
{{- define "wharf.gateway.peers" -}}{{ include "wharf.gateway.name" . }}-peers{{- end }}

{{- define "wharf.operator.account" -}}
{{- .Values.operator.serviceAccount.name | default (ternary (include "wharf.operator.name" .) "default" .Values.operator.serviceAccount.create) }}
{{- end }}
{{- define "wharf.gateway.account" -}}
{{- .Values.gateway.serviceAccount.name | default (ternary (include "wharf.gateway.name" .) "default" .Values.gateway.serviceAccount.create) }}
{{- end }}

{{/* Labels of everything. */}}
{{- define "wharf.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels by which the pods of a component are found; operator and network policies know them too. */}}
{{- define "wharf.operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}
{{- define "wharf.gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "wharf.nodeAgent.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node-agent
{{- end }}

{{- define "wharf.metricsApi.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: metrics-api
{{- end }}

{{/* Its rights, with its own name, and of the APIs that are asked for. */}}
{{- define "wharf.metricsApi.rules" -}}
{{- $services := dict "custom" "v1beta2.custom.metrics.k8s.io" "external" "v1beta1.external.metrics.k8s.io" "resource" "v1beta1.metrics.k8s.io" }}
{{- $names := list }}
{{- range .Values.metricsApi.apis }}{{ $names = append $names (get $services .) }}{{ end }}
{{- $resource := has "resource" .Values.metricsApi.apis }}
{{- $own := list (include "wharf.metricsApi.name" .) }}
{{- range .Files.Get "files/metrics-api-rules.yaml" | fromYamlArray }}
{{- $rule := deepCopy . }}
{{- if and .resourceNames (has "apiservices" .resources) }}{{ $_ := set $rule "resourceNames" $names }}{{ end }}
{{- if has "clusterroles" .resources }}{{ $_ := set $rule "resourceNames" $own }}{{ end }}
{{- if or $resource (not (or (has "nodes" .resources) (has "nodes/metrics" .resources))) }}
- {{ toYaml $rule | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- define "wharf.logs.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: logs
{{- end }}

{{/* The node agent's --config, and the port in it. */}}
{{- define "wharf.nodeAgent.config" -}}
{{- toYaml (mergeOverwrite (dict "exporter" (dict "port" 9100)) (deepCopy .Values.nodeAgent.config)) }}
{{- end }}
{{- define "wharf.nodeAgent.port" -}}
{{- int (include "wharf.nodeAgent.config" . | fromYaml).exporter.port }}
{{- end }}

{{/* Its rights: pods only where it tells of models. */}}
{{- define "wharf.nodeAgent.serving" -}}
{{- if (include "wharf.nodeAgent.config" . | fromYaml).exporter.serving }}true{{ end }}
{{- end }}
{{- define "wharf.nodeAgent.rules" -}}
{{- $serving := include "wharf.nodeAgent.serving" . }}
{{- range .Files.Get "files/node-agent-rules.yaml" | fromYamlArray }}
{{- if or $serving (not (has "pods" .resources)) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- define "wharf.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The operator's --settings. What is not said here has its default in the binary. */}}
{{- define "wharf.operator.settings" -}}
{{- $peer := dict "namespace" .Release.Namespace }}
{{- $gateway := merge (dict "pods" (include "wharf.gateway.selector" . | fromYaml)) $peer }}
{{- $operator := merge (dict "pods" (include "wharf.operator.selector" . | fromYaml)) $peer }}
{{- $metrics := merge (dict "pods" (include "wharf.metricsApi.selector" . | fromYaml)) $peer }}
{{- $agents := dict "namespace" .Values.nodeAgent.namespace "pods" (include "wharf.nodeAgent.selector" . | fromYaml) }}
{{- $settings := dict "image" (include "wharf.image" .) "gateway" $gateway "operator" $operator "dns" .Values.networkPolicy.dns }}
{{- $_ := set $settings "metricsApi" $metrics }}
{{- $_ := set $settings "nodeAgents" $agents }}
{{- if and .Values.nodeAgent.enabled (include "wharf.nodeAgent.serving" .) }}{{ $_ := set $settings "servingMetrics" true }}{{ end }}
{{- $_ := set $settings "scalerAddress" (printf "%s.%s.svc:9003" (include "wharf.metricsApi.name" .) .Release.Namespace) }}
{{- toYaml (mergeOverwrite $settings (deepCopy .Values.operator.settings)) }}
{{- end }}

{{/* The gateway's --config. Ports are always in it, because Services, probes and policies name them. */}}
{{- define "wharf.gateway.config" -}}
{{- $config := dict "host" "0.0.0.0" "port" 8000 "httpsPort" 8443 "metricsPort" 8002 }}
{{- if .Values.gateway.apiKeys.secretName }}
{{- $_ := set $config "apiKeys" "/etc/wharf-keys" }}
{{- end }}
{{- if .Values.gateway.tls.secretName }}
{{- $_ := set $config "tlsCert" "/etc/wharf-tls/tls.crt" }}
{{- $_ := set $config "tlsKey" "/etc/wharf-tls/tls.key" }}
{{- end }}
{{- with .Values.monitoring.prometheusEndpoint }}
{{- $_ := set $config "prometheus" . }}
{{- end }}
{{- $config = mergeOverwrite $config (deepCopy .Values.gateway.config) }}
{{- if and .Values.gateway.peers.secretName (not (hasKey $config "peers")) }}
{{- $addresses := list (printf "%s.%s.svc:%d" (include "wharf.gateway.peers" .) .Release.Namespace (int $config.metricsPort)) }}
{{- $_ := set $config "peers" (dict "addresses" $addresses "keyFile" "/etc/wharf-peers/peers.key") }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The operator's rights on what it looks after. Leases lie in its own namespace and are not among them. */}}
{{- define "wharf.operator.rules" -}}
{{- $foresees := and .Values.operator.settings.foreseeRoom (not .Values.watchNamespace) }}
{{- range .Files.Get "files/operator-rules.yaml" | fromYamlArray }}
{{- if not (or (has "coordination.k8s.io" .apiGroups) (and (has "nodes" .resources) (not $foresees))) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}
{{- define "wharf.operator.lease" -}}
{{- range .Files.Get "files/operator-rules.yaml" | fromYamlArray }}
{{- if has "coordination.k8s.io" .apiGroups }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{/* What `restricted` of the Pod Security Standards asks of a pod and of a container, and a root that cannot be written. */}}
{{- define "wharf.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "wharf.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{/* Where pods may run: takes the values of a component. */}}
{{- define "wharf.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* OpenTelemetry's variables, where a collector is named. */}}
{{- define "wharf.tracing.env" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .ratio | quote }}}
{{- if .headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ .headersSecret }}, key: headers}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The collector's port. Its address may be a name in the cluster or outside. */}}
{{- define "wharf.tracing.port" -}}
{{- $url := urlParse .Values.tracing.endpoint }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}

{{/* Rules of egress that both have: names, the API server, and what the values add. */}}
{{- define "wharf.egress" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.dns.namespace }}}}
      podSelector:
        matchLabels: {{- toYaml .Values.networkPolicy.dns.pods | nindent 10 }}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
- ports:
{{- range .Values.networkPolicy.apiServerPorts }}
    - {protocol: TCP, port: {{ int . }}}
{{- end }}
# Model servers listen where their engine does.
- to:
    - namespaceSelector: {{ ternary (printf "{matchLabels: {kubernetes.io/metadata.name: %s}}" .Values.watchNamespace) "{}" (ne .Values.watchNamespace "") }}
      podSelector: {matchLabels: {wharf.dev/part: server}}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* To the Prometheus that is asked, if one is. */}}
{{- define "wharf.egress.prometheus" -}}
{{- if .Values.monitoring.prometheusEndpoint }}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.monitoring.prometheusNamespace }}}}
{{- end }}
{{- end }}
