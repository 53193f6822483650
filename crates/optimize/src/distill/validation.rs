//! Judges a student on windows that it is not trained on, beside its teacher.

use super::compute::{Compute, Micro};
use super::data::{Corpus, Window};
use super::error::DistillError;
use super::loss::{exp, log_softmax};
use super::parameters::Parameters;
use super::report::Validation;
use super::teacher::Scorer;

/// Sums over positions.
#[derive(Default)]
struct Sums {
    ce: f64,
    teacher_ce: f64,
    kl: f64,
    same: usize,
    positions: usize,
}

/// The student's perplexity, and how far it is from the teacher, over what of the validation windows is learned.
pub(super) fn validate(
    step: usize,
    student: &Parameters,
    compute: &dyn Compute,
    teacher: &mut Scorer,
    corpus: &Corpus,
    micro_batch: usize,
) -> Result<Validation, DistillError> {
    let mut sums = Sums::default();
    for windows in corpus.validation.chunks(micro_batch) {
        let windows: Vec<(u32, Window)> = windows
            .iter()
            .map(|window| Ok((*window, corpus.window(*window)?)))
            .collect::<Result<_, DistillError>>()?;
        let batch = Micro::new(&windows);
        let vocab = student.config.vocab_size;
        let mut of_teacher = Vec::with_capacity(batch.tokens.len() * vocab);
        teacher.score(&batch, &mut |rows| {
            of_teacher.extend_from_slice(rows);
            Ok(())
        })?;
        let mut row = 0;
        compute.logits(student, &batch, &mut |logits| {
            for logits in logits.chunks(vocab) {
                let teacher = &of_teacher[row * vocab..(row + 1) * vocab];
                if batch.learned[row] {
                    sums.add(logits, teacher, batch.targets[row] as usize);
                }
                row += 1;
            }
            Ok(())
        })?;
    }
    let n = sums.positions as f64;
    Ok(Validation {
        step,
        perplexity: (sums.ce / n).exp(),
        kl_to_teacher: sums.kl / n,
        top1_agreement: sums.same as f64 / n,
        teacher_perplexity: (sums.teacher_ce / n).exp(),
        positions: sums.positions,
    })
}

impl Sums {
    fn add(&mut self, student: &[f32], teacher: &[f32], target: usize) {
        let (mut s, mut t) = (vec![0.0; student.len()], vec![0.0; teacher.len()]);
        log_softmax(student, 1.0, &mut s);
        log_softmax(teacher, 1.0, &mut t);
        self.ce -= f64::from(s[target]);
        self.teacher_ce -= f64::from(t[target]);
        self.kl += divergence(&t, &s);
        self.same += usize::from(likeliest(&s) == likeliest(&t));
        self.positions += 1;
    }
}

/// KL(p || q) of log-probabilities.
pub(super) fn divergence(p: &[f32], q: &[f32]) -> f64 {
    p.iter().zip(q).map(|(p, q)| f64::from(exp(*p) * (p - q))).sum()
}

fn likeliest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definitions() {
        let mut sums = Sums::default();
        // Student (1/4, 3/4), teacher (2/3, 1/3).
        sums.add(&[0.0, 3f32.ln()], &[2f32.ln(), 0.0], 1);
        let kl = 2.0 / 3.0 * (8.0f64 / 3.0).ln() + 1.0 / 3.0 * (4.0f64 / 9.0).ln();
        assert!((sums.kl - kl).abs() < 1e-6 && (sums.ce + 0.75f64.ln()).abs() < 1e-6);
        assert_eq!((sums.same, sums.positions), (0, 1));
    }
}
