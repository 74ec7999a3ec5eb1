//! `qhost restart` and `qhost recover`: VMs that are started again.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time;

use qhost_engine::{
    admission, name,
    overlays::KeptOverlay,
    ports,
    recover::{self, Recovered},
    start::{self, VmLocks},
};
use qhost_image::{Fetcher, Store};
use qhost_model::{job::Task, masks::is_masked, printable};
use qhost_policy::Decision;
use qhost_sys::{state::StateDir, stop::Stop};
use qhost_vm::{AskError, Request, Spec, State, Vm, VmError};

use super::{Host, RunError, show, stop::summary};
use crate::{
    cli::{Shared, StopArgs, Until},
    limits,
    outcome::Exit,
    run::follow,
};

pub(super) async fn restart(shared: &Shared, args: &StopArgs) -> Result<Exit, RunError> {
    let host = Host::new(shared)?;
    let mut vms = vec![];
    for name in &args.which.names() {
        let vm = name::named(&host.state, name)?;
        let vm = if vm.status.state().is_final() {
            start(shared, &host, &vm, "asked to restart").await?
        } else {
            stop_and_start(&host.state, &vm, args.grace).await?
        };
        if !shared.json {
            show::tell(&summary(&vm));
        }
        vms.push(vm);
    }
    let failed = vms.iter().any(|vm| vm.status.state().is_final());
    if shared.json {
        show::print(&show::json(&json!({ "vms": vms })));
    }
    Ok(if failed { Exit::VmFailed } else { Exit::Done })
}

/// Its supervisor stops QEMU and starts it again; waits until the guest runs, or has ended.
async fn stop_and_start(state: &StateDir, vm: &Vm, grace_s: Option<u64>) -> Result<Vm, RunError> {
    let refused =
        |error: AskError| VmError::Refused { id: vm.id.clone(), reason: error.to_string() };
    let was = vm.status.started_at;
    qhost_vm::ask(&vm.folder, Request::Restart { grace_s }, limits::CONTROL_REPLY)
        .await
        .map_err(refused)?;
    let most = std::time::Instant::now() + limits::STOP_GRACE_MOST;
    let mut looked = std::time::Instant::now();
    loop {
        // The supervisor that heard it may have been killed.
        if looked.elapsed() > limits::KILL_AGAIN {
            recover::recover(state).await;
            looked = std::time::Instant::now();
        }
        let now = Vm::at(&vm.folder);
        let runs = now.status.state() == State::Running && now.status.started_at != was;
        if runs || now.status.state().is_final() {
            return Ok(now);
        }
        if std::time::Instant::now() > most {
            let seconds = limits::STOP_GRACE_MOST.as_secs();
            return Err(VmError::Stays { id: now.id, seconds }.into());
        }
        time::sleep(qhost_vm::limits::VM_POLL).await;
    }
}

/// Starts a VM that has ended: what was decided about it holds; its cage is settled, and all that it uses is held, anew.
async fn start(shared: &Shared, host: &Host, vm: &Vm, why: &str) -> Result<Vm, RunError> {
    let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
    let steps = show::Steps::new(shared);
    let mut spec = Spec::read(&vm.folder)?;
    let task: Task = read(vm.folder.join("task.json"))?;
    let decision: Decision = read(vm.folder.join("decision.json"))?;
    // This host and its configuration may have changed since.
    let needs = qhost_cage::Requirements {
        tenant: &task.tenant,
        launch: &decision.launch,
        forwards: &spec.forwards,
        overlay_bytes: spec.overlay_bytes,
        program: &spec.program,
        unfiltered_internet: host.config.unfiltered_internet(),
    };
    spec.cage = qhost_cage::Host::detect(&host.config.cage).cage(&host.config.cage, needs)?;
    let ports = ports::reserve_again(&host.state, &spec.forwards)?;
    let mut kept = KeptOverlay::hold(&host.state, &task)?;
    let terms = host.config.terms(&task.tenant);
    let goes_on = || VmError::GoesOn { id: vm.id.clone() };
    let dir = admission::admit_again(&host.state, vm, &terms)?.ok_or_else(goes_on)?;
    let store = Store::new(host.state.path());
    let lost = task.image.sources().find(|source| is_masked(source));
    if let Some(lost) = lost
        && store.would_fetch(&task.image, &task.tenant, &host.config.image)?
    {
        let (sha256, source_url) = (task.image.checksum.pin(), qhost_image::shown(lost));
        return Err(RunError::QueryNotKept { sha256, source_url });
    }
    let fetcher = Fetcher::of_tenant(&host.config.image, &task.tenant, &terms, &steps);
    let image = tokio::select! {
        image = store.ensure(&task.image, fetcher) => image?,
        () = stop.asked(1) => return Err(RunError::Interrupted),
    };
    if let Some(kept) = &mut kept {
        kept.over(&image)?;
    }
    let mut held = VmLocks::new(&image, ports, kept)?;
    held.user(&mut spec.cage.user, host.config.cage.users)?;
    let attached = start::launch_again(dir, &spec, why, held)?;
    let until = Until::Running;
    Ok(follow::until(until, host, &vm.folder, (attached, &spec), &steps, &mut stop).await)
}

fn read<T: DeserializeOwned>(path: PathBuf) -> Result<T, VmError> {
    let read = || std::io::Result::Ok(serde_json::from_slice(&qhost_sys::state::read(&path)?)?);
    read().map_err(|source| VmError::Folder { doing: "read", path: path.clone(), source })
}

/// After what lives was adopted: starts those again that are lost and whose jobs want that.
pub(super) async fn recover(shared: &Shared, recovered: Recovered) -> Result<Exit, RunError> {
    let host = Host::new(shared)?;
    let mut restarted = vec![];
    let mut failed = vec![];
    for vm in qhost_vm::list(&host.state) {
        let wants = Spec::read(&vm.folder).is_ok_and(|spec| spec.restart.wants(true));
        if vm.status.state() != State::Lost || !wants {
            continue;
        }
        match start(shared, &host, &vm, "it was lost").await {
            Ok(now) if !now.status.state().is_final() => restarted.push(now.id),
            Ok(now) => failed.push((now.id.clone(), summary(&now))),
            Err(error) => {
                // The others are not to wait for this one's trouble.
                tracing::warn!(vm = vm.id, %error, "it was not started again");
                failed.push((vm.id, error.to_string()));
            }
        }
    }
    let Recovered { adopted, lost } = recovered;
    if shared.json {
        let failed: Vec<_> =
            failed.iter().map(|(id, why)| json!({"id": id, "reason": why.trim()})).collect();
        let report =
            json!({"adopted": adopted, "lost": lost, "restarted": restarted, "failed": failed});
        show::print(&show::json(&report));
    } else {
        for (what, ids) in [("adopted", &adopted), ("lost", &lost), ("restarted", &restarted)] {
            for id in ids {
                show::print(&format!("{what:<10} {id}\n"));
            }
        }
        for (id, why) in &failed {
            let why = printable::line(why.trim(), limits::SHOWN_CAUSE_CHARS);
            show::tell(&format!("{:<10} {id}  {why}\n", "failed"));
        }
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::VmFailed })
}
