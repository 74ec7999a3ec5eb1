//! `qhost stop`, `kill`, `pause`, `resume`, `wait` and `rm`.

use std::{
    io,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{task::JoinHandle, time};

use qhost_engine::{name, recover};
use qhost_model::printable;
use qhost_sys::state::StateDir;
use qhost_vm::{AskError, Request, State, Status, Vm, VmError};

use super::{RunError, show};
use crate::{
    cli::{Shared, WaitArgs},
    limits,
    outcome::Exit,
};

/// Ends VMs by a request to stop or to kill them, and waits for their ends. None is asked where one has ended already.
pub(super) async fn end(
    shared: &Shared,
    state: &StateDir,
    names: &[String],
    request: Request,
) -> Result<Exit, RunError> {
    let vms: Vec<_> = going_on(state, names)?.into_iter().map(Ending::of).collect();
    // One that does not answer keeps no other waiting.
    let silent = join_all(vms.iter().map(|ending| ask(&ending.vm, request))).await;
    for (ending, _) in vms.iter().zip(silent).filter(|(_, is_silent)| *is_silent) {
        show::aside(shared, &silence(&ending.vm, request));
    }
    let mut ended = vec![];
    for ending in vms {
        let vm = ending.wait(limits::STOP_GRACE_MOST, Some(request)).await?;
        if !shared.json {
            show::tell(&summary(&vm));
        }
        ended.push(vm);
    }
    if shared.json {
        show::print(&show::json(&json!({ "vms": ended })));
    }
    Ok(Exit::Done)
}

/// The VMs of these names, which must all go on.
pub(super) fn going_on(state: &StateDir, names: &[String]) -> Result<Vec<Vm>, RunError> {
    let mut vms: Vec<Vm> = vec![];
    for name in names {
        let vm = name::named(state, name)?;
        if vm.status.state().is_final() {
            let state = vm.status.state().name();
            return Err(VmError::HasEnded { id: vm.id, state }.into());
        }
        if !vms.iter().any(|known| known.id == vm.id) {
            vms.push(vm);
        }
    }
    Ok(vms)
}

/// Asks a VM's supervisor; whether that is silent. A run that still fetches its image has no socket, and knows signals only.
async fn ask(vm: &Vm, request: Request) -> bool {
    match qhost_vm::ask(&vm.folder, request, limits::CONTROL_SILENT).await {
        Ok(_) => false,
        Err(AskError::Unanswered(error)) => {
            tracing::info!(vm = vm.id, %error, "its supervisor does not answer");
            if request == Request::Kill {
                vm.kill_qemu();
            }
            vm.signal_to_stop();
            error.kind() == io::ErrorKind::TimedOut
        }
        // It ended before it was asked to, which is found so below.
        Err(AskError::Refused(error)) => {
            tracing::info!(vm = vm.id, error, "not done");
            false
        }
    }
}

/// What is done where a supervisor says nothing.
fn silence(vm: &Vm, request: Request) -> String {
    let seconds = limits::CONTROL_SILENT.as_secs();
    let done = match request {
        Request::Kill => "SIGKILL was sent to QEMU, and SIGTERM to it".to_owned(),
        Request::Stop { .. }
        | Request::Restart { .. }
        | Request::Pause
        | Request::Resume
        | Request::Stats
        | Request::End
        | Request::Console => {
            format!("SIGTERM was sent to it; if that does not help: qhost kill {}", vm.id)
        }
    };
    format!(
        "waiting   {}: its supervisor has not answered for {seconds} s; {done}. Ctrl-C ends this wait, and takes nothing back",
        vm.id
    )
}

/// Asks for something that is done at once.
pub(super) async fn each(
    shared: &Shared,
    state: &StateDir,
    names: &[String],
    (request, done): (Request, &str),
) -> Result<Exit, RunError> {
    let vms = going_on(state, names)?;
    let mut ids = vec![];
    for vm in vms {
        let refused =
            |error: AskError| VmError::Refused { id: vm.id.clone(), reason: error.to_string() };
        qhost_vm::ask(&vm.folder, request, limits::CONTROL_REPLY).await.map_err(refused)?;
        if !shared.json {
            show::print(&format!("{done:<10} {}\n", vm.id));
        }
        ids.push(vm.id);
    }
    if shared.json {
        show::print(&show::json(&json!({ done: ids })));
    }
    Ok(Exit::Done)
}

pub(super) async fn wait(
    shared: &Shared,
    state: &StateDir,
    args: &WaitArgs,
) -> Result<Exit, RunError> {
    let vm = name::named(state, &args.which.name())?;
    let vm = Ending::of(vm).wait(Duration::from_secs(args.timeout), None).await?;
    if shared.json {
        show::print(&show::json(&vm))
    } else {
        show::tell(&summary(&vm))
    }
    let exited = vm.status.state() == State::Exited;
    Ok(if exited { Exit::Done } else { Exit::VmFailed })
}

/// A VM whose end is waited for.
struct Ending {
    vm: Vm,
    /// What its supervisor tells of its end.
    told: JoinHandle<Option<Status>>,
}

impl Ending {
    fn of(vm: Vm) -> Self {
        let folder = vm.folder.clone();
        Self { vm, told: tokio::spawn(async move { qhost_vm::end_of(&folder).await }) }
    }

    /// Waits until it is over. What was requested is asked again of another supervisor that comes meanwhile, for the one that was asked
    /// may have been killed; and to be killed it is asked again in any case.
    async fn wait(self, most: Duration, request: Option<Request>) -> Result<Vm, VmError> {
        let Self { mut vm, mut told } = self;
        let began = Instant::now();
        let mut asked = began;
        let mut asked_of = vm.status.supervisor.clone();
        let state = StateDir::new(vm.folder.ancestors().nth(2).unwrap_or(&vm.folder)).ok();
        let mut end: Option<Status> = None;
        let mut may_be_told = true;
        while !vm.is_over() {
            if began.elapsed() > most {
                return Err(VmError::Stays { id: vm.id, seconds: most.as_secs() });
            }
            if asked.elapsed() > limits::KILL_AGAIN {
                let is_unheard =
                    vm.status.supervisor != asked_of && vm.status.state() != State::Stopping;
                if let Some(request) = request.filter(|it| *it == Request::Kill || is_unheard) {
                    asked_of.clone_from(&vm.status.supervisor);
                    ask(&vm, request).await;
                }
                // Its supervisor may have been killed meanwhile.
                if let Some(state) = state.as_ref().filter(|_| end.is_none()) {
                    recover::recover(state).await;
                }
                asked = Instant::now();
            }
            tokio::select! {
                () = time::sleep(qhost_vm::limits::VM_POLL) => {}
                status = &mut told, if may_be_told => {
                    (may_be_told, end) = (false, status.ok().flatten());
                }
            }
            match vm.again() {
                Some(now) => vm = now,
                // One that was never launched takes its folder along; another was removed since it ended.
                None => return Ok(vm.gone()),
            }
        }
        // The supervisor tells it before it ends, so that it is known by now if it is ever.
        if may_be_told && vm.status.state() == State::Lost {
            end = time::timeout(qhost_vm::limits::VM_POLL, told)
                .await
                .ok()
                .and_then(Result::ok)
                .flatten();
        }
        // What it says is true where nothing could be written.
        if let Some(end) = end.filter(|_| vm.status.state() == State::Lost) {
            vm.status = end;
        }
        Ok(vm)
    }
}

pub(super) fn summary(vm: &Vm) -> String {
    let last = vm.status.changes().last();
    let reason = last.and_then(|change| change.reason.as_deref()).unwrap_or_default();
    let (state, reason) = (vm.status.state().name(), printable::line(reason, 300));
    format!("{state:<10} {}  {reason}\n", vm.id).replace("  \n", "\n")
}

pub(super) fn remove(
    shared: &Shared,
    state: &StateDir,
    names: &[String],
) -> Result<Exit, RunError> {
    let mut removed = vec![];
    for name in names {
        let vm = name::named(state, name)?;
        if !vm.remove(state)? {
            return Err(VmError::GoesOn { id: vm.id }.into());
        }
        if !shared.json {
            show::print(&format!("removed    {}\n", vm.id));
        }
        removed.push(vm.id);
    }
    if shared.json {
        show::print(&show::json(&json!({ "removed": removed })));
    }
    Ok(Exit::Done)
}
