//! The errors of keys, signatures, registries and lock files.

use std::{io, path::PathBuf};

use qhost_model::{digest::Sha256, kind::Kind};
use qhost_sys::trusted::Untrusted;

use crate::registry::RegistryError;

/// Why a command about keys, signatures, registries or lock files failed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Other users can change a key.
    #[error("the key {} cannot be relied upon", path.display())]
    Untrusted {
        /// The key's file.
        path: PathBuf,
        /// The cause.
        source: Untrusted,
    },
    /// A key cannot be made or used.
    #[error("the key {}: {reason}", path.display())]
    Key {
        /// The key's file, or the key.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The file that was pulled is not the one in the lock file.
    #[error(transparent)]
    Moved(Box<Moved>),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A name that is tied to one file now stands for another.
#[derive(Debug, thiserror::Error)]
#[error("{} ties {name} to sha256:{locked}, and {place} has sha256:{found}; {hint}", file.display())]
pub struct Moved {
    pub(super) file: PathBuf,
    pub(super) hint: &'static str,
    pub(super) name: String,
    pub(super) locked: Sha256,
    pub(super) place: String,
    pub(super) found: Sha256,
}

impl TrustError {
    pub(in crate::run) fn kind(&self) -> Kind {
        match self {
            Self::Moved(_) | Self::Registry(RegistryError::Digest { .. }) => Kind::CheckFailed,
            Self::Registry(RegistryError::NoTag { .. }) => Kind::InvalidArgument,
            Self::Registry(_) => Kind::Unavailable,
            Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::Untrusted { .. }
            | Self::Key { .. } => Kind::InvalidArgument,
        }
    }
}
