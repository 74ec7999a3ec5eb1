//! The command, `qhost`: by the engine, and by a service that `--host` names.

use std::fs::{self, File};

use rustix::process::{Pid, Signal, kill_process};

use serde_json::Value;

use qhost::exit::Exit;
use qhost_engine::{Termination, Until};
use qhost_model::kind::Kind;
use qhost_tests::{Done, Qhost, api::Service, wait_for};

use super::Door;

pub(super) struct Command<'a> {
    qhost: &'a Qhost,
    service: Option<Service>,
}

impl<'a> Command<'a> {
    pub(super) fn new(qhost: &'a Qhost) -> Self {
        Self { qhost, service: None }
    }

    /// Opens the door by a service under the current configuration; an earlier service ends.
    pub(super) fn of_service(qhost: &'a Qhost) -> Self {
        let path = qhost.folder().join("qhost.toml");
        let config = fs::read_to_string(&path).unwrap_or_default();
        if !config.contains("[image.network]") {
            qhost.config(&(config + "\n[image.network]\nallow = [\"127.0.0.0/8\"]\n"));
        }
        let noted = qhost.folder().join("service");
        if let Ok(before) = fs::read_to_string(&noted) {
            let pid = Pid::from_raw(before.parse().unwrap()).unwrap();
            // The service may have ended with the door that had it.
            let _ended = kill_process(pid, Signal::KILL);
            // The last thread of the killed service has the state folder until it has gone.
            let lock = qhost.state().join("operations/lock");
            let is_free = || File::open(&lock).unwrap().try_lock().is_ok();
            wait_for("its end", || is_free().then_some(()));
        }
        let service = Service::start(qhost);
        fs::write(&noted, service.pid().to_string()).unwrap();
        Self { qhost, service: Some(service) }
    }

    fn run(&self, args: &[&str]) -> Done {
        let Some(service) = &self.service else { return self.qhost.run(args) };
        let host = format!("unix:{}", service.socket().display());
        self.qhost.run(&[&["--host", &host], args].concat())
    }

    fn one(&self, args: &[&str]) -> Value {
        self.run(args).exits(0).json()["vms"][0].clone()
    }
}

/// The kind of error that an exit code stands for.
fn kind(done: &Done) -> Kind {
    let all = [
        Kind::InvalidArgument,
        Kind::InvalidJob,
        Kind::Denied,
        Kind::PolicyFailed,
        Kind::Unavailable,
        Kind::ChecksumMismatch,
        Kind::ImageRejected,
        Kind::HostUnable,
        Kind::VmFailed,
    ];
    let code = |kind: &Kind| i32::from(Exit::of(*kind).code());
    let found = all.into_iter().find(|kind| code(kind) == done.code);
    found.unwrap_or_else(|| panic!("{done:?}"))
}

fn refused(done: &Done) -> Result<(), Kind> {
    if done.code == 0 { Ok(()) } else { Err(kind(done)) }
}

impl Door for Command<'_> {
    fn start(&self, job: &str, tenant: &str) -> Result<String, Kind> {
        let done = self.run(&["run", "--detach", "--json", "--tenant", tenant, job]);
        // A guest that ends at once has been started all the same.
        match done.json()["vm"]["id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(kind(&done)),
        }
    }

    fn wait(&self, vm: &str, until: Until) -> Value {
        if until == Until::End {
            self.run(&["wait", vm]);
        }
        wait_for("the VM", || {
            let record = self.look(vm).unwrap();
            let is = |states: &[&str]| states.iter().any(|state| record["state"] == **state);
            let reached = match until {
                Until::Running => is(&["running"]),
                Until::Ready => record["ready_at"].is_string(),
                Until::End => false,
            };
            (reached || is(&["exited", "failed", "lost"])).then_some(record)
        })
    }

    fn end(&self, vm: &str, ending: Termination) -> Value {
        match ending {
            Termination::Stop(None) => self.one(&["stop", "--json", vm]),
            Termination::Stop(Some(grace)) => {
                self.one(&["stop", "--json", "--grace", &grace.as_secs().to_string(), vm])
            }
            Termination::Kill => self.one(&["kill", "--json", vm]),
        }
    }

    fn pause(&self, vm: &str) {
        self.run(&["pause", vm]).exits(0);
    }

    fn resume(&self, vm: &str) {
        self.run(&["resume", vm]).exits(0);
    }

    fn restart(&self, vm: &str) -> Value {
        self.one(&["restart", "--json", vm])
    }

    fn remove(&self, vm: &str) -> Result<(), Kind> {
        refused(&self.run(&["rm", vm]))
    }

    fn look(&self, word: &str) -> Result<Value, Kind> {
        let done = self.run(&["inspect", "--json", word]);
        refused(&done).map(|()| done.json())
    }

    fn list(&self) -> Vec<Value> {
        let vms = self.run(&["ps", "--all", "--json"]).exits(0).json();
        vms["vms"].as_array().unwrap().clone()
    }
}
