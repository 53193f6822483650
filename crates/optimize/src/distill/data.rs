//! Decides what the model is trained on: documents become one stream of tokens in a file, cut into windows.
//!
//! The text passes through memory document by document. Windows are contiguous; a document ends with the end-of-text token
//! and the next one follows in the same window, which it can see. Every window holds one token more than its length, so that
//! each position has a target. A token that is read and not learned has a mark in the file. Which windows are validation and in
//! which order the others come depends on the seed alone, so the place in the data is one number.

mod answers;
mod documents;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use wharf_model::{ChatTemplate, EncodeOptions, Tokenizer};

use super::error::DistillError;
use super::random::Random;
use documents::Kind;

/// What turns text into tokens.
#[derive(Debug)]
pub struct TextSide {
    /// The teacher's.
    pub tokenizer: Tokenizer,
    /// For chat data; `None` when the teacher has none.
    pub chat_template: Option<ChatTemplate>,
}

/// A packed corpus on disk.
#[derive(Debug)]
pub(super) struct Corpus {
    path: PathBuf,
    file: File,
    /// Tokens in all.
    pub(super) tokens: usize,
    length: usize,
    train: Vec<u32>,
    /// Windows that are never trained on.
    pub(super) validation: Vec<u32>,
}

/// How a corpus is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// Tokens of a window.
    pub(super) length: usize,
    /// Share of windows kept for validation.
    pub(super) validation: f64,
    /// Most windows that a validation computes.
    pub(super) most: usize,
}

/// A window's tokens and, after them, the target of its last position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) tokens: Vec<u32>,
    /// Which of them a student learns to say.
    pub(super) learned: Vec<bool>,
}

impl Window {
    /// Targets that count, of the positions from `first`.
    pub(super) fn targets(&self, first: usize) -> usize {
        self.learned[first + 1..].iter().filter(|learned| **learned).count()
    }
}

/// Marks a token of the file that is read and not learned; no vocabulary has so many.
const ONLY_READ: u32 = 1 << 31;

/// Tokenises `files` into `path`, which appears when it is whole. Gives the number of tokens. Of conversations `only_answers` are
/// learned, if so.
pub(super) fn pack(
    files: &[PathBuf],
    text: &TextSide,
    only_answers: bool,
    path: &Path,
    heard: &mut dyn FnMut(usize),
) -> Result<usize, DistillError> {
    let partial = path.with_extension("partial");
    let mut out = BufWriter::new(File::create(&partial).map_err(DistillError::write(&partial))?);
    let mut tokens = 0;
    let end = text.tokenizer.eos().or(text.tokenizer.bos());
    for file in files {
        documents::read(file, text.chat_template.as_ref(), &text.tokenizer, only_answers, &mut |document| {
            let options = EncodeOptions { add_special: false, parse_special: document.kind == Kind::Chat };
            let mut ids = text.tokenizer.encode(document.text, options);
            ids.extend(end.filter(|_| document.ends));
            if let Some(spans) = document.learned {
                let fail = |why| DistillError::Input(format!("failed to read {}: {why}", file.display()));
                // What follows the text is no answer.
                let own = ids.len() - usize::from(document.ends && end.is_some());
                let mut learned =
                    answers::within(&text.tokenizer, &ids[..own], document.text, spans).map_err(fail)?;
                learned.resize(ids.len(), false);
                ids.iter_mut()
                    .zip(learned)
                    .filter(|(_, learned)| !learned)
                    .for_each(|(id, _)| *id |= ONLY_READ);
            }
            tokens += ids.len();
            heard(tokens);
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            out.write_all(&bytes).map_err(DistillError::write(&partial))
        })?;
    }
    let file = out.into_inner().map_err(|error| error.into_error()).map_err(DistillError::write(&partial))?;
    file.sync_all().map_err(DistillError::write(&partial))?;
    std::fs::rename(&partial, path).map_err(DistillError::write(path))?;
    Ok(tokens)
}

impl Corpus {
    /// Opens what [`pack`] wrote.
    pub(super) fn open(path: &Path, split: Split) -> Result<Corpus, DistillError> {
        let file = File::open(path).map_err(DistillError::read(path))?;
        let bytes = file.metadata().map_err(DistillError::read(path))?.len();
        let tokens = (bytes / 4) as usize;
        let windows = tokens.saturating_sub(1) / split.length;
        if windows < 2 {
            return Err(DistillError::Input(format!(
                "the data has {tokens} tokens, too few for a window of {} tokens to train on and one to validate; \
                 give more text or a smaller --window",
                split.length
            )));
        }
        let wanted = ((windows as f64 * split.validation).round() as usize).clamp(1, windows / 2);
        // Evenly spread: window i is the first of its share.
        let is_validation = |i: usize| (i + 1) * wanted / windows > i * wanted / windows;
        let (validation, train): (Vec<u32>, Vec<u32>) =
            (0..windows as u32).partition(|i| is_validation(*i as usize));
        let step = validation.len().div_ceil(split.most.max(1));
        let validation: Vec<u32> = validation.into_iter().step_by(step).collect();
        let corpus = Corpus { path: path.to_owned(), file, tokens, length: split.length, train, validation };
        let mut judged = 0;
        for window in &corpus.validation {
            judged += corpus.window(*window)?.targets(0);
        }
        match judged {
            0 => Err(DistillError::Input(format!(
                "no token of an answer is in the {} windows kept for validation, and --assistant-only judges by nothing else; give \
                 more conversations or a larger --validation",
                corpus.validation.len()
            ))),
            _ => Ok(corpus),
        }
    }

    /// Windows in all.
    pub(super) fn windows(&self) -> usize {
        (self.tokens - 1) / self.length
    }

    /// Windows to train on.
    pub(super) fn train_windows(&self) -> usize {
        self.train.len()
    }

    /// Window `window`.
    pub(super) fn window(&self, window: u32) -> Result<Window, DistillError> {
        let mut bytes = vec![0; (self.length + 1) * 4];
        let at = window as u64 * self.length as u64 * 4;
        self.file.read_exact_at(&mut bytes, at).map_err(DistillError::read(&self.path))?;
        let stored = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let (tokens, learned) = stored.map(|token| (token & !ONLY_READ, token & ONLY_READ == 0)).unzip();
        Ok(Window { tokens, learned })
    }
}

/// The order in which windows are trained on: every epoch all of them, shuffled anew.
pub(super) struct Order {
    seed: u64,
    epoch: Option<u64>,
    windows: Vec<u32>,
}

impl Order {
    pub(super) fn new(corpus: &Corpus, seed: u64) -> Order {
        Order { seed, epoch: None, windows: corpus.train.clone() }
    }

    /// The window at place `index` of the endless sequence.
    pub(super) fn at(&mut self, index: u64) -> u32 {
        let n = self.windows.len() as u64;
        let epoch = index / n;
        if self.epoch != Some(epoch) {
            // From a sorted start, so that the order does not depend on the epochs before.
            self.windows.sort_unstable();
            let mut random = Random::new(self.seed, epoch);
            for i in (1..self.windows.len()).rev() {
                self.windows.swap(i, random.below(i as u64 + 1) as usize);
            }
            self.epoch = Some(epoch);
        }
        self.windows[(index % n) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(tokens: u32, split: Split) -> Result<Corpus, DistillError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, (0..tokens).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        Corpus::open(&path, split)
    }

    const SPLIT: Split = Split { length: 4, validation: 0.25, most: 100 };

    #[test]
    fn windows_are_contiguous_and_hold_their_last_target() {
        let corpus = corpus(33, SPLIT).unwrap();
        assert_eq!(corpus.window(0).unwrap().tokens, [0, 1, 2, 3, 4]);
        assert_eq!(corpus.window(7).unwrap().tokens, [28, 29, 30, 31, 32]);
        assert_eq!(corpus.window(7).unwrap().targets(0), 4);
        assert_eq!((corpus.train_windows(), corpus.validation.len()), (6, 2));
        assert!(corpus.validation.iter().all(|window| !corpus.train.contains(window)));
    }

    #[test]
    fn every_epoch_has_every_window_in_an_order_of_its_own() {
        let corpus = corpus(401, SPLIT).unwrap();
        let n = corpus.train_windows() as u64;
        let mut order = Order::new(&corpus, 7);
        let epochs: Vec<Vec<u32>> = (0..3).map(|e| (0..n).map(|i| order.at(e * n + i)).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, corpus.train);
        }
        assert_ne!(epochs[0], epochs[1]);
        // Starting in the middle gives the same.
        let mut resumed = Order::new(&corpus, 7);
        assert_eq!(resumed.at(2 * n + 3), epochs[2][3]);
    }

    #[test]
    fn what_is_read_and_not_learned_is_marked_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        wharf_testkit::TinyModel::default().write(&model).unwrap();
        let wharf_model::Source::Gguf(metadata) = wharf_model::Model::open(&model).unwrap().source else {
            unreachable!("it is a GGUF file")
        };
        let text = TextSide {
            tokenizer: Tokenizer::from_gguf(&metadata).unwrap(),
            chat_template: ChatTemplate::from_gguf(&metadata).unwrap(),
        };
        let data = folder.path().join("chat.jsonl");
        let line = "{\"messages\": [{\"role\": \"user\", \"content\": \"once\"}, \
            {\"role\": \"assistant\", \"content\": \"upon\"}]}\n";
        std::fs::write(&data, line.repeat(4)).unwrap();
        let packed = |only_answers: bool| {
            let path = folder.path().join(format!("tokens-{only_answers}"));
            let tokens = pack(std::slice::from_ref(&data), &text, only_answers, &path, &mut |_| {}).unwrap();
            let split = Split { length: tokens / 4, validation: 0.25, most: 100 };
            Corpus::open(&path, split).unwrap().window(0).unwrap()
        };
        let (all, answers) = (packed(false), packed(true));
        assert_eq!(all.tokens, answers.tokens);
        assert!(all.learned.iter().all(|learned| *learned));
        let learned: Vec<u32> =
            answers.tokens.iter().zip(&answers.learned).filter(|(_, yes)| **yes).map(|(id, _)| *id).collect();
        // What ends the document follows the answer and is none.
        assert_eq!(text.tokenizer.decode(&learned, false), "upon<|im_end|>\n");
    }

    #[test]
    fn conversations_without_an_answer_to_judge_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let marked = (0..33u32).flat_map(|token| (token | ONLY_READ).to_le_bytes());
        std::fs::write(&path, marked.collect::<Vec<u8>>()).unwrap();
        let error = Corpus::open(&path, SPLIT).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("--assistant-only"), "{error}");
    }

    #[test]
    fn too_little_text_is_refused_with_its_length() {
        let error = corpus(8, SPLIT).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("8 tokens"), "{error}");
    }
}
