//! `qhost stop`, `kill`, `pause`, `resume`, `wait` and `rm`.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time;

use super::{RunError, show};
use crate::{
    cli::{Shared, WaitArgs},
    limits,
    outcome::Exit,
    printable,
    state::StateDir,
    vm::{self, AskError, Request, State, Vm, VmError},
};

/// Ends VMs by a request to stop or to kill them, and waits for their ends. None is asked where one has ended already.
pub(super) async fn end(
    shared: &Shared,
    state: &StateDir,
    names: &[String],
    request: Request,
) -> Result<Exit, RunError> {
    let vms = going_on(state, names)?;
    for vm in &vms {
        ask(vm, request).await;
    }
    let mut ended = vec![];
    for vm in vms {
        let vm = until_end(vm, limits::STOP_GRACE_MOST, Some(request)).await?;
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
        let vm = vm::named(state, name)?;
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

/// Asks whoever looks after a VM. A run that still fetches its image has no socket, and knows signals only.
async fn ask(vm: &Vm, request: Request) {
    match vm::ask(&vm.folder, request, limits::CONTROL_REPLY).await {
        Ok(_) => {}
        Err(AskError::Unanswered(error)) => {
            tracing::info!(vm = vm.id, %error, "its supervisor does not answer");
            if request == Request::Kill {
                vm::kill_qemu(vm);
            }
            ask_to_stop(vm);
        }
        // It ended before it was asked to, which is found so below.
        Err(AskError::Refused(error)) => tracing::info!(vm = vm.id, error, "not done"),
    }
}

/// Asks by a signal, which whoever looks after a VM hears in any case.
pub(in crate::run) fn ask_to_stop(vm: &Vm) {
    if !vm::signal_supervisor(vm) {
        tracing::info!(vm = vm.id, "nobody was there to be asked");
    }
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
        vm::ask(&vm.folder, request, limits::CONTROL_REPLY).await.map_err(refused)?;
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
    let vm = vm::named(state, &args.which.name())?;
    let vm = until_end(vm, Duration::from_secs(args.timeout), None).await?;
    match shared.json {
        true => show::print(&show::json(&vm)),
        false => show::tell(&summary(&vm)),
    }
    let exited = vm.status.state() == State::Exited;
    Ok(if exited { Exit::Done } else { Exit::VmFailed })
}

/// Waits until a VM is over. What was requested is asked again of somebody else who looks after it meanwhile, for whoever was
/// asked may have been killed; and to be killed it is asked again in any case.
async fn until_end(mut vm: Vm, most: Duration, request: Option<Request>) -> Result<Vm, VmError> {
    let began = Instant::now();
    let mut asked = began;
    let mut asked_of = vm.status.supervisor.clone();
    let state = StateDir::new(vm.folder.ancestors().nth(2).unwrap_or(&vm.folder)).ok();
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
            // Whoever looked after it may have been killed meanwhile.
            if let Some(state) = &state {
                vm::recover(state).await;
            }
            asked = Instant::now();
        }
        time::sleep(limits::VM_POLL).await;
        match vm.again() {
            Some(now) => vm = now,
            // One that was never launched takes its folder along; another was removed since it ended.
            None => return Ok(vm.gone()),
        }
    }
    Ok(vm)
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
        let vm = vm::named(state, name)?;
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
