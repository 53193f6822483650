//! Plans as a table, and what holds for any of them.

use proptest::prelude::*;
use wharf_kernels::DType;
use wharf_testkit::TinyModel;

use super::*;
use crate::Model;

fn config() -> ModelConfig {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    TinyModel::default().write(file.path()).unwrap();
    Model::open(file.path()).unwrap().config
}

fn shaped(n_heads: usize, n_kv_heads: usize, head_dim: usize, ffn_size: usize) -> ModelConfig {
    ModelConfig { n_heads, n_kv_heads, head_dim, ffn_size, vocab_size: 49_152, ..config() }
}

#[test]
fn heads_and_widths_are_cut_where_they_can_be() {
    let smollm2 = shaped(9, 3, 64, 1536);
    let llama = shaped(32, 8, 128, 14_336);
    let narrow = shaped(8, 2, 64, 512);
    let (float, q8, k) = (Steps { o: 1, down: 1 }, Steps { o: 32, down: 32 }, Steps { o: 256, down: 256 });
    let mixed = Steps { o: 32, down: 256 };
    // Model, steps; for each rank its query heads, key and value heads, and part of the feed-forward.
    let table = [
        (&smollm2, float, vec![(0..6, 0..2, 0..768), (6..9, 2..3, 768..1536)]),
        (&smollm2, mixed, vec![(0..3, 0..1, 0..512), (3..6, 1..2, 512..1024), (6..9, 2..3, 1024..1536)]),
        (
            &smollm2,
            q8,
            vec![
                (0..2, 0..1, 0..384),
                (2..3, 0..1, 384..768),
                (3..6, 1..2, 768..1152),
                (6..9, 2..3, 1152..1536),
            ],
        ),
        // Four query heads of 64 fill a block of 256.
        (&narrow, k, vec![(0..4, 0..1, 0..256), (4..8, 1..2, 256..512)]),
        (&llama, k, vec![(0..12, 0..3, 0..4864), (12..24, 3..6, 4864..9728), (24..32, 6..8, 9728..14_336)]),
    ];
    for (config, steps, expected) in table {
        let plan = ShardPlan::new(config, steps, expected.len()).unwrap();
        let found: Vec<_> = plan
            .ranks
            .iter()
            .map(|rank| (rank.heads.clone(), rank.kv_heads.clone(), rank.ffn.clone()))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn inputs_are_cut_where_a_sum_can_be_passed_on() {
    for (dtype, step) in [(DType::F32, 1), (DType::F16, 1), (DType::BF16, 32), (DType::Q8_0, 32)] {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        TinyModel { dtype, ..TinyModel::default() }.write(file.path()).unwrap();
        let model = Model::open(file.path()).unwrap();
        assert_eq!(Steps::of(&model.config, &model.weights), Steps { o: step, down: step }, "{dtype}");
    }
}

#[test]
fn what_cannot_be_cut_so_often_is_named() {
    let check = |config: &ModelConfig, steps, ranks, expected: &str| {
        let error = ShardPlan::new(config, steps, ranks).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    let (q8, k) = (Steps { o: 32, down: 32 }, Steps { o: 256, down: 256 });
    let small = shaped(8, 2, 64, 512);
    check(&small, q8, 9, "the query heads cannot be cut into 9 parts, at most into 8");
    check(&small, k, 3, "the query heads cannot be cut into 3 parts, at most into 2");
    check(&shaped(8, 8, 64, 512), k, 3, "the key and value heads cannot be cut into 3 parts, at most into 2");
    check(&shaped(16, 16, 64, 256), k, 2, "the feed-forward's inner width cannot be cut into 2 parts");
    check(&small, q8, 0, "a group has at least one rank");
}

#[test]
fn every_role_is_cut_along_what_the_rank_computes() {
    let config = shaped(9, 3, 64, 1536);
    let rank = &ShardPlan::new(&config, Steps { o: 32, down: 32 }, 2).unwrap().ranks[1];
    let cuts: Vec<String> = Role::ALL
        .into_iter()
        .filter(|role| rank.cut(*role) != Cut::Whole)
        .map(|role| format!("{role}: {:?}", rank.cut(role)))
        .collect();
    expect_test::expect![[r#"
        token embedding: Rows(24576..49152)
        output projection: Rows(24576..49152)
        query projection: Rows(384..576)
        key projection: Rows(128..192)
        value projection: Rows(128..192)
        query bias: Columns(384..576)
        key bias: Columns(128..192)
        value bias: Columns(128..192)
        attention output projection: Columns(384..576)
        gate projection: Rows(768..1536)
        up projection: Rows(768..1536)
        down projection: Columns(768..1536)"#]]
    .assert_eq(&cuts.join("\n"));
    let local = rank.config(&config);
    assert_eq!((local.n_heads, local.n_kv_heads, local.ffn_size, local.vocab_size), (3, 1, 768, 49_152));
}

proptest! {
    /// For every role the ranks together hold every row and column, once but for shared keys and values; cuts lie on steps.
    #[test]
    fn ranges_cover_everything_once(
        kv_heads in 1usize..9,
        group in 1usize..6,
        head_dim in prop::sample::select(vec![16usize, 32, 64, 128]),
        blocks in 1usize..20,
        vocab_size in 1usize..1000,
        step in prop::sample::select(vec![1usize, 32, 256]),
        ranks in 1usize..9,
    ) {
        let n_heads = kv_heads * group;
        prop_assume!((n_heads * head_dim).is_multiple_of(step));
        let config = ModelConfig { vocab_size, ..shaped(n_heads, kv_heads, head_dim, blocks * step) };
        let Ok(plan) = ShardPlan::new(&config, Steps { o: step, down: step }, ranks) else { return Ok(()) };
        prop_assert_eq!(plan.ranks.len(), ranks);
        for role in Role::ALL {
            let (rows, cols) = role.shape(&config);
            let mut next = 0;
            for rank in &plan.ranks {
                let (range, all, step) = match rank.cut(role) {
                    Cut::Whole => continue,
                    Cut::Rows(range) => (range, rows, 1),
                    Cut::Columns(range) if matches!(role, Role::O | Role::Down) => (range, cols, step),
                    Cut::Columns(range) => (range, cols, 1),
                };
                prop_assert!(!range.is_empty() && range.end <= all);
                prop_assert!(range.start.is_multiple_of(step) && range.end.is_multiple_of(step));
                let shared = ranks > kv_heads && matches!(role, Role::K | Role::V | Role::KBias | Role::VBias);
                prop_assert!(range.start == next || shared && range.end == next, "{} {:?} after {}", role, range, next);
                next = range.end;
            }
            if rank_cuts(&plan, role) {
                prop_assert_eq!(next, if matches!(plan.ranks[0].cut(role), Cut::Rows(_)) { rows } else { cols });
            }
        }
        for rank in &plan.ranks {
            // The forward pass knows whole groups: as many query heads for each head of keys and values.
            prop_assert!(rank.heads.len().is_multiple_of(rank.kv_heads.len()));
            prop_assert_eq!(rank.heads.start / group, rank.kv_heads.start);
            prop_assert_eq!((rank.heads.end - 1) / group, rank.kv_heads.end - 1);
        }
    }
}

fn rank_cuts(plan: &ShardPlan, role: Role) -> bool {
    plan.ranks[0].cut(role) != Cut::Whole
}
