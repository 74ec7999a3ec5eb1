//! Sockets in a VM's folder, and the control socket's other place, for a folder that has become read-only.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use tokio::net::UnixStream;

use qhost_model::digest::Sha256;
use qhost_sys::state;

use crate::files::CONTROL_SOCKET;

/// A listening socket in the VM's folder. The socket is named through a descriptor of the folder: a socket's whole path may have no more
/// than 107 bytes (unix(7)), and paths in state folders can be longer.
pub(super) fn listen(vm: &Path, name: &str) -> io::Result<UnixListener> {
    state::remove(&vm.join(name))?;
    let handle = File::open(vm)?;
    let path = format!("/proc/self/fd/{}/{name}", handle.as_raw_fd());
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection to a socket in the VM's folder.
pub(super) async fn connect(vm: &Path, name: &str) -> io::Result<UnixStream> {
    let handle = File::open(vm)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd())).await
}

/// The socket's path for a supervisor that adopts a VM whose folder has become read-only. The path's folder is in memory and only this
/// user's, so that only processes with the right to can connect.
fn elsewhere(vm: &Path) -> PathBuf {
    let user = geteuid();
    let folder = if user.is_root() {
        PathBuf::from("/run/qhost-supervisors")
    } else {
        PathBuf::from(format!("/run/user/{}/qhost-supervisors", user.as_raw()))
    };
    // The path stays below the 107 bytes that a socket's path may have, however long the path of the VM's folder is.
    folder.join(Sha256::of(vm.as_os_str().as_encoded_bytes()).to_string()).with_extension("sock")
}

/// The control socket, listening.
pub(super) struct ControlSocket {
    pub(super) listener: UnixListener,
    /// The socket's path, if it is not in the VM's folder.
    pub(super) elsewhere: Option<PathBuf>,
}

/// Listens on the control socket.
pub(super) fn listen_for_control(vm: &Path) -> io::Result<ControlSocket> {
    match listen(vm, CONTROL_SOCKET) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let path = elsewhere(vm);
            state::create_private(path.parent().unwrap_or(&path))?;
            state::remove(&path)?;
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            Ok(ControlSocket { listener, elsewhere: Some(path) })
        }
        listening => Ok(ControlSocket { listener: listening?, elsewhere: None }),
    }
}

/// A connection to the control socket.
pub(super) async fn connect_for_control(vm: &Path) -> io::Result<UnixStream> {
    let connected = connect(vm, CONTROL_SOCKET).await;
    match &connected {
        // The socket in the folder is a killed supervisor's, or could not be made.
        Err(error)
            if [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound]
                .contains(&error.kind()) =>
        {
            UnixStream::connect(elsewhere(vm)).await.or(connected)
        }
        Ok(_) | Err(_) => connected,
    }
}
