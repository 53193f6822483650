//! What `wharf inspect` shows.

use expect_test::expect;
use wharf_testkit::TinyModel;

use super::*;

fn report() -> Report {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tiny.gguf");
    let dtype = wharf_kernels::DType::Q4_0;
    let model = TinyModel { n_layers: 1, window: Some(16), dtype, ..TinyModel::default() };
    model.write(&path).unwrap();
    let mut report = Report::new(&Model::open(&path).unwrap());
    report.files = vec!["tiny.gguf".to_owned()];
    report
}

#[test]
fn text_shows_facts_shares_and_tensors() {
    let mut report = report();
    report.tokenizer = Some(TokenizerSummary {
        kind: "byte-level BPE".to_owned(),
        tokens: 288,
        special_tokens: vec!["<|endoftext|>".to_owned()],
    });
    report.chat_template = Some("{% for message in messages %}\nrest".to_owned());
    expect![[r#"
        model          tiny
        format         GGUF version 3, 1 file
        size           101.3 kB
        parameters     55,488 (13.73 bits each)
        architecture   llama
        context        512 tokens
        vocabulary     288 tokens, output tied to embedding
        layers         1 of width 64, feed-forward 128 (silu)
        heads          4 query, 2 key-value, of 16 elements
        windows        16 tokens in every layer
        rotation       16 of 16 elements as interleaved in 1 layer, wavelengths 6.3 to 19869 tokens
        cache          128 B per token in f16, 65.5 kB for a whole context
        stop tokens    266
        start token    264
        tokenizer      byte-level BPE, 288 tokens, 1 special token
        chat template  34 characters: {% for message in messages %}…

        F32       74.5 kB  78.2%  ███████████████████████         4 tensors
        Q4_0      20.7 kB  21.8%  ███████                         7 tensors

        token_embd.weight         F32     288 x 64     73.7 kB
        blk.0.attn_norm.weight    F32           64       256 B
        blk.0.attn_q.weight       Q4_0     64 x 64      2.3 kB
        blk.0.attn_k.weight       Q4_0     32 x 64      1.2 kB
        blk.0.attn_v.weight       Q4_0     32 x 64      1.2 kB
        blk.0.attn_output.weight  Q4_0     64 x 64      2.3 kB
        blk.0.ffn_norm.weight     F32           64       256 B
        blk.0.ffn_gate.weight     Q4_0    128 x 64      4.6 kB
        blk.0.ffn_up.weight       Q4_0    128 x 64      4.6 kB
        blk.0.ffn_down.weight     Q4_0    64 x 128      4.6 kB
        output_norm.weight        F32           64       256 B
    "#]]
    .assert_eq(&report.to_string());
}

#[test]
fn json_has_the_same_facts() {
    let json = serde_json::to_value(report()).unwrap();
    assert_eq!(json["architecture"]["windows"], serde_json::json!([16]));
    assert_eq!(json["architecture"]["kv_bytes_per_token"], 2 * 2 * 2 * 16);
    assert_eq!(json["types"][0]["dtype"], "F32");
    assert_eq!(json["tensors"].as_array().unwrap().len(), 11);
    assert_eq!(json["tokenizer"], serde_json::Value::Null);
}
