//! Decides how packed weights lie in a file: a page of header, then one section after the other, each at a cache line.
//!
//! The header says how long the payload is, what it was made from and what its digest is. It does not say what the sections
//! are: whoever reads asks for them in the order in which they were written, which the weights' identity determines.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wharf_kernels::{PACK_LAYOUT, PackedMatrix, Part, Team};
use wharf_model::MappedFile;

use super::{PackCheck, PackFault, UNFINISHED};

const MAGIC: &[u8; 8] = b"wharfpak";
/// Version of the header and of the order of the sections; goes up when either changes, to which a test holds it.
const FORMAT: u32 = 1;
/// A page, so that sections begin at a cache line wherever the file is mapped.
const HEADER: usize = 4096;
/// What a section begins at.
const ALIGN: usize = 64;
/// Bytes that are hashed at a time, by whichever thread is free.
const SLICE: usize = 1 << 20;

/// What a header says.
struct Header {
    identity: [u8; 32],
    payload_len: u64,
    payload_digest: [u8; 32],
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let Header { identity, payload_len, payload_digest } = self;
        let mut page = [0; HEADER];
        let mut rest = &mut page[..];
        for field in [
            &MAGIC[..],
            &FORMAT.to_le_bytes(),
            &PACK_LAYOUT.to_le_bytes(),
            identity,
            &payload_len.to_le_bytes(),
            payload_digest,
        ] {
            let (to, after) = rest.split_at_mut(field.len());
            to.copy_from_slice(field);
            rest = after;
        }
        let (said, digest) = page.split_at_mut(HEADER - 32);
        digest.copy_from_slice(&Sha256::digest(&*said));
        page
    }

    /// Only the magic and the versions of a foreign header are believed without its digest.
    fn decode(file: &[u8]) -> Result<Header, PackFault> {
        let mut rest = file;
        if take::<8>(&mut rest).as_ref() != Some(MAGIC) {
            return Err(PackFault::Foreign);
        }
        let versions = take(&mut rest).zip(take(&mut rest));
        let (format, layout) = versions.ok_or(PackFault::Header)?;
        let (format, layout) = (u32::from_le_bytes(format), u32::from_le_bytes(layout));
        if (format, layout) != (FORMAT, PACK_LAYOUT) {
            let (found, expected) = (format!("{format}.{layout}"), format!("{FORMAT}.{PACK_LAYOUT}"));
            return Err(PackFault::Version { found, expected });
        }
        let (said, digest) = file.get(..HEADER).ok_or(PackFault::Header)?.split_at(HEADER - 32);
        if digest != &Sha256::digest(said)[..] {
            return Err(PackFault::Header);
        }
        let fields = (take(&mut rest), take(&mut rest), take(&mut rest));
        let (Some(identity), Some(payload_len), Some(payload_digest)) = fields else {
            return Err(PackFault::Header);
        };
        Ok(Header { identity, payload_len: u64::from_le_bytes(payload_len), payload_digest })
    }
}

/// The next `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// SHA-256 of the SHA-256 of every slice, so that all threads can help.
fn digest(payload: &[u8], team: &Team) -> [u8; 32] {
    let mut digests = vec![[0u8; 32]; payload.len().div_ceil(SLICE)];
    team.for_each_chunk(&mut digests, 1, 1, &|index, out| {
        let slice = &payload[index * SLICE..];
        out[0] = Sha256::digest(&slice[..slice.len().min(SLICE)]).into();
    });
    Sha256::digest(digests.as_flattened()).into()
}

/// Packed weights of an earlier start, mapped, and how far they have been taken over.
pub(in crate::cpu) struct PackReader {
    file: Arc<MappedFile>,
    at: usize,
}

impl PackReader {
    /// `None` when there is no such file.
    pub(in crate::cpu) fn open(
        path: &Path,
        identity: &[u8; 32],
        check: PackCheck,
        team: &Team,
    ) -> Result<Option<PackReader>, PackFault> {
        let file = match MappedFile::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PackFault::Open(error)),
        };
        let header = Header::decode(&file)?;
        if header.identity != *identity {
            return Err(PackFault::Stale);
        }
        let (found, expected) = (file.len() as u64, header.payload_len.saturating_add(HEADER as u64));
        if found != expected {
            return Err(PackFault::Length { found, expected });
        }
        match check {
            PackCheck::Sizes => {}
            PackCheck::Contents if digest(&file[HEADER..], team) == header.payload_digest => {}
            PackCheck::Contents => return Err(PackFault::Contents),
        }
        Ok(Some(PackReader { file: Arc::new(file), at: HEADER }))
    }

    /// The next section as the matrix that packing `parts` gives.
    pub(in crate::cpu) fn matrix(&mut self, parts: &[Part<'_>], k: usize) -> Result<PackedMatrix, PackFault> {
        let file = Arc::clone(&self.file);
        let matrix = PackedMatrix::view(parts, k, file, self.at).map_err(PackFault::Matrix)?;
        self.bytes(matrix.bytes())?;
        Ok(matrix)
    }

    /// The next section as `len` numbers.
    pub(in crate::cpu) fn floats(&mut self, len: usize) -> Result<Vec<f32>, PackFault> {
        let (file, offset) = self.bytes(len.checked_mul(4).ok_or(PackFault::Sections)?)?;
        let (numbers, _) = file[offset..][..4 * len].as_chunks();
        Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// The next section: `len` bytes of the file from the offset on.
    pub(in crate::cpu) fn bytes(&mut self, len: usize) -> Result<(Arc<MappedFile>, usize), PackFault> {
        let offset = self.at;
        let next = offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(ALIGN));
        self.at = next.filter(|next| *next <= self.file.len()).ok_or(PackFault::Sections)?;
        Ok((Arc::clone(&self.file), offset))
    }

    /// Everything has been taken over.
    pub(in crate::cpu) fn finish(self) -> Result<(), PackFault> {
        if self.at == self.file.len() { Ok(()) } else { Err(PackFault::Sections) }
    }
}

/// Packed weights on their way to a file. Dropped before it is committed, it leaves nothing behind.
#[derive(Debug)]
pub(in crate::cpu) struct PackWriter {
    unfinished: Unfinished,
    file: BufWriter<File>,
    payload_len: u64,
}

/// A file that is removed unless it has got another name.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.0.display(), %error, "failed to remove unfinished packed weights");
        }
    }
}

impl PackWriter {
    /// Begins a file beside `path`, with a name that no other process has.
    pub(in crate::cpu) fn create(path: &Path) -> io::Result<PackWriter> {
        let mut number = 0u32;
        let (unfinished, file) = loop {
            // Processes in different containers may have the same number.
            let unfinished = path.with_extension(format!("{}-{number}.{UNFINISHED}", std::process::id()));
            match File::create_new(&unfinished) {
                Ok(file) => break (unfinished, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                Err(error) => return Err(error),
            }
        };
        let mut writer =
            PackWriter { unfinished: Unfinished(unfinished), file: BufWriter::new(file), payload_len: 0 };
        writer.file.write_all(&[0; HEADER])?;
        Ok(writer)
    }

    /// Writes the next section.
    pub(in crate::cpu) fn append(&mut self, section: &[u8]) -> io::Result<()> {
        let padding = section.len().next_multiple_of(ALIGN) - section.len();
        self.file.write_all(section)?;
        self.file.write_all(&[0; ALIGN][..padding])?;
        self.payload_len += (section.len() + padding) as u64;
        Ok(())
    }

    /// Gives the file its header and its name, and says how long it is. The file is on the disk before it has the name:
    /// otherwise a machine that stops could leave it with its length and without its contents, which sizes do not show.
    pub(in crate::cpu) fn commit(self, path: &Path, identity: &[u8; 32], team: &Team) -> io::Result<u64> {
        let PackWriter { unfinished, file, payload_len } = self;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let payload_digest = digest(&MappedFile::open(&unfinished.0)?[HEADER..], team);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&Header { identity: *identity, payload_len, payload_digest }.encode())?;
        file.sync_all()?;
        fs::rename(&unfinished.0, path)?;
        Ok(HEADER as u64 + payload_len)
    }
}
