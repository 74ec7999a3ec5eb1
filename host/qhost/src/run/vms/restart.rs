//! `qhost restart` and `qhost recover`: VMs that are started again.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use qhost_engine::{Context, Ending, Engine, Recovered, Vm, Which};
use qhost_model::printable;
use qhost_sys::stop::Stop;
use qhost_vm::{Spec, State, VmRecord};

use super::{RunError, show, stop::summary};
use crate::{
    cli::{Shared, StopArgs},
    limits,
    outcome::Exit,
    run::context,
};

pub(super) async fn restart(
    shared: &Shared,
    engine: &Engine,
    args: &StopArgs,
) -> Result<Exit, RunError> {
    let grace = args.grace.map(Duration::from_secs);
    let mut vms = vec![];
    for name in &args.which.names() {
        let vm = engine.latest_vm(name).await?;
        let vm = if vm.record().status.state().is_final() {
            start_again(shared, &vm, "restart requested").await?
        } else {
            vm.restart(grace, &Context::default()).await?
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

/// Starts a VM that has ended, and says how that goes. Interrupted before a supervisor has it, it is given up; after that it is stopped.
async fn start_again(shared: &Shared, vm: &Vm, why: &str) -> Result<VmRecord, RunError> {
    let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
    let (context, cancel) = context(&Arc::new(show::Shown::progress(shared)));
    let starting = vm.start_again(why, &context);
    let mut starting = std::pin::pin!(starting);
    tokio::select! {
        vm = &mut starting => return Ok(vm?),
        () = stop.asked(1) => cancel.cancel(),
    }
    let given_up = starting.await;
    if vm.goes_on().is_ok() {
        return Ok(vm.end(Ending::Stop(None), &Context::default()).await?);
    }
    Ok(given_up?)
}

/// After what lives was adopted: starts those again that are lost and whose jobs want that.
pub(super) async fn recover(shared: &Shared, engine: &Engine) -> Result<Exit, RunError> {
    let recovered = engine.recover().await;
    let mut restarted = vec![];
    let mut failed = vec![];
    for vm in engine.vms(Which::All).await {
        let wants = Spec::read(&vm.folder).is_ok_and(|spec| spec.restart.wants(true));
        if vm.status.state() != State::Lost || !wants {
            continue;
        }
        match Box::pin(start_again(shared, &engine.vm(&vm.id).await?, "it was lost")).await {
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
