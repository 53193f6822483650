//! Precedence and problems of the configuration, as tables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;

fn file(name: &str, text: &str) -> Option<SourceFile> {
    Some(SourceFile { path: PathBuf::from(name), text: text.to_owned() })
}

fn files(server: &str, model: &str) -> ConfigFiles {
    ConfigFiles { server: file("server_config.yaml", server), model: file("model_config.json", model) }
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn problems(server: &str, model: &str, pairs: &[(&str, &str)], expected: Expect) {
    let result = resolve(&files(server, model), &env(pairs), &PartialConfig::default());
    let lines: Vec<String> =
        result.expect_err("the configuration is wrong").iter().map(|p| p.to_string()).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn the_guides_files_are_understood() {
    let model = r#"{"model_name": "gpt-3.5-turbo", "max_tokens": 2048, "temperature": 0.7, "top_p": 0.9,
                    "frequency_penalty": 0.0, "presence_penalty": 0.0}"#;
    let server = "server:\n  host: \"0.0.0.0\"\n  port: 8080\n  max_workers: 4\n";
    let config = resolve(&files(server, model), &BTreeMap::new(), &PartialConfig::default()).unwrap();
    assert_eq!(config.model_name.as_deref(), Some("gpt-3.5-turbo"));
    assert_eq!((config.max_tokens, config.temperature, config.top_p), (Some(2048), Some(0.7), Some(0.9)));
    assert_eq!((config.host.as_str(), config.port, config.max_workers), ("0.0.0.0", 8080, 4));
}

#[test]
fn flags_win_over_environment_over_files_over_defaults() {
    let files = files("server: {port: 1, metrics_port: 11, max_waiting: 111}", "{}");
    let mut flags = PartialConfig::default();
    flags.set("port", Some(3)).set("host", None::<String>);
    let config = resolve(&files, &env(&[("WHARF_PORT", "2"), ("WHARF_METRICS_PORT", "22")]), &flags).unwrap();
    assert_eq!((config.port, config.metrics_port, config.max_waiting, config.https_port), (3, 22, 111, 8081));
    assert_eq!(config.host, "0.0.0.0");
}

#[test]
fn the_guides_environment_is_read_and_the_long_name_wins() {
    let pairs =
        [("MODEL_PATH", "/m/a.gguf"), ("MAX_TOKENS", "5"), ("WHARF_MAX_TOKENS", "6"), ("MODEL_NAME", "")];
    let config = resolve(&ConfigFiles::default(), &env(&pairs), &PartialConfig::default()).unwrap();
    assert_eq!(config.model_path, Some(PathBuf::from("/m/a.gguf")));
    assert_eq!((config.max_tokens, config.model_name.as_deref()), (Some(6), None));
    assert_eq!(config.served_name(), "a");
}

#[test]
fn a_kubernetes_service_link_is_not_a_port() {
    let link = "tcp://10.0.0.1:80";
    let pairs = [("WHARF_PORT", link), ("WHARF_METRICS_PORT", link), ("WHARF_HTTPS_PORT", link)];
    let config = resolve(&ConfigFiles::default(), &env(&pairs), &PartialConfig::default()).unwrap();
    assert_eq!((config.port, config.https_port, config.metrics_port), (8080, 8081, 8082));
}

#[test]
fn all_problems_are_reported_at_once_with_their_place() {
    problems(
        "server: {prot: 1, port: 70000, top_p: 0.5, tls_cert: a.pem, kv_cache_bytes: lots}\nservre: {}\nversion: 2",
        r#"{"max_token": 5, "temperature": -1, "port": 3}"#,
        &[("WHARF_METRICS_PORT", "soon"), ("WHARF_MAX_WORKERS", "0")],
        expect![[r#"
            server_config.yaml: server.kv_cache_bytes: "lots" is not a size; write bytes or a unit, such as 512MiB or 2GiB
            server_config.yaml: server.port: invalid value: integer `70000`, expected u16
            server_config.yaml: server.prot: unknown field, did you mean port?
            server_config.yaml: server.top_p: belongs in model_config.json
            server_config.yaml: servre: unknown section, did you mean server?
            model_config.json: max_token: unknown field, did you mean max_tokens?
            model_config.json: port: belongs in server_config.yaml, under server:
            environment variable WHARF_METRICS_PORT: invalid type: string "soon", expected u16
            server_config.yaml: version: this program reads version 1, not 2
            environment variable WHARF_MAX_WORKERS: must be at least 1
            model_config.json: temperature: must be between 0 and 100, got -1
            tls_key: is needed with tls_cert"#]],
    );
}

#[test]
fn a_latency_beyond_a_minute_is_refused_and_none_turns_the_bound_off() {
    problems(
        "server: {inter_token_latency_target_ms: 60001}",
        "{}",
        &[],
        expect![
            "server_config.yaml: server.inter_token_latency_target_ms: must be at most 60000 milliseconds, got 60001"
        ],
    );
    let off = files("server: {inter_token_latency_target_ms: 0}", "{}");
    let config = resolve(&off, &BTreeMap::new(), &PartialConfig::default()).unwrap();
    assert_eq!(config.inter_token_latency_target_ms, 0);
}

#[test]
fn pinning_is_on_or_off_quoted_or_not() {
    let pinning = |server: &str| {
        resolve(&files(server, "{}"), &BTreeMap::new(), &PartialConfig::default()).map(|c| c.cpu_pinning)
    };
    for (text, expected) in [
        ("on", CpuPinning::On),
        ("'on'", CpuPinning::On),
        ("off", CpuPinning::Off),
        ("'off'", CpuPinning::Off),
    ] {
        assert_eq!(pinning(&format!("server: {{cpu_pinning: {text}}}")), Ok(expected), "{text}");
    }
    assert_eq!(pinning("server: {}"), Ok(CpuPinning::Off));
    problems(
        "server: {cpu_pinning: cores}",
        "{}",
        &[],
        expect![[
            r#"server_config.yaml: server.cpu_pinning: invalid value: string "cores", expected on or off"#
        ]],
    );
}

#[test]
fn broken_files_say_where() {
    problems(
        "server: [",
        "{\"a\": }",
        &[],
        expect![[r#"
        server_config.yaml: not valid YAML: error: line 1 column 9: unclosed bracket '['
         --> <input>:1:9
          |
        1 | server: [
          |         ^ unclosed bracket '['
        model_config.json: not valid JSON: expected value at line 1 column 7"#]],
    );
    problems(
        "- 1",
        "[]",
        &[],
        expect![[r#"
        server_config.yaml: expected a mapping with `server:`, found a list
        model_config.json: expected an object, found a list"#]],
    );
}

#[test]
fn colliding_ports_are_refused_unless_any_port_will_do() {
    problems(
        "server: {port: 9, metrics_port: 9}",
        "{}",
        &[],
        expect!["server_config.yaml: server.metrics_port: 9 is also the value of port"],
    );
    let free = files("server: {port: 0, metrics_port: 0}", "{}");
    assert!(resolve(&free, &BTreeMap::new(), &PartialConfig::default()).is_ok());
}

#[test]
fn a_lone_word_that_is_no_level_is_refused_and_filters_are_not() {
    problems(
        "server: {log_level: verbose}",
        "{}",
        &[],
        expect![[
            r#"server_config.yaml: server.log_level: "verbose" is not a level; write error, warn, info, debug, trace or off, and other targets as wharf_engine=debug"#
        ]],
    );
    for level in ["INFO", "off", "info,wharf_engine=debug", "warn, [request{request_id=7}]=trace"] {
        let files = files(&format!("server: {{log_level: '{level}'}}"), "{}");
        let config = resolve(&files, &BTreeMap::new(), &PartialConfig::default());
        assert_eq!(config.map(|config| config.log_level).as_deref(), Ok(level));
    }
}

#[test]
fn sizes_take_units() {
    for (text, bytes) in
        [("512", 512), ("16MiB", 16 << 20), ("2Gi", 2 << 30), ("1.5kB", 1500), ("3 M", 3_000_000)]
    {
        assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
    }
    for text in ["", "x", "-1", "1XB", "1e400", "99999999TiB", "1.2.3"] {
        assert!(ByteSize::parse(text).is_err(), "{text}");
    }
}

#[test]
fn secrets_do_not_print() {
    let pairs = [("API_KEY", "sk-very-secret")];
    let config = resolve(&ConfigFiles::default(), &env(&pairs), &PartialConfig::default()).unwrap();
    assert_eq!(config.api_key.as_ref().unwrap().reveal(), "sk-very-secret");
    let printed = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(!printed.contains("very-secret"), "{printed}");
}

#[test]
fn the_reference_page_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.md");
    expect_test::expect_file![path].assert_eq(&reference_page());
}

#[test]
fn a_pack_cache_is_a_folder_and_only_one_that_is_there_is_verified() {
    let config = resolve(
        &files("server: {pack_cache: /var/cache/wharf}", "{}"),
        &env(&[("WHARF_VERIFY_PACK_CACHE", "true")]),
        &PartialConfig::default(),
    )
    .unwrap();
    assert_eq!(config.pack_cache, Some(PathBuf::from("/var/cache/wharf")));
    assert!(config.verify_pack_cache && !ServeConfig::default().verify_pack_cache);
    problems(
        "server: {verify_pack_cache: true}",
        "{}",
        &[],
        expect!["pack_cache: is needed with verify_pack_cache (--verify)"],
    );
    problems(
        "server: {pack_cache: ''}",
        "{}",
        &[("WHARF_VERIFY_PACK_CACHE", "maybe")],
        expect![[r#"
            environment variable WHARF_VERIFY_PACK_CACHE: invalid type: string "maybe", expected a boolean
            server_config.yaml: server.pack_cache: must not be empty"#]],
    );
}

#[test]
fn speculation_is_auto_off_or_a_number() {
    for (text, expected) in [
        ("auto", Speculation::Auto),
        ("off", Speculation::Off),
        ("false", Speculation::Off),
        ("\"off\"", Speculation::Off),
        ("0", Speculation::Off),
        ("4", Speculation::UpTo(4)),
        ("\"16\"", Speculation::UpTo(16)),
    ] {
        let files = files(&format!("server: {{speculation: {text}}}"), "{}");
        let config = resolve(&files, &BTreeMap::new(), &PartialConfig::default()).unwrap();
        assert_eq!(config.speculation, expected, "{text}");
    }
    let from_env =
        resolve(&ConfigFiles::default(), &env(&[("WHARF_SPECULATION", "4")]), &PartialConfig::default());
    assert_eq!(from_env.unwrap().speculation, Speculation::UpTo(4));
    problems(
        "server: {speculation: 17}",
        "{}",
        &[("WHARF_SPECULATION", "on")],
        expect![[r#"
        server_config.yaml: server.speculation: invalid value: integer `17`, expected auto, off, or a number of tokens up to 16
        environment variable WHARF_SPECULATION: invalid value: string "on", expected auto, off, or a number of tokens up to 16"#]],
    );
    problems(
        "server: {speculation: -1}",
        "{}",
        &[],
        expect![
            "server_config.yaml: server.speculation: invalid value: integer `-1`, expected auto, off, or a number of tokens up to 16"
        ],
    );
}

#[test]
fn the_kv_cache_is_f16_or_int8() {
    assert_eq!(ServeConfig::default().kv_cache_dtype, KvCacheDtype::F16);
    for (text, expected) in [("f16", KvCacheDtype::F16), ("int8", KvCacheDtype::Int8)] {
        let files = files(&format!("server: {{kv_cache_dtype: {text}}}"), "{}");
        let config = resolve(&files, &BTreeMap::new(), &PartialConfig::default()).unwrap();
        assert_eq!(config.kv_cache_dtype, expected, "{text}");
        let env = env(&[("WHARF_KV_CACHE_DTYPE", text)]);
        let config = resolve(&ConfigFiles::default(), &env, &PartialConfig::default()).unwrap();
        assert_eq!(config.kv_cache_dtype, expected, "{text} in the environment");
    }
    problems(
        "server: {kv_cache_dtype: fp8}",
        "{}",
        &[("WHARF_KV_CACHE_DTYPE", "INT8")],
        expect![[r#"
        server_config.yaml: server.kv_cache_dtype: unknown variant `fp8`, expected `f16` or `int8`
        environment variable WHARF_KV_CACHE_DTYPE: unknown variant `INT8`, expected `f16` or `int8`"#]],
    );
}

#[test]
fn ranks_agree_with_each_other() {
    let lws = [("LWS_LEADER_ADDRESS", "llm-0.llm"), ("LWS_GROUP_SIZE", "2"), ("LWS_WORKER_INDEX", "1")];
    let config =
        resolve(&files("server: {tensor_parallel: 2}", "{}"), &env(&lws), &PartialConfig::default()).unwrap();
    let found = (config.leader_address.as_deref(), config.group_size, config.rank, config.ranks());
    assert_eq!(found, (Some("llm-0.llm"), Some(2), Some(1), 2));
    problems(
        "server: {tensor_parallel: 3}",
        "{}",
        &lws,
        expect![
            "environment variable LWS_GROUP_SIZE: 2 ranks are started, but tensor_parallel is 3 and pipeline_parallel 1"
        ],
    );
    problems(
        "server: {tensor_parallel: 2, pipeline_parallel: 2, rank: 2, group_key: ' '}",
        "{}",
        &[],
        expect![[r#"
            server_config.yaml: server.group_key: must not be empty
            server_config.yaml: server.pipeline_parallel: cannot be combined with tensor_parallel: set one of them to 1
            server_config.yaml: server.rank: rank 2 is not one of 0 to 1
            leader_address: is needed for rank 2"#]],
    );
    problems(
        "server: {tensor_parallel: 0, rank_port: 8080, leader_address: a}",
        "{}",
        &[("WHARF_PIPELINE_PARALLEL", "2")],
        expect![[r#"
            server_config.yaml: server.tensor_parallel: must be at least 1
            server_config.yaml: server.rank_port: 8080 is also the value of port"#]],
    );
}
