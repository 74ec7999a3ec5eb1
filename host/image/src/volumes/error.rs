//! Why a volume cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use qhost_model::kind::Kind;

use super::name::VolumeName;

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is a volume of that name already.
    #[error("the volume {0} is there already; see qhost volume ls")]
    Exists(VolumeName),
    /// There is no volume of that name.
    #[error(
        "there is no volume {0}; see qhost volume ls, or create it: qhost volume create {0} --size SIZE"
    )]
    Unknown(VolumeName),
    /// The volume has one user at a time, and has one.
    #[error(
        "the volume {of} is in use{by}; a volume has one user at a time: stop that VM, or wait until that command is done"
    )]
    Held {
        /// The volume's name.
        of: VolumeName,
        /// The volume's user, with a space before it; empty where unknown.
        by: String,
    },
    /// The guest that has the volume could write to it again before its copy was made.
    #[error(
        "the guest of the VM {vm} did not stay frozen until its volume {of} was copied, so that the copy was given up: copy it again, or stop the VM first"
    )]
    Thawed {
        /// The volume's name.
        of: VolumeName,
        /// The VM's id.
        vm: String,
    },
    /// The new size would cut off the volume's end.
    #[error(
        "cannot shrink the volume {of} from {has} to {asked} bytes: create a smaller volume, and copy its files inside a guest"
    )]
    Smaller {
        /// The volume's name.
        of: VolumeName,
        /// The volume's size.
        has: u64,
        /// The size that was asked for.
        asked: u64,
    },
    /// A file cannot be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// Why that failed.
        source: io::Error,
    },
}

impl VolumeError {
    /// The kind of error, from which a door makes its own error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Exists(_) | Self::Unknown(_) | Self::Smaller { .. } => Kind::InvalidArgument,
            Self::Held { .. } | Self::Thawed { .. } | Self::File { .. } => Kind::HostUnable,
        }
    }
}

pub(super) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::File { doing, path, source }
}

/// Makes the error about a volume's folder: if the folder does not exist, there is no volume of that name.
pub(super) fn missing_or<'a>(
    doing: &'static str,
    of: &'a VolumeName,
    folder: &'a Path,
) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |error| {
        if error.kind() == io::ErrorKind::NotFound {
            VolumeError::Unknown(of.clone())
        } else {
            at(doing, folder)(error)
        }
    }
}
