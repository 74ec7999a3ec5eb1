//! Bounds of QEMU's process (setrlimit(2)).

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{CageError, Rlimits};

pub(super) fn apply(limits: &Rlimits) -> Result<(), CageError> {
    let bounds = [
        (Resource::Nofile, Some(limits.files)),
        (Resource::Nproc, limits.processes),
        // A core file would hold the guest's memory.
        (Resource::Core, Some(0)),
        (Resource::Memlock, Some(0)),
        (Resource::Msgqueue, Some(0)),
    ];
    for (resource, most) in bounds {
        let Some(most) = most else { continue };
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(CageError::at("bounding the process"))?;
    }
    bound_files(limits.file_bytes).map_err(CageError::at("bounding files"))
}

/// Makes writes beyond a file's bound fail; their signal, which would end the program, is ignored from here on.
#[expect(unsafe_code, reason = "rustix has no function that sets what a signal does")]
fn bound_files(bytes: u64) -> io::Result<()> {
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
    // SAFETY: ignoring a signal installs no handler, and this process has one thread.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
