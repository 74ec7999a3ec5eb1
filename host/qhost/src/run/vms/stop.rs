//! `qhost stop`, `kill`, `pause`, `resume`, `wait` and `rm`.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time;

use qhost_engine::{Context, Engine, EngineError, Observation, Observer, Termination, Until, Vm};
use qhost_image::Progress;
use qhost_model::printable;
use qhost_vm::{State, VmError, VmRecord};

use super::{RunError, actor, each_once, show};
use crate::{
    cli::{Shared, VmsArgs, WaitArgs},
    exit::Exit,
};

/// An observer that tells only of a silent supervisor.
pub(super) struct Asides {
    quiet: bool,
}

impl Asides {
    pub(super) fn of(shared: &Shared) -> Self {
        Self { quiet: shared.json }
    }
}

impl Progress for Asides {}

impl Observer for Asides {
    fn observe(&self, observation: Observation<'_>) {
        if let Observation::Silent { vm, killed } = observation
            && !self.quiet
        {
            show::say(&show::silence(vm, killed));
        }
    }
}

/// Ends VMs, and waits for their ends.
pub(super) async fn end(
    shared: &Shared,
    vms: Vec<Vm>,
    ending: Termination,
) -> Result<Exit, RunError> {
    let observer = Arc::new(Asides::of(shared));
    let context = Context { observer, ..Context::default() };
    // All VMs are ended at once, so that a supervisor that does not answer keeps no other VM waiting.
    let mut ended = vec![];
    for vm in join_all(vms.iter().map(|vm| vm.end(ending, &context))).await {
        let vm = vm?;
        if !shared.json {
            show::tell(&summary(&vm));
        }
        ended.push(vm);
    }
    done_with(shared, &ended);
    Ok(Exit::Done)
}

pub(super) async fn pause(shared: &Shared, vms: Vec<Vm>) -> Result<Exit, RunError> {
    each(shared, "paused", vms, Vm::pause).await
}

pub(super) async fn resume(shared: &Shared, vms: Vec<Vm>) -> Result<Exit, RunError> {
    each(shared, "running", vms, Vm::resume).await
}

pub(super) async fn remove(
    shared: &Shared,
    engine: &Engine,
    args: &VmsArgs,
) -> Result<Exit, RunError> {
    let mut vms = vec![];
    for name in &args.names() {
        vms.push(engine.vm(name).await?);
    }
    let actor = actor(args.of.tenant.clone());
    let removed = async |vm: &Vm| {
        vm.note_request("remove", &actor).await;
        vm.remove().await
    };
    each(shared, "removed", each_once(vms), removed).await
}

/// Does one operation to each VM, and prints its word.
async fn each(
    shared: &Shared,
    word: &str,
    vms: Vec<Vm>,
    action: impl AsyncFn(&Vm) -> Result<(), EngineError>,
) -> Result<Exit, RunError> {
    let mut ids = vec![];
    for vm in vms {
        action(&vm).await?;
        done(shared, word, vm.id());
        ids.push(vm.id().to_owned());
    }
    done_with_each(shared, word, &ids);
    Ok(Exit::Done)
}

pub(super) async fn wait(
    shared: &Shared,
    engine: &Engine,
    args: &WaitArgs,
) -> Result<Exit, RunError> {
    let vm = engine.latest_vm(&args.which.name()).await?;
    let context = Context::default();
    let most = Duration::from_secs(args.timeout);
    let ended = time::timeout(most, vm.wait(Until::End, &context)).await;
    let stays = |_| VmError::Stays { id: vm.id().to_owned(), seconds: args.timeout };
    Ok(waited(shared, &ended.map_err(stays)??))
}

/// Says how a VM ended.
pub(in crate::run) fn waited(shared: &Shared, vm: &VmRecord) -> Exit {
    if shared.json {
        show::print(&show::json(vm))
    } else {
        show::tell(&summary(vm))
    }
    let exited = vm.status.state() == State::Exited;
    if exited { Exit::Done } else { Exit::VmFailed }
}

/// Prints the VMs of an operation in JSON; text was printed for each already.
pub(in crate::run) fn done_with(shared: &Shared, vms: &[VmRecord]) {
    if shared.json {
        show::print(&show::json(&json!({ "vms": vms })));
    }
}

/// Prints the word of an operation that was done to a VM.
pub(in crate::run) fn done(shared: &Shared, word: &str, id: &str) {
    if !shared.json {
        show::print(&format!("{word:<10} {id}\n"));
    }
}

/// Prints the VMs of an operation in JSON, by its word.
pub(in crate::run) fn done_with_each(shared: &Shared, word: &str, ids: &[String]) {
    if shared.json {
        show::print(&show::json(&json!({ word: ids })));
    }
}

pub(in crate::run) fn summary(vm: &VmRecord) -> String {
    let last = vm.status.changes().last();
    let reason = last.and_then(|change| change.reason.as_deref()).unwrap_or_default();
    let (state, reason) = (vm.status.state().name(), printable::line(reason, 300));
    format!("{state:<10} {}  {reason}\n", vm.id).replace("  \n", "\n")
}
