//! The service, and requests to it as users of this host make them: by curl, on its socket.

mod stream;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use stream::{Item, Stream};

use crate::{Qhost, command, wait_for};

/// `qhost serve`, with a socket that others of its group reach.
pub struct Service {
    process: Child,
    folder: TempDir,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The media type.
    pub kind: String,
    /// The body.
    pub body: String,
}

impl Answered {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Panics where the status is another one.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The user of the tests, root's or not.
    Own,
    /// Another user of this number, in the socket's group.
    Number(u32),
}

impl Service {
    /// Starts it, and waits until it answers.
    pub fn start(qhost: &Qhost) -> Self {
        let folder = tempfile::Builder::new().prefix("qhost-api-").tempdir().expect("a folder");
        // Other users reach the socket by its folder.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).expect("a folder");
        Self::start_in(qhost, folder)
    }

    fn start_in(qhost: &Qhost, folder: TempDir) -> Self {
        let socket = folder.path().join("api.sock");
        let mut command = qhost.command(&["serve", "--listen", socket.to_str().expect("a path")]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let service = Self { process: process.expect("qhost serve"), folder };
        wait_for("the service", || (service.try_get("/health/live").status == 204).then_some(()));
        service
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// The same once more after it was killed, at the same socket.
    pub fn started_again(mut self, qhost: &Qhost) -> Self {
        let placeholder = tempfile::tempdir().expect("a folder");
        let folder = std::mem::replace(&mut self.folder, placeholder);
        Self::start_in(qhost, folder)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}");
        assert!(!self.socket().exists(), "its socket is left");
    }

    /// A request without a body by this user.
    pub fn get(&self, path: &str) -> Answered {
        self.ask(User::Own, "GET", path, None, &[])
    }

    fn try_get(&self, path: &str) -> Answered {
        request(&self.socket(), User::Own, "GET", path, None, &[])
    }

    /// A request with a body by this user.
    pub fn post(&self, path: &str, body: &str) -> Answered {
        self.ask(User::Own, "POST", path, Some(body), &[])
    }

    /// A request.
    pub fn ask(
        &self,
        user: User,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[&str],
    ) -> Answered {
        let answered = request(&self.socket(), user, method, path, body, headers);
        assert_ne!(answered.status, 0, "{method} {path}: no answer");
        answered
    }

    /// A stream, and what comes of it.
    pub fn stream(&self, user: User, path: &str, after: Option<&str>) -> Stream {
        let mut curl = curl(user);
        curl.args(["--silent", "--no-buffer", "--include", "--unix-socket"]).arg(self.socket());
        if let Some(after) = after {
            curl.args(["--header", &format!("Last-Event-ID: {after}")]);
        }
        Stream::of(curl.arg(format!("http://qhost{path}")))
    }

    /// What has come of an operation that was accepted.
    pub fn done(&self, accepted: Answered) -> Value {
        let id = accepted.is(202).json()["id"].as_str().expect("an id").to_owned();
        wait_for("the operation", || {
            let operation =
                self.get(&format!("/v1/operations/{id}/wait?timeout_s=10")).is(200).json();
            (operation["state"] != "running").then_some(operation)
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.process.kill().expect("it runs");
            self.process.wait().expect("it ends");
        }
    }
}

/// curl, as a user of this host runs it.
fn curl(user: User) -> Command {
    match user {
        User::Own => command("curl"),
        User::Number(uid) => {
            let mut setpriv = command("setpriv");
            let group = rustix::process::getegid().as_raw();
            setpriv.args([format!("--reuid={uid}"), format!("--regid={group}")]);
            setpriv.args(["--clear-groups", "curl"]);
            setpriv
        }
    }
}

/// Status 0 where there is no answer.
fn request(
    socket: &Path,
    user: User,
    method: &str,
    path: &str,
    body: Option<&str>,
    headers: &[&str],
) -> Answered {
    let mut curl = curl(user);
    curl.args(["--silent", "--max-time", "100", "--request", method]);
    curl.args(["--write-out", "\n%{http_code} %{content_type}", "--unix-socket"]).arg(socket);
    for header in headers {
        curl.args(["--header", header]);
    }
    if body.is_some() {
        curl.args(["--data-binary", "@-", "--header", "content-type: application/json"]);
    }
    let mut asking = curl
        .arg(format!("http://qhost{path}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl");
    // A service that refuses a body reads no more of it.
    let mut stdin = asking.stdin.take().expect("a pipe");
    let _refused = stdin.write_all(body.unwrap_or_default().as_bytes());
    drop(stdin);
    let output = asking.wait_with_output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, told) = text.rsplit_once('\n').unwrap_or(("", "0 "));
    let (status, kind) = told.split_once(' ').unwrap_or(("0", ""));
    Answered { status: status.parse().unwrap_or(0), kind: kind.into(), body: body.into() }
}
