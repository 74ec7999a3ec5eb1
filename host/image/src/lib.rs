//! Images: fetched over HTTP into a store addressed by digest, inspected before QEMU sees them, and covered by an
//! overlay for each run. The only room that opens network connections.

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
        /// What happened.
        reason: FetchFailure,
    },
    /// The bytes are not those that were asked for.
    #[error("checksum mismatch for {0}")]
    Mismatch(Box<Mismatch>),
    /// The image is one that qhost does not give to QEMU.
    #[error("the image {digest} is refused: {refusal}")]
    Unsafe {
        /// The image.
        digest: FileDigest,
        /// The check that it failed.
        refusal: Refusal,
    },
    /// No source of several delivered.
    #[error("none of {} sources delivered the image{}", .0.len(), listed(.0))]
    NoSource(Vec<ImageError>),
    /// The list of checksums does not say what the image's is.
    #[error("{url}: {reason}")]
    Sums {
        /// The list's URL, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process was at the image for as long as a fetch may take.
    #[error(
        "another process was at the image {digest} for {seconds} s, image.total_timeout_s; try again"
    )]
    Waited {
        /// The image, or the list of checksums that has it.
        digest: FileDigest,
        /// The limit in seconds.
        seconds: u64,
    },
    /// A file that the configuration names cannot be used.
    #[error("the configuration's {}: {reason}", path.display())]
    Configured {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing can be asked for over HTTP here.
    #[error("cannot set up HTTP: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
    /// The image does not fit the quota of its tenant, or of the host.
    #[error("refused by {key}: {reason}")]
    Quota {
        /// The quota, as the configuration has it: `tenants.acme.quota.image_bytes`.
        key: String,
        /// How much, and what to do.
        reason: String,
        /// Whether it is all tenants' together.
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
        /// The unfinished file.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes still to come.
        needed: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// A file that is in no store is one that qhost would not give to QEMU.
    #[error("{} is refused: {refusal}", path.display())]
    UnsafeFile {
        /// The file.
        path: PathBuf,
        /// The check that it failed.
        refusal: Refusal,
    },
    /// A file that is to be imported cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image that is used stays.
    #[error("the image sha256:{sha256} is used{}; stop what uses it first", if by.is_empty() { String::new() } else { format!(" by {by}") })]
    InUse {
        /// The image.
        sha256: Sha256,
        /// VMs, as far as they are known.
        by: String,
    },
    /// No stored image, or several, by a digest's beginning.
    #[error("{0}")]
    NotStored(String),
    /// The store cannot be read or written.
    #[error("the image store at {}", path.display())]
    Store {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file that is another than the job names.
#[derive(Debug)]
pub struct Mismatch {
    /// The URL, without its query.
    pub url: String,
    /// The job's digest.
    pub expected: FileDigest,
    /// The file's digest.
    pub found: FileDigest,
    /// The file's size.
    pub bytes: u64,
    /// How its server says that it encoded it, which may be why.
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
    /// The address is one that images may not come from.
    #[error("{0}")]
    Forbidden(String),
    /// The server answered with another status than 200.
    #[error("the server answered {status}, expected 200")]
    Status {
        /// The status.
        status: reqwest::StatusCode,
        /// The seconds after which it asks to be tried again.
        retry_after_s: Option<u64>,
    },
    /// Too many redirects, or one that leads where images may not come from.
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
    /// A part of the file is not the one that was asked for.
    #[error("{0}")]
    Range(String),
    /// It took longer than a whole fetch may.
    #[error("it took longer than {seconds} s, its share of image.total_timeout_s")]
    TooSlow {
        /// The limit in seconds.
        seconds: f64,
    },
    /// A list of checksums is larger than any is.
    #[error("a list of checksums has at most {most} bytes, and this one more")]
    ListTooLarge {
        /// The limit.
        most: u64,
    },
    /// The server is not who it should be, or does not speak TLS as it must.
    #[error("no trusted connection: {0}")]
    Tls(String),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
}

impl ImageError {
    /// Its kind.
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
            // What a source served counts for more than that another served nothing.
            Self::NoSource(errors) => {
                let kinds: Vec<_> = errors.iter().map(Self::kind).collect();
                let worst = [Kind::ChecksumMismatch, Kind::ImageRejected, Kind::Unavailable];
                worst.into_iter().find(|kind| kinds.contains(kind)).unwrap_or(Kind::HostUnable)
            }
        }
    }

    /// Whether another source may do better.
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

/// A URL as it may be shown: queries carry signatures and tokens.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    url.to_string().replace("%E2%80%A6", "…")
}

/// What a fetch or a check tells on its way. What is not implemented is not heard.
pub trait Progress: Send + Sync {
    /// Another process fetches the same image; this one waits for it.
    fn waiting(&self) {}
    /// So many bytes are to be gone through, if that is known.
    fn begins(&self, _doing: Step, _total: Option<u64>) {}
    /// This many are done since it began.
    fn done(&self, _bytes: u64) {}
    /// A source did not deliver, and it or another will be asked again.
    fn retrying(&self, _why: &str) {}
}

/// What is being done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its bytes arrive.
    Fetching,
    /// Its stored bytes are hashed again.
    Checking,
    /// A file's bytes are copied into the store.
    Copying,
}
