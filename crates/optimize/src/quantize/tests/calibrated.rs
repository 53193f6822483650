//! What a text changes: the same model, rounded where it does less harm.

use wharf_engine::cpu::{CpuBackend, CpuOptions};
use wharf_kernels::Rounding;

use super::*;
use crate::eval::{self, Judge, Windows};

const WINDOW: usize = 64;

/// A text of tokens that are not all alike.
fn text(seed: u32, windows: usize) -> Windows {
    let mut state = seed;
    let mut token = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Some tokens are more frequent than others.
        (state >> 24) * (state >> 16 & 0xff) / 256
    };
    Windows::cut((0..windows * WINDOW).map(|_| token()).collect(), WINDOW, None, None).unwrap()
}

impl Case {
    fn calibrated(&self, scheme: &str, out: &Path, calibration: Option<&Windows>) -> Result<(), RunError> {
        let model = Model::open(&self.source).unwrap();
        let plan = Plan::new(&model, scheme.parse().unwrap()).unwrap();
        let options = RunOptions { threads: 2, calibration, stop: &GO_ON };
        run(&model, &plan, out, options, &mut |_| {})?.commit()
    }

    /// Mean divergence from the source of what a scheme makes, on a text that was not calibrated on.
    fn divergence(&self, scheme: &str, calibration: Option<&Windows>) -> f64 {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        self.calibrated(scheme, &out, calibration).unwrap();
        let load = |path: &Path| {
            let options = CpuOptions { threads: 2, kv_tokens: WINDOW, ..CpuOptions::default() };
            CpuBackend::load(Model::open(path).unwrap(), &options, &mut |_, _| {}).unwrap()
        };
        let windows = text(99, 8);
        let judge = Judge { windows: &windows, threads: 2, stop: &GO_ON };
        let mut source = load(&self.source);
        let metrics = eval::evaluate(&mut load(&out), Some(&mut source), judge, &mut |_| {}).unwrap();
        metrics.comparison.unwrap().kl_mean.value
    }
}

#[test]
fn every_calibrated_scheme_diverges_less_than_plain_rounding() {
    let case = Case::new(&wide());
    let calibration = text(1, 24);
    let plain = |scheme| case.divergence(scheme, None);
    let calibrated = |scheme| case.divergence(scheme, Some(&calibration));
    for (scheme, simple) in [
        ("q4_0", "q4_0"),
        ("int4", "int4"),
        ("int4-awq", "int4"),
        ("int4-gptq", "int4"),
        ("int8-weight", "int8-weight"),
        ("int8", "int8"),
    ] {
        let (better, worse) = (calibrated(scheme), plain(simple));
        println!("{scheme}: {better:.6}, {simple} plainly rounded {worse:.6}");
        assert!(better < worse, "{scheme}: {better}, {simple} plainly rounded {worse}");
    }
}

#[test]
fn a_scaled_model_is_the_same_model() {
    let case = Case::new(&wide());
    let out = case.out("scaled");
    case.calibrated("int8", &out, Some(&text(1, 8))).unwrap();
    let (old, new) = (Model::open(&case.source).unwrap(), Model::open(&out).unwrap());
    let row = |model: &Model, role: Role, row: usize| {
        let view = model.weights.matrix(Some(1), role).unwrap();
        let bytes = view.data.len() / view.rows;
        let mut x = vec![0.0; view.cols];
        block::dequantize(view.dtype, &view.data[row * bytes..][..bytes], &mut x).unwrap();
        x
    };
    assert_ne!(row(&old, Role::FfnNorm, 0), row(&new, Role::FfnNorm, 0), "something was scaled");
    let close = |a: &[f32], b: &[f32], what: &str| {
        let most = a.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 0.05 * most, "{what}: {a} became {b}");
        }
    };
    // What a norm divides by, the columns behind it multiply.
    let through = |model: &Model| {
        let norm = row(model, Role::FfnNorm, 0);
        row(model, Role::Gate, 3).iter().zip(norm).map(|(w, n)| w * n).collect::<Vec<_>>()
    };
    close(&through(&old), &through(&new), "norm and gate");
    // So it is with the rows of what makes the inputs of down and output: here one path from an input to an output.
    let path = |model: &Model, first: Role, last: Role, at: usize, norm: Role| {
        let made = row(model, first, at);
        let factor = row(model, last, 5)[at];
        made.iter().zip(row(model, norm, 0)).map(|(w, n)| w * n * factor).collect::<Vec<_>>()
    };
    for (first, last, norm) in [(Role::Up, Role::Down, Role::FfnNorm), (Role::V, Role::O, Role::AttnNorm)] {
        let paths = |model: &Model| path(model, first, last, 7, norm);
        close(&paths(&old), &paths(&new), &format!("{first} and {last}"));
    }
}

#[test]
fn activations_are_rounded_as_the_scheme_says() {
    let case = Case::new(&wide());
    let calibration = text(1, 4);
    let rounding = |scheme: &str, role| {
        let out = case.out(&format!("{scheme}-{role}"));
        case.calibrated(scheme, &out, Some(&calibration)).unwrap();
        Model::open(&out).unwrap().weights.matrix(Some(2), role).unwrap().rounding
    };
    assert_eq!(rounding("int8", Role::Gate), Rounding::Rows);
    assert_eq!(rounding("int8-static", Role::Down), Rounding::Rows);
    assert!(matches!(rounding("int8-static", Role::Gate), Rounding::Fixed(scale) if scale > 0.0));
    assert_eq!(rounding("int8-weight", Role::Gate), Rounding::Blocks);
}

#[test]
fn a_static_scheme_is_not_written_without_a_text() {
    let case = Case::new(&wide());
    let error = case.calibrated("int8-static", &case.out("out"), None).unwrap_err();
    assert!(error.to_string().contains("int8-static needs a text"), "{error}");
}

#[test]
fn a_stopped_calibration_goes_on_where_it_was() {
    let case = Case::new(&wide());
    let model = Model::open(&case.source).unwrap();
    let plan = Plan::new(&model, "int4-gptq".parse().unwrap()).unwrap();
    let (calibration, stop) = (text(1, 4), AtomicBool::new(false));
    let options = RunOptions { threads: 1, calibration: Some(&calibration), stop: &stop };
    let (out, whole) = (case.out("out"), case.out("whole"));
    let mut firsts = Vec::new();
    let stopped = run(&model, &plan, &out, options, &mut |progress| {
        // In the second layer.
        stop.store(progress.what.contains("layers.1."), Ordering::Relaxed);
    });
    assert!(matches!(stopped, Err(RunError::Stopped { .. })));
    stop.store(false, Ordering::Relaxed);
    run(&model, &plan, &out, options, &mut |progress| firsts.push(progress.done)).unwrap().commit().unwrap();
    assert!(firsts[0] > 0, "what was done is kept");
    run(&model, &plan, &whole, options, &mut |_| {}).unwrap().commit().unwrap();
    let bytes = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(bytes(&out), bytes(&whole));
}
