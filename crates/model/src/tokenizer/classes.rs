//! Unicode classes that pre-tokenizers ask about, one table lookup per character.

use std::sync::LazyLock;

/// `\p{L}`
pub(crate) const LETTER: u8 = 1;
/// `\p{N}`
pub(crate) const NUMBER: u8 = 2;
/// `\s`
pub(crate) const SPACE: u8 = 4;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
pub(crate) const UPPERISH: u8 = 8;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
pub(crate) const LOWERISH: u8 = 16;
/// `\p{M}`
pub(crate) const MARK: u8 = 32;
/// `\p{P}`
pub(crate) const PUNCTUATION: u8 = 64;
/// `\w`
pub(crate) const WORD: u8 = 128;

// One byte per code point: the zeroed megabyte is mapped lazily, so only pages of assigned characters
// cost memory, and a lookup needs no search.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0u8; 0x11_0000];
    for (pattern, bit) in [
        (r"\p{L}", LETTER),
        (r"\p{N}", NUMBER),
        (r"\s", SPACE),
        (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", UPPERISH),
        (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", LOWERISH),
        (r"\p{M}", MARK),
        (r"\p{P}", PUNCTUATION),
        (r"\w", WORD),
    ] {
        let hir = regex_syntax::parse(pattern).expect("the patterns above are valid");
        if let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() {
            for range in class.ranges() {
                for entry in &mut table[range.start() as usize..=range.end() as usize] {
                    *entry |= bit;
                }
            }
        }
    }
    table
});

/// The classes of all characters; hold one while scanning.
#[derive(Clone, Copy)]
pub(crate) struct Classes(&'static [u8]);

impl Classes {
    pub(crate) fn get() -> Classes {
        Classes(&TABLE)
    }

    pub(crate) fn of(self, c: char) -> u8 {
        self.0[c as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_some_characters() {
        let of = |c| Classes::get().of(c);
        assert_eq!(of('a'), LETTER | LOWERISH | WORD);
        assert_eq!(of('A'), LETTER | UPPERISH | WORD);
        assert_eq!(of('漢'), LETTER | UPPERISH | LOWERISH | WORD);
        assert_eq!(of('7'), NUMBER | WORD);
        assert_eq!(of('½'), NUMBER);
        assert_eq!(of('\u{3000}'), SPACE);
        assert_eq!(of('\u{301}'), MARK | UPPERISH | LOWERISH | WORD);
        assert_eq!(of('!'), PUNCTUATION);
        assert_eq!(of('😀'), 0);
    }
}
