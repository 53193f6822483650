//! A checkpoint elsewhere, of which only headers are read, by range requests.

use std::io;
use std::ops::Range;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use wharf_api::source::SourceUrl;
use wharf_fetch::{Remote, Settings};
use wharf_plan::ModelFiles;
use wharf_plan::header::FileInfo;

/// Files of a source.
pub(crate) struct RemoteFiles {
    /// What to call the model.
    pub(crate) name: String,
    remote: Remote,
    runtime: Runtime,
}

impl RemoteFiles {
    /// Asks a source for its list of files.
    pub(crate) fn at(source: &SourceUrl, settings: &Settings) -> anyhow::Result<RemoteFiles> {
        let runtime = Runtime::new().context("failed to start the network's threads")?;
        let remote = runtime.block_on(wharf_fetch::open(source, settings))?;
        let shown = source.shown();
        let name = shown.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        Ok(RemoteFiles { name, remote, runtime })
    }
}

impl ModelFiles for RemoteFiles {
    fn files(&self) -> io::Result<Vec<FileInfo>> {
        let files = self.remote.files().iter();
        // A file whose length nobody tells has no end to read headers up to; the reader takes what there is.
        let info = files
            .map(|file| FileInfo { name: file.name().to_string(), bytes: file.size().unwrap_or(u64::MAX) });
        Ok(info.collect())
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = self.remote.files().iter().find(|file| file.name().to_string() == name);
        let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let bytes = self.runtime.block_on(self.remote.read_range(file, range.start, length));
        Ok(bytes.map_err(io::Error::other)?.to_vec())
    }
}
