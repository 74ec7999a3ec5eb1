//! Sockets in a VM's folder.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use tokio::net::UnixStream;

/// A listening socket in the VM's folder. Through a descriptor of the folder: a socket's whole path may have no more than 107
/// bytes (unix(7)), and state folders have longer ones.
pub(super) fn listen(vm: &Path, name: &str) -> io::Result<std::os::unix::net::UnixListener> {
    qhost_sys::state::remove(&vm.join(name))?;
    let handle = File::open(vm)?;
    let path = format!("/proc/self/fd/{}/{name}", handle.as_raw_fd());
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection to a socket in the VM's folder.
pub(super) async fn connect(vm: &Path, name: &str) -> io::Result<UnixStream> {
    let handle = File::open(vm)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd())).await
}
