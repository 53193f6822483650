{{/* Files of containers whose lines are shipped: NAME_NAMESPACE_CONTAINER-ID.log. */}}
{{- define "wharf.logs.paths" -}}
{{- $paths := list }}
{{- range .Values.logs.namespaces }}
{{- $paths = append $paths (printf "/var/log/containers/*_%s_*.log" .) }}
{{- end }}
{{- $paths | default (list "/var/log/containers/*.log") | join "," }}
{{- end }}

{{/* Its own lines are left out: one about a line that cannot be shipped would be the next such line. */}}
{{- define "wharf.logs.own" -}}/var/log/containers/*_{{ .Values.logs.namespace }}_*.log{{- end }}

{{- define "wharf.logs.fluentBit" -}}
{{- $output := .Values.logs.output }}
{{- $tls := eq $output.scheme "https" }}
service:
  flush: 1
  log_level: {{ .Values.logs.logLevel }}
  # Probes ask here; /api/v1/metrics/prometheus says what was shipped, tried again and dropped.
  http_server: on
  http_listen: 0.0.0.0
  http_port: 2020
  health_check: on
  # Chunks that are not shipped yet lie on the node's disk, so that neither a restart nor an output that is away for a while loses them.
  storage.path: /var/lib/wharf/logs/fluent-bit/storage
  storage.max_chunks_up: 32
  storage.backlog.mem_limit: 16M
pipeline:
  inputs:
    - name: tail
      tag: kube.*
      path: {{ include "wharf.logs.paths" . | quote }}
      exclude_path: {{ include "wharf.logs.own" . | quote }}
      # The CRI's format; joins lines that the runtime has cut at 16 KiB.
      multiline.parser: cri
      # Where it is in which file, so that a restart neither repeats nor skips.
      db: /var/lib/wharf/logs/fluent-bit/tail.db
      read_from_head: on
      refresh_interval: 5
      rotate_wait: 30
      buffer_max_size: 256k
      skip_long_lines: on
      storage.type: filesystem
  filters:
    - name: kubernetes
      match: kube.*
      kube_url: https://kubernetes.default.svc:443
      # A payload that is a JSON object becomes the record's fields.
      merge_log: on
      keep_log: off
      k8s-logging.parser: on
      k8s-logging.exclude: on
      annotations: off
      # With the default of 32k pods with long specs stay without their labels.
      buffer_size: 0
    # Text that is no JSON: the same name for both shippers.
    - name: modify
      match: kube.*
      rename: log message
      remove: _p
  outputs:
{{- if eq $output.type "stdout" }}
    - name: stdout
      match: "*"
      format: json_lines
{{- else if eq $output.type "http" }}
    - name: http
      match: "*"
      host: {{ $output.host | quote }}
      port: {{ int $output.port }}
      uri: {{ $output.path | quote }}
      format: json_lines
      json_date_format: iso8601
      json_date_key: "@timestamp"
{{- else }}
    - name: {{ ternary "opensearch" "es" (eq $output.type "opensearch") }}
      match: "*"
      host: {{ $output.host | quote }}
      port: {{ int $output.port }}
      logstash_format: on
      logstash_prefix: {{ $output.indexPrefix | quote }}
      # Labels with dots would be objects, and contradict labels that are their beginning.
      replace_dots: on
      suppress_type_name: on
      # An id of its own for each record: sent twice, it is there once.
      generate_id: on
      trace_error: on
      buffer_size: 64k
{{- end }}
{{- if ne $output.type "stdout" }}
{{- if $output.credentialsSecret }}
      http_user: ${OUTPUT_USER}
      http_passwd: ${OUTPUT_PASSWORD}
{{- end }}
      tls: {{ ternary "on" "off" $tls }}
{{- if $tls }}
      tls.verify: {{ ternary "on" "off" $output.verify }}
{{- if $output.caConfigMap }}
      tls.ca_file: /etc/wharf-logs-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}
      retry_limit: no_limits
      # What waits for the output at most; the oldest goes first.
      storage.total_limit_size: {{ .Values.logs.buffer | quote }}
{{- end }}

{{- define "wharf.logs.fluentd" -}}
{{- $output := .Values.logs.output -}}
<system>
  log_level {{ .Values.logs.logLevel }}
</system>

<label @FLUENT_LOG>
  <match fluent.**>
    @type null
  </match>
</label>

# Probes ask here.
<source>
  @type monitor_agent
  bind 0.0.0.0
  port 24220
  include_config false
</source>

<source>
  @type tail
  path "{{ include "wharf.logs.paths" . }}"
  exclude_path ["{{ include "wharf.logs.own" . }}"]
  # Where it is in which file, so that a restart neither repeats nor skips.
  pos_file /var/lib/wharf/logs/fluentd/tail.pos
  tag kubernetes.*
  read_from_head true
  refresh_interval 5
  <parse>
    # Not the image's default, which is Docker's. The payload is parsed below, when it is whole.
    @type cri
  </parse>
</source>

# Joins lines that the runtime has cut at 16 KiB.
<filter kubernetes.**>
  @type concat
  key message
  use_partial_cri_logtag true
  partial_cri_logtag_key logtag
  # Pieces of standard output and standard error come between each other.
  stream_identity_key stream
  # What is named here is taken out of the record, and `stream` is wanted there.
  partial_cri_stream_key _none_
  separator ""
  # The rest of a line may have been lost with its container.
  flush_interval 30
  timeout_label @WHOLE
</filter>
<match kubernetes.**>
  @type relabel
  @label @WHOLE
</match>

<label @WHOLE>
  <filter kubernetes.**>
    @type kubernetes_metadata
    kubernetes_url "#{ENV.fetch('KUBERNETES_URL', 'https://kubernetes.default.svc')}/api"
    skip_master_url true
    skip_container_metadata true
  </filter>
  # A payload that is a JSON object becomes the record's fields. Anything else stays `message`.
  <filter kubernetes.**>
    @type parser
    key_name message
    reserve_time true
    reserve_data true
    remove_key_name_field true
    emit_invalid_record_to_error false
    <parse>
      @type json
      # The runtime's time is the record's; `time` stays a field.
      time_key _no_time_
    </parse>
  </filter>
  # Labels with dots would be objects, and contradict labels that are their beginning.
  <filter kubernetes.**>
    @type dedot
    de_dot true
    de_dot_separator _
    de_dot_nested true
  </filter>
  <filter kubernetes.**>
    @type record_transformer
    remove_keys logtag,docker
  </filter>
{{- if eq $output.type "stdout" }}
  <match **>
    @type stdout
    <format>
      @type json
    </format>
  </match>
{{- else }}
  <match **>
    @type elasticsearch
    host "{{ $output.host }}"
    port {{ int $output.port }}
    scheme {{ $output.scheme }}
{{- if $output.credentialsSecret }}
    user "#{ENV['OUTPUT_USER']}"
    password "#{ENV['OUTPUT_PASSWORD']}"
{{- end }}
{{- if eq $output.scheme "https" }}
    ssl_verify {{ $output.verify }}
    ssl_min_version TLSv1_2
    ssl_max_version TLSv1_3
{{- if $output.caConfigMap }}
    ca_file /etc/wharf-logs-ca/ca.crt
{{- end }}
{{- end }}
    logstash_format true
    logstash_prefix "{{ $output.indexPrefix }}"
    suppress_type_name true
    # Asking for the version would keep it from starting, and from reading, while Elasticsearch is away.
    verify_es_version_at_startup false
    default_elasticsearch_version 8
    time_key_exclude_timestamp false
    reconnect_on_error true
    reload_on_failure true
    reload_connections false
    request_timeout 15s
    log_es_400_reason true
    <buffer>
      @type file
      path /var/lib/wharf/logs/fluentd/buffer
      chunk_limit_size 8M
      total_limit_size {{ .Values.logs.buffer }}
      # `block` would keep old lines and let kubelet rotate the new ones away unread: those of the incident that one looks for.
      overflow_action drop_oldest_chunk
      flush_mode interval
      flush_interval 5s
      flush_thread_count 2
      retry_type exponential_backoff
      retry_max_interval 30s
      retry_forever true
    </buffer>
  </match>
{{- end }}
</label>
{{- end }}

{{- define "wharf.logs.config" -}}
{{- if eq .Values.logs.shipper "fluentd" }}
{{- include "wharf.logs.fluentd" . }}
{{- else }}
{{- include "wharf.logs.fluentBit" . | trim }}
{{- end }}
{{- end }}
