//! A VM that runs, seen from the command that started it.

use std::path::Path;

use tokio::{task::JoinHandle, time};

use qhost_engine::recover;
use qhost_sys::stop::Stop;
use qhost_vm::{Attached, End, Notification, Spec, State, Status, Vm};

use super::{Host, show::Steps};
use crate::{
    cli::Until,
    outcome::{Exit, VmReport},
};

/// Follows it until what is waited for, or its end.
pub(super) async fn until(
    until: Until,
    host: &Host,
    folder: &Path,
    (mut attached, spec): (Attached, &Spec),
    steps: &Steps,
    stop: &mut Stop,
) -> Vm {
    let mut asked = 0;
    let mut told = None;
    loop {
        tokio::select! {
            note = attached.note() => match note {
                Some(Notification::Changed(change)) if change.state == State::Running => {
                    let at = folder.to_owned();
                    told.get_or_insert_with(|| tokio::spawn(async move { qhost_vm::end_of(&at).await }));
                    steps.running(spec, &Vm::at(folder).console_log());
                    if until == Until::Running {
                        return Vm::at(folder);
                    }
                }
                Some(Notification::Changed(change)) if change.state == State::Starting => {
                    if let Some(reason) = &change.reason {
                        steps.doing("starting", reason);
                    }
                }
                Some(Notification::Ready) => {
                    steps.doing("ready", "the job's ready check holds");
                    if until == Until::Ready {
                        return Vm::at(folder);
                    }
                }
                Some(Notification::Doing(doing)) => steps.doing("stopping", &doing),
                Some(Notification::Changed(_) | Notification::Adopted) => {}
                None => break,
            },
            () = stop.asked(asked + 1) => {
                asked += 1;
                attached.ask_to_stop();
            }
        }
    }
    // The supervisor has ended: with its VM, or it was killed, and another looks after the VM from now on.
    let mut tries: u32 = 0;
    loop {
        tries = tries.saturating_add(1);
        let now = Vm::at(folder);
        let is_reached = match until {
            Until::End => false,
            Until::Running => now.held && now.status.state() == State::Running,
            Until::Ready => now.held && now.status.ready_at.is_some(),
        };
        if is_reached || (now.status.state().is_final() && now.is_over()) {
            return as_told(now, told).await;
        }
        if tries % 25 == 1 {
            recover::recover(&host.state).await;
        }
        tokio::select! {
            () = time::sleep(qhost_vm::limits::VM_POLL) => {}
            () = stop.asked(asked + 1) => {
                asked += 1;
                now.signal_to_stop();
            }
        }
    }
}

/// Where its end could not be written down, what its supervisor has told is true.
async fn as_told(mut vm: Vm, told: Option<JoinHandle<Option<Status>>>) -> Vm {
    if vm.status.state() == State::Lost
        && let Some(told) = told
        && let Ok(Ok(Some(status))) = time::timeout(qhost_vm::limits::VM_POLL, told).await
    {
        vm.status = status;
    }
    vm
}

/// The exit code of a command that has followed it so far.
pub(super) fn exit(vm: &Vm, until: Until) -> Exit {
    if !vm.status.state().is_final() {
        return Exit::Done;
    }
    match vm.status.ended.as_ref().map(|ended| &ended.end) {
        Some(End::ShutDown) if until == Until::Ready => Exit::VmFailed,
        Some(End::ShutDown) => Exit::Done,
        Some(End::Stopped { .. }) => Exit::Interrupted,
        Some(End::NotStarted { cannot_run: true, .. }) => Exit::CannotRun,
        Some(End::Panicked | End::Unseen | End::Failed { .. } | End::NotStarted { .. }) | None => {
            Exit::VmFailed
        }
    }
}

/// What is known of it.
pub(super) fn report(vm: &Vm, spec: &Spec) -> VmReport {
    let ended = vm.status.ended.clone();
    let failed = ended.as_ref().is_some_and(|ended| ended.end.is_failure());
    VmReport {
        id: vm.id.clone(),
        folder: vm.folder.display().to_string(),
        console_log: vm.console_log().display().to_string(),
        ports: spec.forwards.clone(),
        state: vm.status.state(),
        started_at: vm.status.started_at,
        ended_at: ended.as_ref().map(|ended| ended.ended_at),
        end: ended.map(|ended| ended.end),
        cage: spec.cage.summary(),
        console_tail: if failed { qhost_vm::console_tail(&vm.folder) } else { String::new() },
    }
}
