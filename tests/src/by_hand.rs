//! QEMU started by hand, with a VM's own command line: the baseline that qhost's start is measured beside.

use std::{
    fs,
    io::Read as _,
    os::{
        fd::OwnedFd,
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    process::{Command, Stdio},
    time::Instant,
};

use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::Value;

use crate::{Qhost, command, succeed};

/// Starts a VM's QEMU with its command line, without qhost, and ends it; gives the milliseconds until its greeting.
pub fn started(qhost: &Qhost, spec: &Value) -> f64 {
    let folder = qhost.folder();
    let overlay = folder.join("by-hand.qcow2");
    let size = spec["image"]["disk_bytes"].to_string();
    succeed(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", overlay.to_str().expect("QEMU by hand"), &size],
    );
    let listen = |name: &str| {
        let path = folder.join(name);
        if path.exists() {
            fs::remove_file(&path).expect("QEMU by hand");
        }
        UnixListener::bind(path).expect("QEMU by hand")
    };
    let began = Instant::now();
    let files: [OwnedFd; 4] = [
        listen("by-hand.qmp").into(),
        listen("by-hand.console").into(),
        fs::File::open(spec["image"]["path"].as_str().expect("QEMU by hand"))
            .expect("QEMU by hand")
            .into(),
        fs::File::options().read(true).write(true).open(&overlay).expect("QEMU by hand").into(),
    ];
    let mappings =
        files.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    let mut greeting = UnixStream::connect(folder.join("by-hand.qmp")).expect("QEMU by hand");
    let mut qemu: Command = command(spec["program"].as_str().expect("QEMU by hand"));
    qemu.args(
        spec["argv"]
            .as_array()
            .expect("QEMU by hand")
            .iter()
            .map(|arg| arg.as_str().expect("QEMU by hand")),
    );
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut qemu =
        qemu.fd_mappings(mappings.collect()).expect("QEMU by hand").spawn().expect("QEMU by hand");
    greeting.read_exact(&mut [0; 6]).expect("QEMU by hand");
    let took = began.elapsed().as_secs_f64() * 1e3;
    qemu.kill().expect("QEMU by hand");
    qemu.wait().expect("QEMU by hand");
    took
}
