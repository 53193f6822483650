//! The closed forms against values worked out by hand and against differences.

use super::*;

/// Probabilities (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2).
const TEACHER: [f32; 3] = [std::f32::consts::LN_2, 0.0, 0.0];
const STUDENT: [f32; 3] = [0.0, 0.0, std::f32::consts::LN_2];

fn objective(divergence: Divergence, alpha: f32, temperature: f32) -> Objective {
    Objective { divergence, alpha, temperature }
}

fn run(objective: Objective, student: &[f32], teacher: TeacherRow<'_>, target: u32) -> (LossSums, Vec<f32>) {
    let mut logits = student.to_vec();
    let targets = Targets { tokens: &[target], learned: &[true] };
    let sums = objective.differentiate(&mut logits, targets, &|_| teacher, 1.0, 1);
    (sums, logits)
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 2e-6, "{found}, not {expected}");
}

#[test]
fn divergences_have_their_hand_computed_values() {
    let ln2 = 2f64.ln();
    let jsd = {
        // m = (3/8, 1/4, 3/8): half of each side's sum.
        let side = 0.5 * (0.5f64 / 0.375).ln() + 0.25 * (0.25f64 / 0.375).ln();
        0.5 * side + 0.5 * side
    };
    for (divergence, expected) in [
        // 1/2 ln 2 - 1/4 ln 2, the same in both directions by symmetry.
        (Divergence::ForwardKl, ln2 / 4.0),
        (Divergence::ReverseKl, ln2 / 4.0),
        (Divergence::Jsd { beta: 0.5 }, jsd),
    ] {
        let (sums, gradient) = run(objective(divergence, 1.0, 1.0), &STUDENT, TeacherRow::Full(&TEACHER), 0);
        close(sums.divergence, expected);
        close(sums.ce, 4f64.ln());
        close(gradient.iter().map(|g| f64::from(*g)).sum(), 0.0);
    }
    let (_, gradient) =
        run(objective(Divergence::ForwardKl, 1.0, 1.0), &STUDENT, TeacherRow::Full(&TEACHER), 0);
    for (found, expected) in gradient.iter().zip([-0.25, 0.0, 0.25]) {
        close((*found).into(), expected);
    }
}

#[test]
fn the_direction_of_kl_matters() {
    let (teacher, student) = ([2.0f32.ln(), 0.0], [0.0, 3.0f32.ln()]);
    // Teacher (2/3, 1/3), student (1/4, 3/4).
    let forward = 2.0 / 3.0 * (8.0f64 / 3.0).ln() + 1.0 / 3.0 * (4.0f64 / 9.0).ln();
    let reverse = 0.25 * (3.0f64 / 8.0).ln() + 0.75 * (9.0f64 / 4.0).ln();
    for (divergence, expected) in [(Divergence::ForwardKl, forward), (Divergence::ReverseKl, reverse)] {
        let (sums, _) = run(objective(divergence, 1.0, 1.0), &student, TeacherRow::Full(&teacher), 0);
        close(sums.divergence, expected);
    }
}

#[test]
fn the_loss_weighs_divergence_by_the_squared_temperature() {
    let objective = objective(Divergence::ForwardKl, 0.25, 4.0);
    close(
        objective.value(LossSums { divergence: 3.0, ce: 8.0 }, 2.0),
        (0.25 * 16.0 * 3.0 + 0.75 * 8.0) / 2.0,
    );
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let student = [0.3f32, -1.2, 2.0, 0.7, -0.4];
    let teacher = [1.3f32, 0.2, -0.6, 0.1, 0.9];
    let (ids, log_probs) = ([4u32, 0], [0.4f32.ln(), 0.35f32.ln()]);
    for divergence in [Divergence::ForwardKl, Divergence::ReverseKl, Divergence::Jsd { beta: 0.3 }] {
        for row in [TeacherRow::Full(&teacher), TeacherRow::Top { ids: &ids, log_probs: &log_probs }] {
            let objective = objective(divergence, 0.6, 2.0);
            let (_, gradient) = run(objective, &student, row, 2);
            for i in 0..student.len() {
                let at = |step: f32| {
                    let mut moved = student;
                    moved[i] += step;
                    objective.value(run(objective, &moved, row, 2).0, 1.0)
                };
                let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!(
                    (f64::from(gradient[i]) - slope).abs() < 1e-3,
                    "{divergence:?} {i}: {} and {slope}",
                    gradient[i]
                );
            }
        }
    }
}

#[test]
fn a_short_list_counts_the_rest_as_one_outcome() {
    // The teacher's list holds token 0 with 1/2; the student has 1/4 there, so the rests are 1/2 and 3/4.
    let row = TeacherRow::Top { ids: &[0], log_probs: &[0.5f32.ln()] };
    let (sums, _) = run(objective(Divergence::ForwardKl, 1.0, 1.0), &STUDENT, row, 0);
    close(sums.divergence, 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln());
}

#[test]
fn a_list_of_everything_is_the_whole_divergence() {
    let (ids, log_probs) = ([0u32, 1, 2], [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()]);
    for divergence in [Divergence::ForwardKl, Divergence::ReverseKl, Divergence::Jsd { beta: 0.5 }] {
        let whole = run(objective(divergence, 0.5, 1.0), &STUDENT, TeacherRow::Full(&TEACHER), 1);
        let row = TeacherRow::Top { ids: &ids, log_probs: &log_probs };
        let listed = run(objective(divergence, 0.5, 1.0), &STUDENT, row, 1);
        close(listed.0.divergence, whole.0.divergence);
        listed.1.iter().zip(whole.1).for_each(|(a, b)| close((*a).into(), b.into()));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let vocab = 300;
    let number = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 200.0;
    let teacher: Vec<f32> = (0..7 * vocab).map(|i| number(i + 17)).collect();
    let run = |threads| {
        let mut logits: Vec<f32> = (0..7 * vocab).map(number).collect();
        let row = |i: usize| TeacherRow::Full(&teacher[i * vocab..(i + 1) * vocab]);
        let sums = objective(Divergence::ForwardKl, 0.5, 4.0).differentiate(
            &mut logits,
            Targets { tokens: &[1, 2, 3, 4, 5, 6, 7], learned: &[true; 7] },
            &row,
            0.1,
            threads,
        );
        (sums, logits)
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn exp_is_close_everywhere() {
    for i in -870..880 {
        let x = i as f32 / 10.0;
        let expected = f64::from(x).exp();
        assert!((f64::from(exp(x)) / expected - 1.0).abs() < 5e-7, "{x}: {} {expected}", exp(x));
    }
    assert!(exp(f32::NAN).is_nan());
    assert!(exp(-1e30) < 1e-37);
}
