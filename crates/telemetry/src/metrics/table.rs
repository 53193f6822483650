//! Name, type, labels, meaning and buckets of every metric.

use std::fmt;

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// As scraped.
    pub name: &'static str,
    /// Type, and buckets of a histogram.
    pub kind: Kind,
    /// Names of the labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// The `HELP` line.
    pub help: &'static str,
}

/// The name: expressions are written with it.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Type of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Upper bounds of its buckets, rising.
    Histogram(&'static [f64]),
}

macro_rules! metrics {
    ($($constant:ident $name:literal $kind:expr, $labels:expr, $help:literal;)+) => {
        $(#[doc = $help] pub static $constant: Metric =
            Metric { name: $name, kind: $kind, labels: $labels, help: $help };)+
        /// The whole table.
        pub static ALL: &[&Metric] = &[$(&$constant),+];
    };
}

/// Metrics of the model server.
pub mod server {
    use super::{Kind, Metric};

    const MODEL: &[&str] = &["model_name"];
    /// vLLM's buckets of the time to the first token, in seconds.
    const TTFT: &[f64] = &[
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
        40.0, 80.0, 160.0, 640.0, 2560.0,
    ];
    /// vLLM's buckets of the time between tokens, in seconds.
    const TPOT: &[f64] = &[
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0,
        7.5, 10.0, 20.0, 40.0, 80.0,
    ];
    /// vLLM's buckets of whole requests and their phases, in seconds.
    const REQUEST: &[f64] = &[
        0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
        120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
    ];
    const TOKENS: &[f64] = &[
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
        50000.0, 100000.0,
    ];

    /// vLLM's buckets of the tokens of a step.
    const ITERATION: &[f64] =
        &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

    metrics! {
        REQUESTS_RUNNING "vllm:num_requests_running" Kind::Gauge, MODEL,
            "Requests being computed.";
        REQUESTS_WAITING "vllm:num_requests_waiting" Kind::Gauge, MODEL,
            "Requests accepted and not yet being computed.";
        KV_CACHE_USAGE "vllm:kv_cache_usage_perc" Kind::Gauge, MODEL,
            "Share of the KV cache in use by running requests, 0 to 1.";
        CACHE_CONFIG "vllm:cache_config_info" Kind::Gauge, &["model_name", "block_size", "num_gpu_blocks"],
            "Always 1; the labels tell the KV cache's block size in tokens and its number of blocks.";
        PROMPT_TOKENS "vllm:prompt_tokens_total" Kind::Counter, MODEL,
            "Prompt tokens of started requests.";
        GENERATION_TOKENS "vllm:generation_tokens_total" Kind::Counter, MODEL,
            "Generated tokens.";
        PREEMPTIONS "vllm:num_preemptions_total" Kind::Counter, MODEL,
            "Times a running request lost its KV blocks to another.";
        PREFIX_QUERIES "vllm:prefix_cache_queries_total" Kind::Counter, MODEL,
            "Prompt tokens looked up in the prefix cache.";
        PREFIX_HITS "vllm:prefix_cache_hits_total" Kind::Counter, MODEL,
            "Prompt tokens found in the prefix cache.";
        SPEC_DRAFTS "vllm:spec_decode_num_drafts_total" Kind::Counter, MODEL,
            "Times that tokens of a request were guessed for a step.";
        SPEC_DRAFT_TOKENS "vllm:spec_decode_num_draft_tokens_total" Kind::Counter, MODEL,
            "Guessed tokens that were computed.";
        SPEC_ACCEPTED_TOKENS "vllm:spec_decode_num_accepted_tokens_total" Kind::Counter, MODEL,
            "Guessed tokens that were right: each saved a request one step.";
        REQUEST_SUCCESS "vllm:request_success_total" Kind::Counter, &["model_name", "finished_reason"],
            "Finished choices by reason: stop, length, abort, error.";
        TTFT_SECONDS "vllm:time_to_first_token_seconds" Kind::Histogram(TTFT), MODEL,
            "Seconds from a request's arrival to its first token.";
        INTER_TOKEN_SECONDS "vllm:inter_token_latency_seconds" Kind::Histogram(TPOT), MODEL,
            "Seconds between two tokens of a choice.";
        TPOT_SECONDS "vllm:time_per_output_token_seconds" Kind::Histogram(TPOT), MODEL,
            "The same as vllm:inter_token_latency_seconds, under its older name.";
        E2E_SECONDS "vllm:e2e_request_latency_seconds" Kind::Histogram(REQUEST), MODEL,
            "Seconds from a request's arrival to the end of a choice.";
        QUEUE_SECONDS "vllm:request_queue_time_seconds" Kind::Histogram(REQUEST), MODEL,
            "Seconds that a choice waited before it was computed.";
        PREFILL_SECONDS "vllm:request_prefill_time_seconds" Kind::Histogram(REQUEST), MODEL,
            "Seconds from the start of computation to the first token.";
        DECODE_SECONDS "vllm:request_decode_time_seconds" Kind::Histogram(REQUEST), MODEL,
            "Seconds from the first to the last token.";
        INFERENCE_SECONDS "vllm:request_inference_time_seconds" Kind::Histogram(REQUEST), MODEL,
            "Seconds from the start of computation to the last token.";
        REQUEST_PROMPT_TOKENS "vllm:request_prompt_tokens" Kind::Histogram(TOKENS), MODEL,
            "Prompt tokens of a finished choice.";
        REQUEST_GENERATION_TOKENS "vllm:request_generation_tokens" Kind::Histogram(TOKENS), MODEL,
            "Generated tokens of a finished choice.";
        ITERATION_TOKENS "vllm:iteration_tokens_total" Kind::Histogram(ITERATION), MODEL,
            "Tokens computed in a step of the forward pass.";
        HTTP_REQUESTS "wharf_http_requests_total" Kind::Counter, &["endpoint", "status"],
            "HTTP responses by endpoint and status code.";
        HTTP_IN_FLIGHT "wharf_http_requests_in_flight" Kind::Gauge, &[],
            "Completion requests being answered, streams included.";
        HTTP_CONNECTIONS "wharf_http_connections" Kind::Gauge, &[],
            "Open client connections on the API ports.";
        TLS_RELOADS "wharf_tls_reloads_total" Kind::Counter, &["result"],
            "Reloads of the certificate by result: ok, error.";
        LOAD_SECONDS "wharf_model_load_seconds" Kind::Gauge, MODEL,
            "Seconds that loading the model took.";
        BUILD_INFO "wharf_build_info" Kind::Gauge, &["version", "commit"],
            "Always 1; the labels tell the build.";
    }
}

/// Metrics of the gateway.
pub mod gateway {
    use super::{Kind, Metric};

    const SERVICE: &[&str] = &["service"];
    const COLOUR: &[&str] = &["service", "colour"];
    /// From a cached token to a cold start, in seconds.
    const SECONDS: &[f64] = &[
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0,
        160.0, 320.0, 640.0,
    ];

    metrics! {
        REQUESTS "wharf_gateway_requests_total" Kind::Counter, &["service", "colour", "status"],
            "Requests that were let in and have ended, by the version that answered and the status; 499: the client left.";
        REQUEST_SECONDS "wharf_gateway_request_seconds" Kind::Histogram(SECONDS), COLOUR,
            "Seconds from a request's arrival to the end of its answer.";
        FIRST_BYTE_SECONDS "wharf_gateway_first_byte_seconds" Kind::Histogram(SECONDS), COLOUR,
            "Seconds from a request's arrival to the first byte of its answer: of a stream, its first token.";
        REFUSED "wharf_gateway_refused_total" Kind::Counter, &["reason"],
            "Requests that were not let in, by the error's code.";
        RETRIES "wharf_gateway_retries_total" Kind::Counter, &["service", "reason"],
            "Requests that went on to another endpoint: connect, broken, timeout, or the status.";
        HELD "wharf_gateway_held_total" Kind::Counter, SERVICE,
            "Requests that had to wait since no endpoint could take them.";
        HELD_SECONDS "wharf_gateway_held_seconds" Kind::Histogram(SECONDS), SERVICE,
            "Seconds that they waited.";
        IN_FLIGHT "wharf_gateway_in_flight" Kind::Gauge, SERVICE,
            "Requests at endpoints.";
        QUEUED "wharf_gateway_queued" Kind::Gauge, SERVICE,
            "Requests that wait since no endpoint can take them.";
        ENDPOINTS "wharf_gateway_endpoints" Kind::Gauge, &["service", "state"],
            "Endpoints by state: ready, broken, out.";
        PREFIX_CACHED "wharf_gateway_prefix_cached_ratio" Kind::Histogram(&[0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]), SERVICE,
            "Share of a prompt that the picked endpoint should have cached.";
        KEY_TOKENS "wharf_gateway_key_tokens_total" Kind::Counter, &["service", "key", "kind"],
            "Tokens by key: prompt, cached (of the prompt), completion.";
        USAGE_LINES_LOST "wharf_gateway_usage_lines_lost_total" Kind::Counter, &[],
            "Lines of the usage log that were lost since the disk was too slow or full.";
        PEERS "wharf_gateway_peers" Kind::Gauge, &["state"],
            "Other gateways by state: heard, missing (expected and not heard for six seconds).";
        PEER_REPORTS "wharf_gateway_peer_reports_total" Kind::Counter, &["result"],
            "Times that another gateway was asked what keys have used, by result: ok, unreachable, refused (it does not believe our secret), forged (we do not believe its), unreadable.";
        PEER_ASKS_REFUSED "wharf_gateway_peer_asks_refused_total" Kind::Counter, &[],
            "Times that somebody without the gateways' secret asked what keys have used.";
        CONNECTIONS "wharf_gateway_connections" Kind::Gauge, &[],
            "Open client connections.";
        TLS_RELOADS "wharf_gateway_tls_reloads_total" Kind::Counter, &["result"],
            "Reloads of the certificate by result: ok, error.";
        BUILD_INFO "wharf_build_info" Kind::Gauge, &["version", "commit"],
            "Always 1; the labels tell the build.";
    }
}

/// Metrics of the operator.
pub mod operator {
    use super::{Kind, Metric};

    const KIND: &[&str] = &["kind"];
    /// As gateways name it too: `namespace/name`.
    const SERVICE: &[&str] = &["service"];
    /// From a look that changes nothing to one that an API server keeps waiting, in seconds.
    const SECONDS: &[f64] =
        &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

    metrics! {
        LOOKS "wharf_operator_looks_total" Kind::Counter, &["kind", "result"],
            "Looks at objects by result: done, failed, race (somebody else wrote in between, or a watch was late; taken again at once).";
        LOOK_SECONDS "wharf_operator_look_seconds" Kind::Histogram(SECONDS), KIND,
            "Seconds that a look at an object took.";
        FAILURES "wharf_operator_failures_total" Kind::Counter, &["kind", "reason"],
            "Looks that failed, by the reason that the object's condition Applied has.";
        WATCH_FAILURES "wharf_operator_watch_failures_total" Kind::Counter, KIND,
            "Watches that broke off with an error and were begun again.";
        OBJECTS "wharf_operator_objects" Kind::Gauge, &["kind", "ready"],
            "Objects that are looked after, by whether their condition Ready holds.";
        EVENTS "wharf_operator_events_total" Kind::Counter, &["reason", "type"],
            "Events written about objects, by reason and type: Normal, Warning. Promoted and RolledBack are releases that ended so.";
        SCALED "wharf_operator_scaled_total" Kind::Counter, &["direction"],
            "Decisions of the autoscaler that were carried out, by direction: up, down, wake (from zero), sleep (to zero).";
        GATEWAYS "wharf_operator_gateways" Kind::Gauge, &[],
            "Gateways whose demand stream is followed.";
        SERVICE_PHASE "wharf_operator_service_phase" Kind::Gauge, &["service", "phase"],
            "1 for the phase that a service is in: Pending, Preparing, Starting, Ready, RollingOut, Idle, Degraded, Failed.";
        SERVICE_REPLICAS "wharf_operator_service_replicas" Kind::Gauge, &["service", "state"],
            "Replicas of a service: wanted, ready, starting.";
        SERVICE_BOUNDS "wharf_operator_service_replicas_bound" Kind::Gauge, &["service", "bound"],
            "Fewest and most replicas that the scaling of a service allows: fewest, most. Not there where nothing scales it.";
        SERVICE_TRAFFIC "wharf_operator_service_traffic_ratio" Kind::Gauge, &["service", "colour"],
            "Share of a service's traffic that a version should get, 0 to 1.";
        COLD_START "wharf_operator_service_cold_start_seconds" Kind::Gauge, &["service", "part"],
            "Seconds that the last replica to become ready took, by part: schedule, fetch, load, warm.";
        OWN_ALERTS "wharf_operator_service_own_alerts" Kind::Gauge, SERVICE,
            "1 where a service has objectives and alerts of its own (spec.observability.alerts).";
        RELEASE_PHASE "wharf_operator_release_phase" Kind::Gauge, &["service", "phase"],
            "1 for the phase that the release of a service is in: Idle, Preparing, Draining, Warming, Shifting, Verifying, Promoted, RollingBack, RolledBack, Failed.";
        RELEASE_SINCE "wharf_operator_release_since_timestamp_seconds" Kind::Gauge, SERVICE,
            "Since when the release of a service is in its phase; a new share of traffic begins anew.";
        RELEASE_PATIENCE "wharf_operator_release_patience_seconds" Kind::Gauge, SERVICE,
            "Seconds after which a phase of a service's release has taken too long: its deadline, and for a canary its longest step beside.";
        MODEL_STATE "wharf_operator_model_state" Kind::Gauge, &["model", "state"],
            "1 for how far a Model is: Pending, Fetching, Distilling, Quantizing, Evaluating, Ready, Failed.";
        GATE_REFUSED "wharf_operator_gate_refused" Kind::Gauge, &["kind", "name"],
            "Whether the quality gate of a service's own model or of a Model has refused what was made; there where there is a gate.";
        LEADER "wharf_operator_leader" Kind::Gauge, &[],
            "1 while this operator works, 0 while it stands by.";
        BUILD_INFO "wharf_build_info" Kind::Gauge, &["version", "commit"],
            "Always 1; the labels tell the build.";
    }
}

/// Metrics of the metrics API about itself.
pub mod metrics_api {
    use super::{Kind, Metric};

    metrics! {
        REQUESTS "wharf_metrics_api_requests_total" Kind::Counter, &["api", "status"],
            "Requests of the API server by API (custom, external, resource, discovery) and status.";
        HELD "wharf_metrics_api_held" Kind::Gauge, &["api", "state"],
            "1 for the state of each API that is to be served: held, taken (somebody else owns it), failed.";
        SCRAPES "wharf_metrics_api_scrapes_total" Kind::Counter, &["result"],
            "Times that a pod's metrics were read by result: ok, failed, unknown (they are no engine's that we know).";
        PODS "wharf_metrics_api_pods" Kind::Gauge, &[],
            "Pods that are read since somebody scales by them.";
        GATEWAYS "wharf_metrics_api_gateways" Kind::Gauge, &[],
            "Gateways whose demand stream is followed.";
        CERTIFICATE_END "wharf_metrics_api_certificate_end_timestamp_seconds" Kind::Gauge, &[],
            "When the certificate ends, in seconds since 1970. It is renewed a month before.";
        BUILD_INFO "wharf_build_info" Kind::Gauge, &["version", "commit"],
            "Always 1; the labels tell the build.";
    }
}

/// Metrics of the node agent about itself.
pub mod node {
    use super::{Kind, Metric};

    metrics! {
        READY "wharf_node_ready" Kind::Gauge, &["part"],
            "Whether a part of the agent does what it should: gpus, plugin, labels, pods, serving, tuning, preload.";
        DEVICES "wharf_node_devices" Kind::Gauge, &["resource", "state"],
            "Devices that are offered to kubelet by state: healthy, unhealthy.";
        XIDS "wharf_node_xid_errors_total" Kind::Counter, &["UUID", "xid", "class"],
            "XIDs that GPUs threw by class: program (a program's own mistake), passing, reset (only a reset helps).";
        REGISTRATIONS "wharf_node_registrations_total" Kind::Counter, &["resource", "result"],
            "Registrations with kubelet by result: ok, failed.";
        ALLOCATIONS "wharf_node_allocations_total" Kind::Counter, &["resource", "result"],
            "Times that kubelet allocated devices by result: ok, refused.";
        LABEL_WRITES "wharf_node_label_writes_total" Kind::Counter, &["result"],
            "Writes to the node by result: ok, failed.";
        TUNED "wharf_node_tuning_changes_total" Kind::Counter, &["setting", "result"],
            "Settings of GPUs that were changed or restored by result: ok, refused.";
        BUILD_INFO "wharf_build_info" Kind::Gauge, &["version", "commit"],
            "Always 1; the labels tell the build.";
    }
}

/// Metrics of GPUs, under dcgm-exporter's names, with its meaning and labels.
pub mod dcgm {
    use super::{Kind, Metric};

    /// `Hostname` is called as the configuration says. Labels without a value are left out.
    const LABELS: &[&str] = &[
        "gpu",
        "UUID",
        "pci_bus_id",
        "device",
        "modelName",
        "GPU_I_PROFILE",
        "GPU_I_ID",
        "Hostname",
        "DCGM_FI_DRIVER_VERSION",
        "container",
        "namespace",
        "pod",
        "vgpu",
    ];

    metrics! {
        SM_CLOCK "DCGM_FI_DEV_SM_CLOCK" Kind::Gauge, LABELS, "Clock of the multiprocessors, in MHz.";
        MEM_CLOCK "DCGM_FI_DEV_MEM_CLOCK" Kind::Gauge, LABELS, "Clock of the memory, in MHz.";
        MEMORY_TEMP "DCGM_FI_DEV_MEMORY_TEMP" Kind::Gauge, LABELS, "Temperature of the memory, in degrees Celsius.";
        GPU_TEMP "DCGM_FI_DEV_GPU_TEMP" Kind::Gauge, LABELS, "Temperature of the GPU, in degrees Celsius.";
        POWER_USAGE "DCGM_FI_DEV_POWER_USAGE" Kind::Gauge, LABELS, "Power drawn, in watts.";
        POWER_MGMT_LIMIT "DCGM_FI_DEV_POWER_MGMT_LIMIT" Kind::Gauge, LABELS, "Power that may be drawn, in watts.";
        TOTAL_ENERGY "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" Kind::Counter, LABELS,
            "Energy drawn since the driver was loaded, in millijoules.";
        PCIE_REPLAY "DCGM_FI_DEV_PCIE_REPLAY_COUNTER" Kind::Counter, LABELS, "Times that PCIe sent something again.";
        GPU_UTIL "DCGM_FI_DEV_GPU_UTIL" Kind::Gauge, LABELS, "Share of time that something was computed, in percent.";
        MEM_COPY_UTIL "DCGM_FI_DEV_MEM_COPY_UTIL" Kind::Gauge, LABELS,
            "Share of time that memory was read or written, in percent.";
        ENC_UTIL "DCGM_FI_DEV_ENC_UTIL" Kind::Gauge, LABELS, "Use of the encoder, in percent.";
        DEC_UTIL "DCGM_FI_DEV_DEC_UTIL" Kind::Gauge, LABELS, "Use of the decoder, in percent.";
        XID_ERRORS "DCGM_FI_DEV_XID_ERRORS" Kind::Gauge, LABELS, "The last XID since the agent started; 0 if there was none.";
        FB_FREE "DCGM_FI_DEV_FB_FREE" Kind::Gauge, LABELS, "Memory that is free, in MiB.";
        FB_USED "DCGM_FI_DEV_FB_USED" Kind::Gauge, LABELS, "Memory that programs use, in MiB.";
        FB_RESERVED "DCGM_FI_DEV_FB_RESERVED" Kind::Gauge, LABELS, "Memory that the driver uses, in MiB.";
        UNCORRECTABLE_ROWS "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS" Kind::Counter, LABELS,
            "Rows of memory that were replaced for errors that could not be corrected.";
        CORRECTABLE_ROWS "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS" Kind::Counter, LABELS,
            "Rows of memory that were replaced for errors that could be corrected.";
        ROW_REMAP_FAILURE "DCGM_FI_DEV_ROW_REMAP_FAILURE" Kind::Gauge, LABELS, "Whether a row could not be replaced.";
        ROW_REMAP_PENDING "DCGM_FI_DEV_ROW_REMAP_PENDING" Kind::Gauge, LABELS,
            "Whether rows will be replaced with the next reset.";
    }
}

/// Metrics of models that are served on a node, which its agent reads from their pods.
pub mod serving {
    use super::{Kind, Metric};

    /// `Hostname` is called as the configuration says. Labels without a value are left out.
    const LABELS: &[&str] = &["namespace", "pod", "service", "colour", "model_name", "Hostname"];
    const GPU: &[&str] =
        &["UUID", "container", "namespace", "pod", "service", "colour", "model_name", "Hostname"];

    metrics! {
        REQUESTS_RUNNING "wharf_model_requests_running" Kind::Gauge, LABELS, "Requests that a pod computes.";
        REQUESTS_WAITING "wharf_model_requests_waiting" Kind::Gauge, LABELS, "Requests that wait in a pod.";
        KV_CACHE_USAGE "wharf_model_kv_cache_usage_ratio" Kind::Gauge, LABELS,
            "Share of a pod's KV cache in use, 0 to 1; of several, the fullest.";
        REQUESTS_FINISHED "wharf_model_requests_finished_total" Kind::Counter, LABELS,
            "Requests that have ended since a pod's engine started.";
        GPU_INFO "wharf_model_gpu_info" Kind::Gauge, GPU,
            "Always 1; the labels tell which model computes on which GPU. UUID is the GPU's, also where a part of it is held.";
    }
}
