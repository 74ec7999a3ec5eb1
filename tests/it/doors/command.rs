//! The command, `qhost`.

use serde_json::Value;

use qhost::exit::Exit;
use qhost_engine::{Ending, Until};
use qhost_model::kind::Kind;
use qhost_tests::{Done, Qhost, wait_for};

use super::Door;

pub(super) struct Command<'a>(&'a Qhost);

impl<'a> Command<'a> {
    pub(super) fn new(qhost: &'a Qhost) -> Self {
        Self(qhost)
    }

    fn one(&self, args: &[&str]) -> Value {
        self.0.run(args).exits(0).json()["vms"][0].clone()
    }
}

/// What a door makes of a kind, the other way round.
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
        let done = self.0.run(&["run", "--detach", "--json", "--tenant", tenant, job]);
        // A guest that ends at once has been started all the same.
        match done.json()["vm"]["id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(kind(&done)),
        }
    }

    fn wait(&self, vm: &str, until: Until) -> Value {
        if until == Until::End {
            self.0.run(&["wait", vm]);
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

    fn end(&self, vm: &str, ending: Ending) -> Value {
        match ending {
            Ending::Stop(None) => self.one(&["stop", "--json", vm]),
            Ending::Stop(Some(grace)) => {
                self.one(&["stop", "--json", "--grace", &grace.as_secs().to_string(), vm])
            }
            Ending::Kill => self.one(&["kill", "--json", vm]),
        }
    }

    fn pause(&self, vm: &str) {
        self.0.run(&["pause", vm]).exits(0);
    }

    fn resume(&self, vm: &str) {
        self.0.run(&["resume", vm]).exits(0);
    }

    fn restart(&self, vm: &str) -> Value {
        self.one(&["restart", "--json", vm])
    }

    fn remove(&self, vm: &str) -> Result<(), Kind> {
        refused(&self.0.run(&["rm", vm]))
    }

    fn look(&self, word: &str) -> Result<Value, Kind> {
        let done = self.0.run(&["inspect", "--json", word]);
        refused(&done).map(|()| done.json())
    }

    fn list(&self) -> Vec<Value> {
        let vms = self.0.run(&["ps", "--all", "--json"]).exits(0).json();
        vms["vms"].as_array().unwrap().clone()
    }
}
