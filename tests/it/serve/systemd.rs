//! The service as systemd starts it: on a socket that systemd listens at already, and with messages about the service's state.

use std::{
    os::unix::net::{UnixDatagram, UnixListener},
    process::Stdio,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, kill_process};

use qhost_tests::{command, succeed, wait_for};

use super::configure;
use crate::qhost;

#[test]
fn a_socket_is_passed_and_the_service_says_how_it_does() {
    let qhost = qhost();
    configure(&qhost, "");
    let folder = tempfile::tempdir().unwrap();
    let (socket, told) = (folder.path().join("api.sock"), folder.path().join("notify"));
    let listener = UnixListener::bind(&socket).unwrap();
    let notified = UnixDatagram::bind(&told).unwrap();
    notified.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = || {
        let mut message = [0; 512];
        let length = notified.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let serve = qhost.command(&["serve"]);
    // Only the process itself knows its number before it becomes the service.
    let mut started = command("sh");
    started.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 WATCHDOG_PID=$$ exec \"$@\"", "sh"]);
    started.arg(serve.get_program()).args(serve.get_args());
    started.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    started.env("NOTIFY_SOCKET", &told).env("WATCHDOG_USEC", "400000");
    let mapping = FdMapping { parent_fd: listener.into(), child_fd: 3 };
    started.fd_mappings(vec![mapping]).unwrap();
    let mut service = started.stdout(Stdio::null()).spawn().unwrap();
    drop(started);
    // The messages to the watchdog come between the others.
    let other = || wait_for("another word", || Some(next()).filter(|word| !word.contains("WATCH")));
    assert_eq!(other().trim(), "READY=1");
    let url = "http://qhost/health/live";
    let answered = || {
        let socket = socket.to_str().unwrap();
        succeed("curl", &["--silent", "--fail", "--unix-socket", socket, url]);
    };
    answered();
    for _ in 0..2 {
        assert_eq!(next().trim(), "WATCHDOG=1");
    }
    let pid = Pid::from_child(&service);
    kill_process(pid, Signal::HUP).unwrap();
    let reloading = other();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(other().trim(), "READY=1");
    answered();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(other().trim(), "STOPPING=1");
    assert!(service.wait().unwrap().success());
    assert!(socket.exists(), "its file is systemd's");
}
