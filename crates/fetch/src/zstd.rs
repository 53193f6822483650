//! Reads what zstd packed: one frame after another until the input ends, frames that hold no data passed over (RFC 8878, sections 3.1 and 3.1.2).
//!
//! A frame says how much memory its window takes; one of more than 100 MiB is refused by the decoder. Checksums are left to whoever knows the digest of the
//! whole file.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What all frames of `R` hold.
pub(crate) struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> ZstdFrames<R> {
    pub(crate) fn new(source: R) -> Self {
        ZstdFrames { source, decoder: FrameDecoder::new() }
    }

    /// Begins the next frame that holds data; false when there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            let skipped = match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
            if io::copy(&mut (&mut self.source).take(skipped), &mut io::sink())? < skipped {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() == 0 {
            if self.decoder.is_finished() {
                if !self.begin()? {
                    return Ok(0);
                }
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        self.decoder.read(out)
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        ZstdFrames::new(bytes).read_to_end(&mut out).map(|_| out)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    /// What the reference implementation (libzstd 1.5.7, level 19) makes of `weights ` written a hundred times.
    const REFERENCE: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x64, 0x20, 0x02, 0x7d, 0x00, 0x00, 0x40, 0x77, 0x65, 0x69, 0x67, 0x68, 0x74,
        0x73, 0x20, 0x01, 0x00, 0x15, 0x57, 0x97, 0x0b, 0x20, 0x38, 0x2b, 0xae,
    ];

    #[test]
    fn what_the_reference_implementation_packs_is_read() {
        assert_eq!(unpacked(REFERENCE).unwrap(), b"weights ".repeat(100));
    }

    #[test]
    fn frames_follow_each_other_and_those_without_data_are_passed_over() {
        let large: Vec<u8> = (0..700_000u32).map(|at| (at / 3 % 251) as u8).collect();
        let note = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let file = [&note[..], &packed(&large), &packed(b""), &note, &packed(b"end"), &note].concat();
        assert_eq!(unpacked(&file).unwrap(), [&large[..], b"end"].concat());
        assert_eq!(unpacked(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_cut_or_no_zstd_is_an_error() {
        let whole = packed(&b"weights ".repeat(100));
        for length in 1..whole.len() {
            assert!(unpacked(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
        assert!(unpacked(b"not packed at all").is_err());
        assert!(unpacked(&[0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1]).is_err());
    }
}
