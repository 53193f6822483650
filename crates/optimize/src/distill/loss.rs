//! What a student is punished for: alpha * T^2 * D(teacher, student) + (1 - alpha) * cross-entropy, and its gradient.
//!
//! Both are written in closed form over rows of logits: with p the teacher's and s the student's probabilities at temperature T,
//! z the student's logits, the derivative of T^2 * D by z is T times
//! - forward KL, sum p ln(p/s):                       s - p
//! - reverse KL, sum s ln(s/p):                       s * (ln(s/p) - D)
//! - JSD, b sum p ln(p/m) + (1-b) sum s ln(s/m):      s * (1-b) * (ln(s/m) - sum s ln(s/m)),  m = b p + (1-b) s
//!
//! A row is read three times; rows are independent, so the result does not depend on the number of threads.

use serde::{Deserialize, Serialize};

/// How far two distributions are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// KL(teacher || student): the student covers everything that the teacher does.
    ForwardKl,
    /// KL(student || teacher): the student keeps to what the teacher does most.
    ReverseKl,
    /// The generalised Jensen-Shannon divergence; near 0 like forward, near 1 like reverse KL.
    Jsd {
        /// Weight of the teacher in the mixture, between 0 and 1.
        beta: f32,
    },
}

/// The loss and its weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Distance to the teacher.
    pub divergence: Divergence,
    /// Share of the divergence; the rest is cross-entropy with the text.
    pub alpha: f32,
    /// Divides the logits of both before the divergence.
    pub temperature: f32,
}

/// What the teacher says about one position.
#[derive(Clone, Copy, Debug)]
pub(super) enum TeacherRow<'a> {
    /// Logits of every token.
    Full(&'a [f32]),
    /// Log-probabilities, at the objective's temperature, of the likeliest tokens. What is left of the mass is one outcome
    /// "another token" for teacher and student alike: the divergence is over k + 1 outcomes, never more than the whole one.
    Top {
        /// Tokens.
        ids: &'a [u32],
        /// Their log-probabilities.
        log_probs: &'a [f32],
    },
    /// Nothing: the loss is cross-entropy alone.
    Absent,
}

/// What follows each position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets<'a> {
    pub(super) tokens: &'a [u32],
    /// Which of them count. For the others there is neither loss nor gradient, whatever the teacher says.
    pub(super) learned: &'a [bool],
}

/// Sums over rows that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LossSums {
    /// Of the divergence at temperature T, not yet multiplied by T^2.
    pub(super) divergence: f64,
    /// Of the cross-entropy with the text.
    pub(super) ce: f64,
}

impl Objective {
    /// The loss of which `sums` are the parts, per target that counts.
    pub(super) fn value(&self, sums: LossSums, learned: f64) -> f64 {
        let (alpha, t) = (f64::from(self.alpha), f64::from(self.temperature));
        (alpha * t * t * sums.divergence + (1.0 - alpha) * sums.ce) / learned
    }

    /// Turns rows of the student's logits into the gradient of the loss times `scale`, and gives the sums.
    pub(super) fn differentiate<'a>(
        &self,
        logits: &mut [f32],
        targets: Targets<'_>,
        teacher: &(dyn Fn(usize) -> TeacherRow<'a> + Sync),
        scale: f32,
        threads: usize,
    ) -> LossSums {
        let Targets { tokens, learned } = targets;
        let (rows, vocab) = (tokens.len(), logits.len() / tokens.len());
        let mut sums = vec![LossSums::default(); rows];
        let per_thread = rows.div_ceil(threads.max(1));
        std::thread::scope(|scope| {
            let parts = logits.chunks_mut(per_thread * vocab).zip(sums.chunks_mut(per_thread));
            for (part, (logits, sums)) in parts.enumerate() {
                scope.spawn(move || {
                    let mut scratch = Scratch::new(vocab);
                    for (i, (row, sum)) in logits.chunks_mut(vocab).zip(sums).enumerate() {
                        let index = part * per_thread + i;
                        match learned[index] {
                            true => {
                                let target = tokens[index] as usize;
                                *sum = self.row(row, target, teacher(index), scale, &mut scratch);
                            }
                            false => row.fill(0.0),
                        }
                    }
                });
            }
        });
        sums.iter().fold(LossSums::default(), |a, b| LossSums {
            divergence: a.divergence + b.divergence,
            ce: a.ce + b.ce,
        })
    }

    fn row(
        &self,
        z: &mut [f32],
        target: usize,
        teacher: TeacherRow<'_>,
        scale: f32,
        scratch: &mut Scratch,
    ) -> LossSums {
        let Scratch { student, teacher: p } = scratch;
        let ce = log_sum_exp(z, 1.0) - f64::from(z[target]);
        let hard = (1.0 - self.alpha) * scale;
        if matches!(teacher, TeacherRow::Absent) || self.alpha == 0.0 {
            let lse = log_sum_exp(z, 1.0) as f32;
            z.iter_mut().for_each(|z| *z = hard * exp(*z - lse));
            z[target] -= hard;
            return LossSums { divergence: 0.0, ce };
        }
        let inverse = self.temperature.recip();
        log_softmax(z, inverse, student);
        match teacher {
            TeacherRow::Full(logits) => log_softmax(logits, inverse, p),
            TeacherRow::Top { ids, log_probs } => spread_rest(ids, log_probs, student, p),
            TeacherRow::Absent => unreachable!("returned above"),
        }
        // T^2 of the loss and 1 / T of the logits leave T.
        let soft = self.alpha * self.temperature * scale;
        let lse = log_sum_exp(z, 1.0) as f32;
        let divergence = match self.divergence {
            Divergence::ForwardKl => {
                let mut sum = 0.0;
                for ((z, s), p) in z.chunks_mut(BLOCK).zip(student.chunks(BLOCK)).zip(p.chunks(BLOCK)) {
                    let mut part = 0.0;
                    for ((z, ls), lp) in z.iter_mut().zip(s).zip(p) {
                        let (s, p) = (exp(*ls), exp(*lp));
                        part += p * (lp - ls);
                        *z = hard * exp(*z - lse) + soft * (s - p);
                    }
                    sum += f64::from(part);
                }
                sum
            }
            Divergence::ReverseKl => {
                let sum = weighted(student, |i| student[i] - p[i]);
                for ((z, ls), lp) in z.iter_mut().zip(&*student).zip(&*p) {
                    *z = hard * exp(*z - lse) + soft * exp(*ls) * (ls - lp - sum as f32);
                }
                sum
            }
            Divergence::Jsd { beta } => {
                let mixture = |i: usize| beta * exp(p[i]) + (1.0 - beta) * exp(student[i]);
                // Probabilities too small for a float are in none of the three.
                let ratio = |log: f32, m: f32| if m > 0.0 { log - m.ln() } else { 0.0 };
                let of_student = weighted(student, |i| ratio(student[i], mixture(i)));
                let of_teacher = weighted(p, |i| ratio(p[i], mixture(i)));
                for (i, z) in z.iter_mut().enumerate() {
                    let gradient = exp(student[i]) * (ratio(student[i], mixture(i)) - of_student as f32);
                    *z = hard * exp(*z - lse) + soft * (1.0 - beta) * gradient;
                }
                f64::from(beta) * of_teacher + f64::from(1.0 - beta) * of_student
            }
        };
        z[target] -= hard;
        LossSums { divergence, ce }
    }
}

/// Elements whose sum is kept in single precision.
const BLOCK: usize = 256;

/// Log-probabilities of one row.
struct Scratch {
    student: Vec<f32>,
    teacher: Vec<f32>,
}

impl Scratch {
    fn new(vocab: usize) -> Scratch {
        Scratch { student: vec![0.0; vocab], teacher: vec![0.0; vocab] }
    }
}

/// The sum of exp(log_p) * f.
fn weighted(log_p: &[f32], f: impl Fn(usize) -> f32) -> f64 {
    log_p.iter().enumerate().map(|(i, log_p)| f64::from(exp(*log_p) * f(i))).sum()
}

/// Gives the tokens outside the teacher's list the rest of its mass in the student's proportions, which makes divergence and
/// gradient those of one outcome "another token".
fn spread_rest(ids: &[u32], log_probs: &[f32], student: &[f32], out: &mut [f32]) {
    const LEAST: f64 = 1e-12;
    let mass = |logs: &mut dyn Iterator<Item = f32>| 1.0 - logs.map(|log| f64::from(log).exp()).sum::<f64>();
    let of_teacher = mass(&mut log_probs.iter().copied()).max(LEAST);
    let of_student = mass(&mut ids.iter().map(|id| student[*id as usize])).max(LEAST);
    let shift = (of_teacher.ln() - of_student.ln()) as f32;
    out.iter_mut().zip(student).for_each(|(out, student)| *out = student + shift);
    ids.iter().zip(log_probs).for_each(|(id, log)| out[*id as usize] = *log);
}

pub(super) fn log_softmax(logits: &[f32], inverse_temperature: f32, out: &mut [f32]) {
    let lse = log_sum_exp(logits, inverse_temperature) as f32;
    out.iter_mut().zip(logits).for_each(|(out, z)| *out = z * inverse_temperature - lse);
}

/// ln sum exp(z / T).
pub(super) fn log_sum_exp(logits: &[f32], inverse_temperature: f32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) * inverse_temperature;
    let sum: f64 = logits
        .chunks(BLOCK)
        .map(|part| f64::from(part.iter().map(|z| exp(z * inverse_temperature - most)).sum::<f32>()))
        .sum();
    f64::from(most) + sum.ln()
}

/// e^x to about 2e-7, in operations that compilers turn into vectors; NaN stays NaN.
pub(super) fn exp(x: f32) -> f32 {
    // Beyond these the result is 0 or overflows; 2^-126 is the least exponent that the bits below can make.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // Adding and taking away 1.5 * 2^23 rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, the first with zeros at its end so that its product with n is exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut y = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        y = y * r + c;
    }
    y * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

#[cfg(test)]
mod tests;
