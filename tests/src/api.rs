//! The service, and requests to it as its clients make them: by curl, on its socket or over the network.

mod attached;
mod network;
mod stream;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use attached::Attached;
pub use network::Certificate;
pub use stream::{Item, Stream};

use crate::{Qhost, command, wait_for};

/// `qhost serve`, with a socket that other users of its group reach.
pub struct Service {
    process: Child,
    folder: TempDir,
    /// The address on the network, if the service listens there.
    address: Option<SocketAddr>,
}

/// The answer to a request; status 0 stands for none.
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

    /// Panics if the status is another one.
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// The user or client that asks, on the socket or over the network.
#[derive(Debug, Clone, Copy)]
pub enum User<'a> {
    /// The user of the tests, be it root or not.
    Own,
    /// Another user of this number, in the socket's group.
    Number(u32),
    /// A client on the network that shows nothing.
    Unknown,
    /// A client on the network with a token.
    Token(&'a str),
    /// A browser with a session's cookie, on the service's own page.
    Session(&'a str),
    /// A client on the network with a certificate.
    Certificate(&'a Certificate),
}

impl Service {
    /// Starts a service, and waits until it answers.
    pub fn start(qhost: &Qhost) -> Self {
        Self::start_in(qhost, Self::new_folder(), &[])
    }

    /// Starts a service that listens on the network too, and waits until it answers.
    pub fn start_on_network(qhost: &Qhost) -> Self {
        Self::start_in(qhost, Self::new_folder(), &["--listen", "https://127.0.0.1:0"])
    }

    fn new_folder() -> TempDir {
        let folder = tempfile::Builder::new().prefix("qhost-api-").tempdir().expect("a folder");
        // Other users reach the socket by this folder.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(folder.path(), open).expect("a folder");
        folder
    }

    fn start_in(qhost: &Qhost, folder: TempDir, more: &[&str]) -> Self {
        let (socket, said) = (folder.path().join("api.sock"), folder.path().join("said"));
        let listen = ["serve", "--listen", socket.to_str().expect("a path")];
        let mut command = qhost.command(&[&listen, more].concat());
        let stderr = fs::File::create(&said).expect("a file");
        let process = command.stdout(Stdio::null()).stderr(stderr).spawn();
        let mut service = Self { process: process.expect("qhost serve"), folder, address: None };
        wait_for("the service", || (service.try_get("/health/live").status == 204).then_some(()));
        service.address = network::address(&fs::read_to_string(said).expect("what it said"));
        service
    }

    /// The service's URL on the network.
    pub fn url(&self) -> String {
        format!("https://{}", self.address.expect("it is on the network"))
    }

    /// Kills the service.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts the service again after it was killed, at the same socket.
    pub fn started_again(mut self, qhost: &Qhost) -> Self {
        let placeholder = tempfile::tempdir().expect("a folder");
        let folder = std::mem::replace(&mut self.folder, placeholder);
        Self::start_in(qhost, folder, &[])
    }

    /// The service's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The service's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// Sends the service a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("it runs");
    }

    /// Ends the service by SIGTERM, and waits for its end.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}");
        assert!(!self.socket().exists(), "its socket is left");
    }

    /// Sends a request without a body by this user.
    pub fn get(&self, path: &str) -> Answered {
        self.ask(User::Own, "GET", path, None, &[])
    }

    fn try_get(&self, path: &str) -> Answered {
        self.request(User::Own, "GET", path, None, &[])
    }

    /// Sends a request with a body by this user.
    pub fn post(&self, path: &str, body: &str) -> Answered {
        self.ask(User::Own, "POST", path, Some(body), &[])
    }

    /// Sends a request, which must be answered.
    pub fn ask(
        &self,
        user: User<'_>,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[&str],
    ) -> Answered {
        let answered = self.request(user, method, path, body, headers);
        assert_ne!(answered.status, 0, "{method} {path}: no answer");
        answered
    }

    /// Opens a stream of events.
    pub fn stream(&self, user: User<'_>, path: &str, after: Option<&str>) -> Stream {
        let mut curl = self.curl(user, path);
        curl.args(["--silent", "--no-buffer", "--include"]);
        if let Some(after) = after {
            curl.args(["--header", &format!("Last-Event-ID: {after}")]);
        }
        Stream::of(&mut curl)
    }

    /// Waits for the end of an operation that was accepted, and gives its result.
    pub fn done(&self, accepted: Answered) -> Value {
        let id = accepted.is(202).json()["id"].as_str().expect("an id").to_owned();
        wait_for("the operation", || {
            let operation =
                self.get(&format!("/v1/operations/{id}/wait?timeout_s=10")).is(200).json();
            (operation["state"] != "running").then_some(operation)
        })
    }

    /// The command for curl, as a user of this host or a client on the network runs it.
    fn curl(&self, user: User<'_>, path: &str) -> Command {
        let mut curl = match user {
            User::Number(uid) => {
                let mut setpriv = command("setpriv");
                let group = rustix::process::getegid().as_raw();
                setpriv.args([format!("--reuid={uid}"), format!("--regid={group}")]);
                setpriv.args(["--clear-groups", "curl"]);
                setpriv
            }
            _ => command("curl"),
        };
        match user {
            User::Own | User::Number(_) => {
                curl.arg("--unix-socket").arg(self.socket());
                curl.arg(format!("http://qhost{path}"));
                return curl;
            }
            User::Unknown => {}
            User::Token(token) => {
                curl.args(["--header", &format!("Authorization: Bearer {token}")]);
            }
            User::Session(token) => {
                curl.args(["--header", &format!("Cookie: other=1; __Host-qhost={token}")]);
                curl.args(["--header", "Sec-Fetch-Site: same-origin"]);
            }
            User::Certificate(certificate) => {
                curl.arg("--cert").arg(certificate.file()).arg("--key").arg(certificate.key());
            }
        }
        curl.arg("--insecure").arg(format!("{}{path}", self.url()));
        curl
    }

    /// Waits for the service's end, whatever causes it.
    pub fn ended(&mut self) {
        self.process.wait().expect("it ends");
    }

    /// Sends a request to a service that may be killed meanwhile: the status is 0 where there is no answer.
    pub fn request(
        &self,
        user: User<'_>,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[&str],
    ) -> Answered {
        let mut curl = self.curl(user, path);
        curl.args(["--silent", "--max-time", "100", "--request", method]);
        curl.args(["--write-out", "\n%{http_code} %{content_type}"]);
        for header in headers {
            curl.args(["--header", header]);
        }
        if body.is_some() {
            curl.args(["--data-binary", "@-", "--header", "content-type: application/json"]);
        }
        let mut asking = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl");
        // A service that refuses a body reads no more of it, so that writing may fail.
        let mut stdin = asking.stdin.take().expect("a pipe");
        let _refused = stdin.write_all(body.unwrap_or_default().as_bytes());
        drop(stdin);
        let output = asking.wait_with_output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            eprintln!("curl: {}", output.status);
        }
        let (body, told) = text.rsplit_once('\n').unwrap_or(("", "0 "));
        let (status, kind) = told.split_once(' ').unwrap_or(("0", ""));
        Answered { status: status.parse().unwrap_or(0), kind: kind.into(), body: body.into() }
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
