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
        let out = self.out(&format!("{scheme}-{}", calibration.is_some()));
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
    for (better, worse) in [
        (calibrated("q4_0"), plain("q4_0")),
        (calibrated("int4"), plain("int4")),
        (calibrated("int4-awq"), plain("int4")),
        (calibrated("int4-gptq"), calibrated("int4")),
        (calibrated("int8-weight"), plain("int8-weight")),
        (calibrated("int8"), plain("int8")),
    ] {
        assert!(better < worse, "{better} {worse}");
    }
}
