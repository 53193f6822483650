//! Reads a source from text. An error names the part that is wrong and, where one can tell, what was meant.

use std::path::PathBuf;
use std::str::FromStr;

use super::{
    BucketSource, FileSource, HubSource, OciReference, OciSource, SCHEMES, Scheme, SourceUrl, Store,
    VolumeSource, WebSource,
};

/// Why a text is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no model source: {problem}{}", meant.as_ref().map(|m| format!("; did you mean {m}?")).unwrap_or_default())]
pub struct SourceError {
    /// The text, without what may be a secret in it.
    given: String,
    problem: String,
    meant: Option<String>,
}

impl SourceError {
    /// What was probably meant.
    pub fn meant(&self) -> Option<&str> {
        self.meant.as_deref()
    }
}

/// A problem, and what was probably meant.
struct Wrong {
    problem: String,
    meant: Option<String>,
}

impl From<&str> for Wrong {
    fn from(problem: &str) -> Wrong {
        Wrong { problem: problem.to_owned(), meant: None }
    }
}

impl From<String> for Wrong {
    fn from(problem: String) -> Wrong {
        Wrong { problem, meant: None }
    }
}

fn meant(problem: &str, meant: String) -> Wrong {
    Wrong { problem: problem.to_owned(), meant: Some(meant) }
}

impl FromStr for SourceUrl {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|Wrong { problem, meant }| SourceError {
            given: without_secrets(text),
            problem,
            meant,
        })
    }
}

fn parse(text: &str) -> Result<SourceUrl, Wrong> {
    // Those beyond ASCII too: a terminal obeys U+009B as it does ESC [.
    if text.contains(char::is_control) {
        return Err("it holds a control character".into());
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Err(no_scheme(text)) };
    match scheme.parse() {
        Ok(Scheme::Hf) => hub(rest).map(SourceUrl::Hub),
        Ok(Scheme::Https) => web(rest, true).map(SourceUrl::Web),
        Ok(Scheme::Http) => web(rest, false).map(SourceUrl::Web),
        Ok(Scheme::S3) => bucket(Store::S3, rest).map(SourceUrl::Bucket),
        Ok(Scheme::Gs) => bucket(Store::Gs, rest).map(SourceUrl::Bucket),
        Ok(Scheme::Oci) => oci(rest).map(SourceUrl::Oci),
        Ok(Scheme::File) => file(rest).map(SourceUrl::File),
        Ok(Scheme::Pvc) => volume(rest).map(SourceUrl::Volume),
        Err(_) => Err(unknown_scheme(scheme, rest)),
    }
}

/// Names that others use for our schemes.
const ALIASES: [(&str, Scheme); 12] = [
    ("huggingface", Scheme::Hf),
    ("hugging-face", Scheme::Hf),
    ("hub", Scheme::Hf),
    ("gcs", Scheme::Gs),
    ("s3a", Scheme::S3),
    ("s3n", Scheme::S3),
    ("docker", Scheme::Oci),
    ("oras", Scheme::Oci),
    ("registry", Scheme::Oci),
    ("path", Scheme::File),
    ("pvcs", Scheme::Pvc),
    ("claim", Scheme::Pvc),
];

fn unknown_scheme(scheme: &str, rest: &str) -> Wrong {
    let lower = scheme.to_ascii_lowercase();
    let alias = ALIASES.iter().find(|(name, _)| *name == lower).map(|(_, scheme)| *scheme);
    let near =
        || SCHEMES.into_iter().find(|known| *known != Scheme::Http && edits(&lower, known.name()) <= 1);
    let known: Vec<String> = SCHEMES.iter().map(|scheme| format!("{scheme}://")).collect();
    let problem = format!("it should begin with one of {}", known.join(", "));
    // A query may hold a signature.
    let rest = rest.split('?').next().unwrap_or_default();
    Wrong { problem, meant: alias.or_else(near).map(|scheme| format!("{scheme}://{rest}")) }
}

fn no_scheme(text: &str) -> Wrong {
    let problem = "it has no scheme such as hf:// or file://";
    if let Some((scheme, rest)) = text.split_once(":/")
        && scheme.parse::<Scheme>().is_ok()
    {
        return meant(problem, format!("{scheme}://{}", rest.trim_start_matches('/')));
    }
    if text.starts_with('/') {
        return meant(problem, format!("file://{text}"));
    }
    let relative = text.starts_with('.') || text.starts_with('~');
    match text.split('/').collect::<Vec<_>>()[..] {
        [owner, repo, ..] if !relative && is_name(owner) && is_name(repo) => {
            meant(problem, format!("hf://{text}"))
        }
        _ if relative => "it is a relative path; write file:// and the whole path".into(),
        _ => problem.into(),
    }
}

/// The number of single letters to change, add or drop.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The Hub's own pages, which people copy from the address bar.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

fn hub(rest: &str) -> Result<HubSource, Wrong> {
    let rest = rest.trim_end_matches('/');
    let mut parts = rest.splitn(3, '/');
    let (owner, repo, path) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if ["datasets", "spaces", "models"].contains(&owner) {
        return Err(format!("`{owner}` is no owner; write hf://owner/repo of a model").into());
    }
    let Some(repo) = repo else { return Err("a repository is named owner/repo".into()) };
    let (repo, revision) = match repo.split_once('@') {
        Some((repo, revision)) => (repo, Some(decode(revision)?)),
        None => (repo, None),
    };
    for (what, name) in [("owner", owner), ("repository", repo)] {
        if !is_name(name) {
            return Err(format!("`{name}` cannot be the name of a Hugging Face {what}").into());
        }
    }
    if let Some(revision) = &revision {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
        if revision.is_empty() || !revision.chars().all(plain) || has_dots(revision) {
            return Err(format!("`{revision}` cannot be a revision").into());
        }
    }
    let path = path.map(inner_path).transpose()?;
    Ok(HubSource { owner: owner.to_owned(), repo: repo.to_owned(), revision, path })
}

/// Letters, digits, `.`, `_` and `-`, as the Hub has them.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty()
        && name.len() <= 96
        && name.chars().all(plain)
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
}

fn web(rest: &str, secure: bool) -> Result<WebSource, Wrong> {
    let rest = rest.split('#').next().unwrap_or_default();
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query.to_owned())),
        None => (rest, None),
    };
    let (authority, path) = address.find('/').map_or((address, ""), |at| address.split_at(at));
    let authority = authority_of(authority)?;
    if HUB_HOSTS.contains(&authority.as_str()) {
        web_page(path)?;
    }
    if path.contains(' ') {
        return Err("a space in it must be written %20".into());
    }
    if has_dots(&decode(path)?) {
        return Err("`..` has no place in it".into());
    }
    let source = WebSource { secure, authority, path: path.to_owned(), query };
    match source.file_name() {
        "" => Err("it names no file".into()),
        _ => Ok(source),
    }
}

/// Refuses pages of the Hub that are no files.
fn web_page(path: &str) -> Result<(), Wrong> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let problem = "that is a page for people, not a file";
    match parts[..] {
        [_, _, "resolve", _, _, ..] | ["api", ..] => Ok(()),
        [owner, repo, "blob" | "tree", revision, ref inner @ ..] => {
            let revision = if revision == "main" { String::new() } else { format!("@{revision}") };
            let inner = inner.iter().map(|part| format!("/{part}")).collect::<String>();
            Err(meant(problem, format!("hf://{owner}/{repo}{revision}{inner}")))
        }
        [owner, repo, ..] => Err(meant(problem, format!("hf://{owner}/{repo}"))),
        _ => Err(problem.into()),
    }
}

/// A host, with a port or without, in lower case.
fn authority_of(authority: &str) -> Result<String, Wrong> {
    if authority.contains('@') {
        return Err("a password does not belong in a URL; use the environment or a token file".into());
    }
    if authority.is_empty() {
        return Err("it names no host".into());
    }
    let wrong = || Wrong::from(format!("`{authority}` is no host"));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (address, port.strip_prefix(':').or_else(|| port.is_empty().then_some("443")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("443")),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    let port_fits = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if host.is_empty() || !host.chars().all(plain) || !port_fits {
        return Err(wrong());
    }
    Ok(authority.to_ascii_lowercase())
}

fn bucket(store: Store, rest: &str) -> Result<BucketSource, Wrong> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if !(3..=222).contains(&name.len()) || !name.chars().all(plain) || name.contains("..") {
        return Err(format!(
            "`{name}` cannot be the name of a bucket: at least 3 lower-case letters, digits, `.`, `-`"
        )
        .into());
    }
    let prefix = match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => inner_path(prefix)?,
    };
    Ok(BucketSource { store, bucket: name.to_owned(), prefix })
}

fn oci(rest: &str) -> Result<OciSource, Wrong> {
    let Some((registry, rest)) = rest.split_once('/') else {
        return Err("an artifact is named registry/repository:tag".into());
    };
    let registry = authority_of(registry)?;
    let (name, reference) = match rest.split_once('@') {
        Some((name, digest)) => {
            let digest = digest.parse().map_err(|e: crate::digest::DigestError| e.to_string())?;
            // A tag beside a digest says nothing: the digest decides.
            let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
            (name, OciReference::Digest(digest))
        }
        None => match rest.rsplit_once(':') {
            Some((name, tag)) => (name, OciReference::Tag(tag.to_owned())),
            None => (rest, OciReference::Tag("latest".to_owned())),
        },
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let component =
        |part: &str| !part.is_empty() && part.chars().all(plain) && !part.starts_with(['.', '-', '_']);
    if !name.split('/').all(component) || name.contains("..") {
        return Err(format!(
            "`{name}` cannot be the name of a repository: lower-case letters, digits, `.`, `_`, `-`"
        )
        .into());
    }
    if let OciReference::Tag(tag) = &reference {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(plain) || tag.starts_with(['.', '-']) {
            return Err(format!("`{tag}` cannot be a tag").into());
        }
    }
    Ok(OciSource { registry, repository: name.to_owned(), reference })
}

fn file(rest: &str) -> Result<FileSource, Wrong> {
    if !rest.starts_with('/') {
        let problem = "a file:// source is an absolute path on this machine";
        return Err(meant(problem, format!("file:///{rest}")));
    }
    let path = decode(rest)?;
    if has_dots(&path) {
        return Err("`..` has no place in it".into());
    }
    Ok(FileSource { path: PathBuf::from(path) })
}

fn volume(rest: &str) -> Result<VolumeSource, Wrong> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let ends = edge(claim.chars().next()) && edge(claim.chars().next_back());
    if claim.len() > 253 || !claim.chars().all(plain) || !ends {
        return Err(format!("`{claim}` cannot be the name of a PersistentVolumeClaim").into());
    }
    let path = match path.trim_matches('/') {
        "" => String::new(),
        path => inner_path(path)?,
    };
    Ok(VolumeSource { claim: claim.to_owned(), path })
}

/// A path that stays below where it starts, decoded.
fn inner_path(path: &str) -> Result<String, Wrong> {
    let path = decode(path.trim_end_matches('/'))?;
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") || path.contains('\\') {
        return Err(format!("`{path}` is no path below its root").into());
    }
    Ok(path)
}

fn has_dots(path: &str) -> bool {
    path.split(['/', '\\']).any(|part| part == "..")
}

/// Percent-encodes what would end a path or be read as an escape, and the bytes of `also`.
pub(super) fn encode(text: &str, also: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        let special = c.is_ascii() && (" %?#@".contains(c) || also.contains(&(c as u8)));
        match special {
            true => encoded.push_str(&format!("%{:02X}", c as u8)),
            false => encoded.push(c),
        }
    }
    encoded
}

fn decode(text: &str) -> Result<String, Wrong> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |c: u8| char::from(c).to_digit(16);
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                    return Err("a % in it is not followed by two hexadecimal digits".into());
                };
                bytes.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits are below 256"));
                rest = tail;
            }
            (b'%', _) => return Err("a % in it is not followed by two hexadecimal digits".into()),
            (byte, _) => bytes.push(*byte),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| Wrong::from("it is not UTF-8 when decoded"))?;
    match text.contains(char::is_control) {
        true => Err("it holds a control character".into()),
        false => Ok(text),
    }
}

/// The text without a query and without a password before the host.
fn without_secrets(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    let shown: String = match text.split_once("://") {
        Some((scheme, rest)) if !matches!(scheme, "hf" | "oci") => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        _ => text.to_owned(),
    };
    shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
