//! Images: fetched over HTTP into a store addressed by digest, inspected before QEMU sees them, and covered by an
//! overlay for each run. Only this crate and the client for registries of policies open network connections.

pub mod limits;
mod settings;
mod inspect;
mod network;
mod credentials;
mod answer;
mod http;
mod hashers;
mod packing;
mod unpack;
mod pipe;
mod sums;
mod retry;
mod download;
mod fetch;
mod import;
mod store;
mod overlay;
mod sparse;
pub mod volumes;
mod seed_disk;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use url::Url;

use qhost_model::{
    digest::{FileDigest, Sha256},
    kind::Kind,
};

pub use import::digest as digest_of_file;
pub use inspect::{Inspected, Refusal, inspect};
pub use network::NetworkRules;
pub use overlay::create as create_overlay;
pub use seed_disk::{SeedFile, seed_disk};
pub use settings::{NetworkSettings, Scheme, Settings, SettingsProblem};
pub use store::{
    CheckOutcome, Collect, Collected, Fetcher, Record, Store, Stored, Unfinished, VerifiedImage,
    hold,
};

/// Why there is no verified image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The source did not deliver.
    #[error("cannot fetch {url}: {reason}")]
    Fetch {
        /// The URL, without its query.
        url: String,
        /// Why the source did not deliver.
        reason: FetchFailure,
    },
    /// The bytes are not those that were asked for.
    #[error("checksum mismatch for {0}")]
    Mismatch(Box<Mismatch>),
    /// The image is one that qhost does not give to QEMU.
    #[error("the image {digest} is refused: {refusal}")]
    Unsafe {
        /// The image's digest.
        digest: FileDigest,
        /// The rule that refused the image.
        refusal: Refusal,
    },
    /// None of several sources delivered.
    #[error("none of {} sources delivered the image{}", .0.len(), listed(.0))]
    NoSource(Vec<ImageError>),
    /// The list of checksums has no digest for the image.
    #[error("{url}: {reason}")]
    Sums {
        /// The list's URL, without its query.
        url: String,
        /// What is wrong with the list.
        reason: String,
    },
    /// Another process worked on the image for as long as a fetch may take.
    #[error(
        "another process was at the image {digest} for {seconds} s, image.total_timeout_s; try again"
    )]
    Waited {
        /// The digest of the image, or of the list of checksums that names it.
        digest: FileDigest,
        /// The limit in seconds.
        seconds: u64,
    },
    /// A file that the configuration names cannot be used.
    #[error("the configuration's {}: {reason}", path.display())]
    Configured {
        /// The file's path.
        path: PathBuf,
        /// Why the file cannot be used.
        reason: String,
    },
    /// No HTTP client can be made here.
    #[error("cannot set up HTTP: {reason}")]
    Client {
        /// Why no client can be made.
        reason: String,
    },
    /// The image does not fit the quota of its tenant, or of the host.
    #[error("refused by {key}: {reason}")]
    Quota {
        /// The quota, as the configuration has it: `tenants.acme.quota.image_bytes`.
        key: String,
        /// How much the quota is and how much is taken, and what to do.
        reason: String,
        /// Whether the quota is that of all tenants together.
        is_hosts: bool,
    },
    /// The disk is too full for the image.
    #[error(
        "the image store at {} has {free} bytes free, and {url} has {needed} bytes; {reserve} are kept free; make room: qhost image gc",
        path.display()
    )]
    NoSpace {
        /// The URL, without its query.
        url: String,
        /// The folder of the unfinished file.
        path: PathBuf,
        /// How many bytes are free.
        free: u64,
        /// How many bytes are still to come.
        needed: u64,
        /// How many bytes stay free.
        reserve: u64,
    },
    /// A file outside the store is one that qhost would not give to QEMU.
    #[error("{} is refused: {refusal}", path.display())]
    UnsafeFile {
        /// The file's path.
        path: PathBuf,
        /// The rule that refused the file.
        refusal: Refusal,
    },
    /// A file that is to be imported cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// Why the file cannot be read.
        source: io::Error,
    },
    /// The image is in use, so that it stays.
    #[error("the image sha256:{sha256} is used{}; stop what uses it first", if by.is_empty() { String::new() } else { format!(" by {by}") })]
    InUse {
        /// The image's digest.
        sha256: Sha256,
        /// The VMs that use the image, as far as they are known.
        by: String,
    },
    /// A digest's beginning names no stored image, or several.
    #[error("{0}")]
    NotStored(String),
    /// The store cannot be read or written.
    #[error("the image store at {}", path.display())]
    Store {
        /// The path of the file or folder.
        path: PathBuf,
        /// Why it cannot be read or written.
        source: io::Error,
    },
}

/// A file with another digest than the job names.
#[derive(Debug)]
pub struct Mismatch {
    /// The URL, without its query.
    pub url: String,
    /// The digest that the job names.
    pub expected: FileDigest,
    /// The digest of the file that was served.
    pub found: FileDigest,
    /// The size of the file that was served.
    pub bytes: u64,
    /// The encoding of the file as its server names it, which may be why the digests differ.
    pub encoding: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, expected, found, bytes, encoding } = self;
        write!(f, "{url}: the job says {expected}, the file served has {found} ({bytes} bytes)")?;
        match encoding {
            Some(encoding) => write!(
                f,
                "; its server sent it with Content-Encoding {encoding}, which was not asked for"
            ),
            None => Ok(()),
        }
    }
}

fn listed(errors: &[ImageError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

/// Why a source did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    /// The rules forbid the address as a source of images.
    #[error("{0}")]
    Forbidden(String),
    /// The server answered with another status than 200.
    #[error("the server answered {status}, expected 200")]
    Status {
        /// The status.
        status: reqwest::StatusCode,
        /// The seconds after which the server asks to be tried again.
        retry_after_s: Option<u64>,
    },
    /// There are too many redirects, or one leads to a URL that images may not come from.
    #[error("{0}")]
    Redirect(String),
    /// The file is larger than allowed.
    #[error("the file is larger than image.max_bytes, {most} bytes")]
    TooLarge {
        /// The limit.
        most: u64,
    },
    /// The body ended early.
    #[error("the body ended after {received} of {expected} bytes")]
    Short {
        /// Bytes received.
        received: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The part that came is not the part of the file that was asked for.
    #[error("{0}")]
    Range(String),
    /// The fetch took longer than a whole fetch may take.
    #[error("it took longer than {seconds} s, its share of image.total_timeout_s")]
    TooSlow {
        /// The limit in seconds.
        seconds: f64,
    },
    /// The list of checksums is larger than any real one.
    #[error("a list of checksums has at most {most} bytes, and this one more")]
    ListTooLarge {
        /// The limit.
        most: u64,
    },
    /// The server's certificate is not valid for it, or the server does not speak TLS as it must.
    #[error("no trusted connection: {0}")]
    Tls(String),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
}

impl ImageError {
    /// The kind of error, from which a door makes its own error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Fetch { .. } | Self::Sums { .. } => Kind::Unavailable,
            Self::Mismatch(_) => Kind::ChecksumMismatch,
            Self::Unsafe { .. } | Self::UnsafeFile { .. } => Kind::ImageRejected,
            Self::Configured { .. }
            | Self::NotStored(_)
            | Self::File { .. }
            | Self::InUse { .. } => Kind::InvalidArgument,
            Self::Quota { is_hosts: false, .. } => Kind::Denied,
            Self::Quota { .. }
            | Self::Waited { .. }
            | Self::Client { .. }
            | Self::NoSpace { .. }
            | Self::Store { .. } => Kind::HostUnable,
            // A source that served something wrong counts for more than another that served nothing.
            Self::NoSource(errors) => {
                let kinds: Vec<_> = errors.iter().map(Self::kind).collect();
                let worst = [Kind::ChecksumMismatch, Kind::ImageRejected, Kind::Unavailable];
                worst.into_iter().find(|kind| kinds.contains(kind)).unwrap_or(Kind::HostUnable)
            }
        }
    }

    /// Whether another source may deliver where this one failed.
    fn is_source_failure(&self) -> bool {
        matches!(
            self,
            Self::Fetch { .. }
                | Self::Mismatch(_)
                | Self::Unsafe { .. }
                | Self::Client { .. }
                | Self::NoSpace { .. }
        )
    }

    fn store(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Store { path, source }
    }
}

/// A URL as it may be shown, without its query: queries carry signatures and tokens.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    url.to_string().replace("%E2%80%A6", "…")
}

/// Hears of the progress of a fetch or a check. A method that is not implemented hears nothing.
pub trait Progress: Send + Sync {
    /// Another process fetches the same image, and this one waits for that.
    fn waiting(&self) {}
    /// A step begins, over so many bytes, if their number is known.
    fn begins(&self, _doing: Step, _total: Option<u64>) {}
    /// So many bytes of the step are done.
    fn done(&self, _bytes: u64) {}
    /// A source did not deliver, and that source or another is asked next.
    fn retrying(&self, _why: &str) {}
}

/// A step of fetching or checking an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The image's bytes arrive.
    Fetching,
    /// The image's stored bytes are hashed again.
    Checking,
    /// A file's bytes are copied into the store.
    Copying,
}
