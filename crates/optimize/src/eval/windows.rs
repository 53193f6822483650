//! Decides which tokens of a text are judged, and what comes before them.
//!
//! As llama.cpp's `llama-perplexity` does it, so that figures can be compared: the text is cut into windows that are read from an
//! empty context, and only the second half of each is judged, so that every judged token has at least half a window before it.
//! Where the model's sequences begin with a token of their own, it replaces the first of each window.

/// Windows of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    tokens: Vec<u32>,
    size: usize,
}

/// A text that does not fill a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text has {tokens} tokens, but a window takes {window}; give a longer text or a smaller window")]
pub struct TooShort {
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
}

impl Windows {
    /// Cuts `tokens` into windows of `size` (at least 4) and at most `most` of them; what does not fill one is left out.
    ///
    /// # Errors
    /// When there is not one window.
    pub fn cut(
        mut tokens: Vec<u32>,
        size: usize,
        first: Option<u32>,
        most: Option<usize>,
    ) -> Result<Windows, TooShort> {
        let size = size.max(4);
        let count = (tokens.len() / size).min(most.unwrap_or(usize::MAX));
        if count == 0 {
            return Err(TooShort { tokens: tokens.len(), window: size });
        }
        tokens.truncate(count * size);
        if let Some(first) = first {
            tokens.iter_mut().step_by(size).for_each(|token| *token = first);
        }
        Ok(Windows { tokens, size })
    }

    /// Each window's tokens.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.size)
    }

    /// Tokens of a window.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Position of a window whose successor is the first token that is judged.
    pub fn first(&self) -> usize {
        self.size / 2
    }

    /// Tokens that are judged, all windows together.
    pub fn judged(&self) -> usize {
        self.iter().len() * (self.size - 1 - self.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_windows_count_and_each_begins_as_sequences_do() {
        let windows = Windows::cut((10..32).collect(), 8, Some(1), None).unwrap();
        let all: Vec<_> = windows.iter().collect();
        assert_eq!(all, [[1, 11, 12, 13, 14, 15, 16, 17], [1, 19, 20, 21, 22, 23, 24, 25]]);
        // Successors of positions 4, 5 and 6.
        assert_eq!((windows.first(), windows.judged()), (4, 6));
    }

    #[test]
    fn a_text_shorter_than_a_window_is_refused() {
        let error = Windows::cut(vec![5; 7], 8, None, None).unwrap_err();
        assert_eq!(error, TooShort { tokens: 7, window: 8 });
        assert_eq!(Windows::cut(vec![5; 40], 8, None, Some(2)).unwrap().iter().len(), 2);
    }
}
