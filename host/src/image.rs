//! Images: fetched over HTTP into a store addressed by digest, inspected before QEMU sees them, and covered by an
//! overlay for each run. The only room that opens network connections.

mod fetch;
mod network;
mod inspect;
mod store;
mod overlay;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::digest::Sha256;

pub use inspect::{Inspected, Refusal, inspect};
pub use network::AddressRules;
pub use overlay::create as create_overlay;
pub use store::{Store, VerifiedImage};

/// What QEMU is told an image is. It never finds out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's copy-on-write format, version 2 or 3, that stands by itself.
    Qcow2,
    /// A plain disk.
    Raw,
    /// A CD or DVD.
    Iso,
}

impl Format {
    /// Guesses from a name, for showing a plan of an image that is not here yet. Never used for a launch.
    pub fn guess(name: &str) -> Self {
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("qcow2" | "qcow") => Self::Qcow2,
            Some("iso") => Self::Iso,
            Some(_) | None => Self::Raw,
        }
    }
}

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
    #[error(
        "checksum mismatch for {url}: the job says sha256:{expected}, the file served has sha256:{found} ({bytes} bytes)"
    )]
    Mismatch {
        /// The URL, without its query.
        url: String,
        /// The job's digest.
        expected: Sha256,
        /// The file's digest.
        found: Sha256,
        /// The file's size.
        bytes: u64,
    },
    /// The image is one that qhost does not give to QEMU.
    #[error("the image sha256:{sha256} is refused: {refusal}")]
    Unsafe {
        /// The image.
        sha256: Sha256,
        /// The check that it failed.
        refusal: Refusal,
    },
    /// The store cannot be read or written.
    #[error("the image store at {}", path.display())]
    Store {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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
    /// The answer is encoded, so its bytes are not the file's.
    #[error("the server sent the file with Content-Encoding {0}, which was not asked for")]
    Encoded(String),
    /// It took longer than a whole fetch may.
    #[error("it took longer than {seconds} s, image.total_timeout_s")]
    TooSlow {
        /// The limit.
        seconds: u64,
    },
    /// The server is not who it should be, or does not speak TLS as it must.
    #[error("no trusted connection: {0}")]
    Tls(String),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
}

impl ImageError {
    fn store(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Store { path, source }
    }
}

/// A URL as it may be shown: queries carry signatures and tokens.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.query().is_some() {
        url.set_query(Some("…"));
    }
    url.to_string().replace("%E2%80%A6", "…")
}

/// What a fetch tells whoever watches.
pub trait Progress {
    /// Another process fetches the same image; this one waits for it.
    fn waiting(&self);
    /// A body of this many bytes begins, if the server said how many.
    fn begins(&self, total: Option<u64>);
    /// This many bytes have arrived since it began.
    fn received(&self, bytes: u64);
    /// An attempt failed and will be made again.
    fn retrying(&self, why: &str);
}
