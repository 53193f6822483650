//! The GPT-2 alphabet: every byte as a printable character, so that byte sequences fit in JSON strings.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the other 68 take U+0100 onwards in byte order.

/// The byte that `c` stands for, `None` outside the alphabet.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        c @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(c as u8),
        c @ 0x100..=0x120 => Some((c - 0x100) as u8),
        c @ 0x121..=0x142 => Some((c - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Replaces `out` with the bytes that `token` stands for. A token with any character outside the alphabet,
/// as added tokens may have, stands for its own UTF-8; `false` is returned then.
pub(crate) fn decode_into(token: &str, out: &mut Vec<u8>) -> bool {
    out.clear();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.clear();
                out.extend_from_slice(token.as_bytes());
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character() {
        let mut seen = [0u32; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                seen[byte as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
    }

    #[test]
    fn known_characters_of_the_alphabet() {
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('ł'), Some(0xA0));
        assert_eq!(byte_of('Ń'), Some(0xAD));
        assert_eq!(byte_of(' '), None);
    }
}
