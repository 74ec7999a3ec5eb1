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
    /// There is one of that name.
    #[error("the volume {0} is there already; see qhost volume ls")]
    Exists(VolumeName),
    /// There is none of that name.
    #[error(
        "there is no volume {0}; see qhost volume ls, or create it: qhost volume create {0} --size SIZE"
    )]
    Unknown(VolumeName),
    /// It has one user at a time, and has that.
    #[error(
        "the volume {of} is in use{by}; a volume has one user at a time: stop that VM, or wait until that command is done"
    )]
    Held {
        /// The volume.
        of: VolumeName,
        /// Its user, with a space before it; empty where unknown.
        by: String,
    },
    /// The guest that has it was not kept from writing to it until its copy was made.
    #[error(
        "the guest of the VM {vm} did not stay frozen until its volume {of} was copied, so that the copy was given up: copy it again, or stop the VM first"
    )]
    Thawed {
        /// The volume.
        of: VolumeName,
        /// The VM's id.
        vm: String,
    },
    /// Its end would be cut off.
    #[error(
        "cannot shrink the volume {of} from {has} to {asked} bytes: create a smaller volume, and copy its files inside a guest"
    )]
    Smaller {
        /// The volume.
        of: VolumeName,
        /// Its size.
        has: u64,
        /// The size that was asked for.
        asked: u64,
    },
    /// A file cannot be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl VolumeError {
    /// Its kind.
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

/// The same, but for a folder that is not there: there is no volume of that name then.
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
