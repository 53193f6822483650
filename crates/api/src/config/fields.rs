//! Every field of [`ServeConfig`]: name, type, default, meaning, and the file it is written in.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::types::{ByteSize, CpuPinning, Device, KvCacheDtype, LogFormat, Secret, Speculation};

/// The user's file that a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `server_config.yaml`, under `server:`.
    Server,
    /// `model_config.json`.
    Model,
}

/// What is known about one field without a configuration at hand.
#[derive(Debug)]
pub struct Field {
    /// As in the files; the flag has dashes for underscores.
    pub name: &'static str,
    /// The Rust type, `Option` meaning that it may be left out.
    pub rust_type: &'static str,
    /// The doc comment.
    pub doc: &'static str,
    /// Where it is written.
    pub section: Section,
    /// A second environment variable beside `WHARF_<NAME>`.
    pub env_alias: Option<&'static str>,
    /// Fails with a sentence when a value is not of the field's type.
    pub(super) check: fn(&Value) -> Result<(), String>,
}

impl Field {
    /// `WHARF_<NAME>`.
    pub fn env(&self) -> String {
        format!("WHARF_{}", self.name.to_ascii_uppercase())
    }

    /// `--name-with-dashes`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}

macro_rules! serve_config {
    ($($(#[doc = $doc:literal])+ $section:ident $($alias:literal)? $name:ident: $type:ty = $default:expr;)+) => {
        /// Everything that a model server is told. Made by [`super::resolve`], which has checked it whole.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct ServeConfig {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for ServeConfig {
            fn default() -> Self {
                ServeConfig { $($name: $default,)+ }
            }
        }

        /// One entry per field, in the struct's order.
        pub static FIELDS: &[Field] = &[$(Field {
            name: stringify!($name),
            rust_type: stringify!($type),
            doc: concat!($($doc, "\n"),+),
            section: Section::$section,
            env_alias: serve_config!(@alias $($alias)?),
            check: |value| serde_json::from_value::<$type>(value.clone()).map(drop).map_err(|e| e.to_string()),
        },)+];

        impl ServeConfig {
            /// Takes each field from `value_of`, or its default. Values that are not of the field's type count
            /// as absent: [`Field::check`] has refused them before.
            pub(super) fn from_values(mut value_of: impl FnMut(&str) -> Option<Value>) -> ServeConfig {
                let mut config = ServeConfig::default();
                $(if let Some(Ok(value)) = value_of(stringify!($name)).map(serde_json::from_value) {
                    config.$name = value;
                })+
                config
            }
        }
    };
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
}

serve_config! {
    /// Version of this configuration's format.
    Server version: u32 = 1;
    /// Address to listen on, for all ports.
    Server host: String = "0.0.0.0".to_owned();
    /// Port of the HTTP API (HTTP/1.1 and HTTP/2 without TLS); 0 takes any free one.
    Server port: u16 = 8080;
    /// Port of the HTTPS API, opened when `tls_cert` and `tls_key` are set.
    Server https_port: u16 = 8081;
    /// Port of `/metrics`, `/health` and `/ready`, served by a thread of its own.
    Server metrics_port: u16 = 8082;
    /// Most threads that parse requests, apply chat templates and turn text into tokens at the same time.
    /// Network I/O and the model's own arithmetic (`threads`) have threads of their own.
    Server max_workers: usize = 4;
    /// PEM file with the certificate chain. It is read again when it changes; a broken new one is reported and
    /// the old one stays.
    Server tls_cert: Option<PathBuf> = None;
    /// PEM file with the certificate's private key.
    Server tls_key: Option<PathBuf> = None;
    /// File of API keys, one per line: the key itself or `sha256:` and its digest in hex; `#` starts a comment.
    /// Without this and `api_key`, everybody may call.
    Server api_key_file: Option<PathBuf> = None;
    /// One API key, best given by environment.
    Server "API_KEY" api_key: Option<Secret> = None;
    /// Most tokens that prompt and answer may have together; the model's own limit if absent.
    Server max_model_len: Option<usize> = None;
    /// Most requests computed at the same time.
    Server max_num_seqs: usize = 64;
    /// Most tokens computed in one step, over all requests.
    Server max_num_batched_tokens: usize = 512;
    /// Milliseconds between two tokens of a stream that long prompts may cause: while streams run, prompts are computed in
    /// chunks sized to that, at most 256 tokens a step. Prompts always get a fifth of the time, or 16 tokens of a step. 0
    /// leaves only the bound on tokens.
    Server inter_token_latency_target_ms: u32 = 50;
    /// Most requests that wait to be computed; more are refused with 429.
    Server max_waiting: usize = 256;
    /// Memory for the KV cache; sized from free memory if absent.
    Server kv_cache_bytes: Option<ByteSize> = None;
    /// How the KV cache stores keys and values: `f16`, or `int8` for nearly twice the tokens in the same memory at a small
    /// loss of precision.
    Server kv_cache_dtype: KvCacheDtype = KvCacheDtype::F16;
    /// What computes: `cpu`; `cuda` or `cuda:N` for an NVIDIA GPU, counted from 0; `auto` for the first GPU that the model fits on,
    /// else the CPU.
    Server device: Device = Device::Auto;
    /// Share of a GPU's memory that this server may take in all: weights, KV cache and the rest. Servers that share a GPU have
    /// less than 1 together.
    Server gpu_memory_fraction: f64 = 0.9;
    /// Compute threads, of each rank where there are several; if absent, one for each CPU that the process may use. Its affinity
    /// mask and its container's CPU limit count. Ranks that the server starts share them.
    Server threads: Option<usize> = None;
    /// `on` keeps every compute thread on a CPU of its own (Linux), one of each core before a second of any. For machines or
    /// containers that have their CPUs to themselves; where others compute on them too it costs speed.
    Server cpu_pinning: CpuPinning = CpuPinning::Off;
    /// Folder to keep packed weights in. The first start writes them, later ones map them and neither read nor repack the
    /// model's matrices. One file for each model, as large as its weights are in memory.
    Server pack_cache: Option<PathBuf> = None;
    /// Read all of the packed weights in `pack_cache` and compare them with their digest before they are used, instead of
    /// their header and size alone.
    Server verify_pack_cache: bool = false;
    /// Guess tokens from what followed the same words earlier, to compute several in one step. It changes no answer.
    /// `auto` guesses as much as was worth it lately, and nothing among many streams; a number guesses up to that many
    /// in every step.
    Server speculation: Speculation = Speculation::Auto;
    /// Ranks over which the model is spread, each with a part of every layer. The server starts them on its own host, unless
    /// `leader_address` is set.
    Server tensor_parallel: usize = 1;
    /// Stages over which the model's layers are spread, one after the other. The server starts them on its own host, unless
    /// `leader_address` is set.
    Server pipeline_parallel: usize = 1;
    /// Address of the leader, with or without a port (`rank_port` if without), where every rank is started for itself, on hosts of
    /// its own. A LeaderWorkerSet sets it.
    Server "LWS_LEADER_ADDRESS" leader_address: Option<String> = None;
    /// Which rank this process is, where every rank is started for itself. 0 leads and serves, others compute for it. A
    /// LeaderWorkerSet sets it.
    Server "LWS_WORKER_INDEX" rank: Option<usize> = None;
    /// Ranks of the group, to be compared with `tensor_parallel` or `pipeline_parallel`. A LeaderWorkerSet sets it.
    Server "LWS_GROUP_SIZE" group_size: Option<usize> = None;
    /// Port on which the leader awaits ranks of other hosts.
    Server rank_port: u16 = 8083;
    /// What ranks have to know to be let into the group; anybody who reaches `rank_port` is if absent.
    Server group_key: Option<Secret> = None;
    /// Seconds that ranks wait for each other at the start.
    Server rank_join_seconds: f64 = 600.0;
    /// Seconds without a sign of life after which a rank is lost, and the group with it.
    Server rank_timeout_seconds: f64 = 10.0;
    /// Seconds that running requests get to finish after SIGTERM.
    Server drain_grace_seconds: f64 = 25.0;
    /// Largest request body that is read.
    Server max_body_bytes: ByteSize = ByteSize(16 << 20);
    /// Seconds that a client has to send a request's headers, and to finish the TLS handshake.
    Server header_timeout_seconds: f64 = 10.0;
    /// Seconds that a client has to send a request's body.
    Server body_timeout_seconds: f64 = 30.0;
    /// Most open client connections on the API ports together; more are answered 503 and closed.
    Server max_connections: usize = 4096;
    /// `/health` fails when requests wait and nothing was computed for this many seconds.
    Server stall_seconds: f64 = 60.0;
    /// `json` or `text`.
    Server log_format: LogFormat = LogFormat::Json;
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,wharf_engine=debug`.
    Server log_level: String = "info".to_owned();
    /// The model: a GGUF file, or a folder with safetensors as Hugging Face lays it out.
    Model "MODEL_PATH" model_path: Option<PathBuf> = None;
    /// Name that requests use; the file's or folder's name if absent.
    Model "MODEL_NAME" model_name: Option<String> = None;
    /// Most tokens to generate when a request does not say; as many as the context holds if absent.
    Model "MAX_TOKENS" max_tokens: Option<u32> = None;
    /// Temperature when a request does not say; the model's own recommendation, else 1, if absent.
    Model temperature: Option<f32> = None;
    /// Top-p when a request does not say; the model's own recommendation, else 1, if absent.
    Model top_p: Option<f32> = None;
    /// Frequency penalty when a request does not say.
    Model frequency_penalty: f32 = 0.0;
    /// Presence penalty when a request does not say.
    Model presence_penalty: f32 = 0.0;
}

impl ServeConfig {
    /// Processes over which the model is spread, this one included.
    pub fn ranks(&self) -> usize {
        self.tensor_parallel.max(self.pipeline_parallel)
    }

    /// The name that requests use: `model_name`, else the model's file or folder name without `.gguf`.
    pub fn served_name(&self) -> String {
        if let Some(name) = &self.model_name {
            return name.clone();
        }
        let path = self.model_path.as_deref();
        let name = path.and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| "model".to_owned());
        name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
    }
}
