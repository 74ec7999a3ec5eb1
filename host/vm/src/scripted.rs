//! A QEMU that a script plays, on a clock that does not wait, for behaviour that a real QEMU does not show when it is told to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{mpsc, watch},
    time::{self, Instant},
};

use qhost_model::{job, quota::Usage};
use qhost_sys::{state::StateDir, stop::Stop};

use super::{
    End, State, VmDir,
    monitor::Monitor,
    process::{ProcessExit, Watched},
    published::Published,
    qemu::{self, Qemu},
    qmp::Qmp,
    request::{Ask, Request},
    session::Session,
};

/// What the scripted QEMU does about a command.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reaction {
    /// QEMU does nothing, and does not answer.
    Ignores,
    /// QEMU answers, and does nothing.
    Answers,
    /// QEMU refuses the command.
    Refuses,
    /// QEMU closes its control socket, and goes on.
    Closes,
    /// QEMU says that the guest has shut down, or that QEMU quits, and exits after so many seconds.
    Exits(u64),
}

/// What the scripted QEMU does about each step that is to stop it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) powerdown: Reaction,
    pub(super) quit: Reaction,
    /// Seconds from the first SIGKILL to QEMU's exit.
    pub(super) killed: u64,
}

/// What is asked of QEMU's supervisor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Request(Request),
    Signal,
}

/// The steps that were taken, each at its second, and the end that they led to.
#[derive(Debug, PartialEq)]
pub(super) struct Trace {
    pub(super) steps: Vec<(u64, String)>,
    pub(super) end: End,
    /// Whether the VM is to be started again.
    pub(super) again: bool,
    pub(super) ended_at: u64,
}

/// The steps so far.
#[derive(Debug, Clone)]
struct Steps {
    began: Instant,
    all: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Steps {
    fn note(&self, step: &str) {
        self.all.lock().unwrap().push((self.began.elapsed().as_secs(), step.to_owned()));
    }
}

/// The scripted QEMU's process.
#[derive(Debug)]
pub(super) struct Process {
    exit: watch::Sender<Option<ProcessExit>>,
    steps: Steps,
    killed: Duration,
}

impl Process {
    pub(super) async fn end(&self) -> ProcessExit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.unwrap();
        exit.unwrap()
    }

    pub(super) fn kill(&self) {
        self.steps.note("SIGKILL");
        let (exit, after) = (self.exit.clone(), self.killed);
        tokio::spawn(async move {
            time::sleep(after).await;
            exit.send_if_modified(|exit| exit.replace(ProcessExit::Signal(9)).is_none());
        });
    }
}

/// Stops a running guest by these requests, each at its second.
pub(super) async fn stopped(script: Script, requests: &[(u64, Asked)]) -> Trace {
    let folder = tempfile::tempdir().unwrap();
    let steps = Steps { began: Instant::now(), all: Arc::default() };
    let exit = watch::Sender::new(None);
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve(theirs, script, steps.clone(), exit.clone()));
    let killed = Duration::from_secs(script.killed);
    let mut qemu = Qemu::of(Watched::Scripted(Process { exit, steps: steps.clone(), killed }));
    let mut qmp = Qmp::greeted(ours).await.unwrap();
    qmp.negotiate().await.unwrap();

    let (asking, asks) = mpsc::channel(16);
    let (signals, heard) = watch::channel(0);
    tokio::spawn(ask(requests.to_vec(), steps.began, asking, signals));
    let mut session = session(&StateDir::new(folder.path()).unwrap(), asks, Stop::from(heard));
    let mut monitor = Monitor::new(&mut session, &mut qemu, qmp, None);
    monitor.resume().await.unwrap();
    let (exit, seen) = monitor.until_exit().await;
    let (again, ended_at) = (seen.asked().again, steps.began.elapsed().as_secs());
    let end = seen.end(exit, "", false);
    assert_eq!(session.dir.status().state() == State::Stopping, !requests.is_empty());
    Trace { steps: steps.all.lock().unwrap().clone(), end, again, ended_at }
}

/// Makes each request at its time, and keeps the channels open.
async fn ask(
    requests: Vec<(u64, Asked)>,
    began: Instant,
    asking: mpsc::Sender<Ask>,
    signals: watch::Sender<u32>,
) {
    for (at, asked) in requests {
        time::sleep_until(began + Duration::from_secs(at)).await;
        match asked {
            Asked::Request(request) => {
                let (ask, answer) = Ask::of(request);
                asking.send(ask).await.unwrap();
                assert_eq!(answer.await.unwrap(), Ok(true.into()));
            }
            Asked::Signal => signals.send_modify(|count| *count += 1),
        }
    }
    std::future::pending::<()>().await;
}

fn session(state: &StateDir, asks: mpsc::Receiver<Ask>, stop: Stop) -> Session {
    let job = json!({
        "name": "test",
        "driver": "qemu",
        "config": {"image_source": "https://images.example/x", "checksum": "0".repeat(64)},
        "resources": {"memory_mib": 32},
    });
    let task = job::parse("job.json", job.to_string().as_bytes(), "acme", None).unwrap();
    let mut dir = VmDir::create(state, &task, Usage::default(), None, || Ok(())).unwrap();
    dir.enter_with(State::Starting, None, |_| {});
    let spec = json!({
        "vm": dir.id(), "task": "test", "tenant": "acme", "resources": task.asked.resources, "forwards": [],
        "image": {"path": "/image", "sha256": "0".repeat(64), "format": "raw", "disk_bytes": 512},
        "overlay": null, "overlay_bytes": 512, "grace_s": GRACE_S, "restart": task.restart, "ready": null,
        "cage": {
            "level": "best-effort", "lacks": [], "user": "caller", "namespaces": false, "landlock": false,
            "seccomp": false, "cgroup": null, "network": "none", "kvm": false,
            "rlimits": {"files": 1, "file_bytes": 1, "processes": null}, "paths": [],
        },
        "program": "/qemu", "argv": [],
    });
    let (spec, console) = (serde_json::from_value(spec).unwrap(), qemu::console());
    let published = watch::Sender::new(Published::default());
    Session { spec, dir, stop, heard: 0, asks, console, copy: None, published }
}

/// The grace of a request that has none of its own, in seconds.
pub(super) const GRACE_S: u64 = 60;

/// The scripted QEMU's side of the control socket.
async fn serve(
    mut stream: UnixStream,
    script: Script,
    steps: Steps,
    exit: watch::Sender<Option<ProcessExit>>,
) {
    stream.write_all(b"{\"QMP\": {}}\n").await.unwrap();
    let mut gone = exit.subscribe();
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        tokio::select! {
            read = stream.read_line(&mut line) => if read.unwrap_or(0) == 0 { return },
            _ = gone.wait_for(Option::is_some) => return,
        }
        let command: Value = serde_json::from_str(&line).unwrap();
        let name = command["execute"].as_str().unwrap();
        let (reaction, reason) = match name {
            "system_powerdown" => (script.powerdown, "guest-shutdown"),
            "quit" => (script.quit, "host-qmp-quit"),
            _ => (Reaction::Answers, ""),
        };
        if !reason.is_empty() {
            steps.note(name);
        }
        let id = &command["id"];
        let answer = match reaction {
            Reaction::Ignores => continue,
            Reaction::Closes => return,
            Reaction::Refuses => {
                json!({"error": {"class": "GenericError", "desc": "no"}, "id": id})
            }
            Reaction::Answers | Reaction::Exits(_) => json!({"return": {}, "id": id}),
        };
        stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        if let Reaction::Exits(after) = reaction {
            time::sleep(Duration::from_secs(after)).await;
            let event = json!({"event": "SHUTDOWN", "data": {"reason": reason}, "timestamp": {}});
            stream.get_mut().write_all(format!("{event}\n").as_bytes()).await.unwrap();
            drop(stream);
            exit.send_if_modified(|exit| exit.replace(ProcessExit::Code(0)).is_none());
            return;
        }
    }
}
