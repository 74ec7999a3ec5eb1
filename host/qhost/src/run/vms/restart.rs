//! `qhost restart` and `qhost recover`: start VMs again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;

use qhost_engine::{Context, Engine, Recovered, Termination, Vm, Which};
use qhost_model::printable;
use qhost_policy::{Decision, Operation};
use qhost_sys::stop::Stop;
use qhost_vm::{Spec, State, VmRecord};

use super::{RunError, actor, show, stop::summary};
use crate::{
    cli::{Shared, StopArgs},
    exit::Exit,
    limits,
    run::context,
};

pub(super) async fn restart(
    shared: &Shared,
    engine: &Engine,
    args: &StopArgs,
) -> Result<Exit, RunError> {
    let grace = args.grace.map(Duration::from_secs);
    let actor = actor(args.which.of.tenant.clone());
    let mut vms = vec![];
    for name in &args.which.names() {
        let vm = engine.latest_vm(name).await?;
        let vm = if vm.record().await.status.state().is_final() {
            // Policies are asked about a restart as part of the new start.
            let again = Box::pin(start_again(shared, &vm, "restart requested")).await?;
            vm.note_request("restart", &actor).await;
            again
        } else {
            vm.permit(Operation::Restart, actor.clone(), &Context::default()).await?;
            vm.note_request("restart", &actor).await;
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

/// Starts a VM that has ended, and shows its progress. An interrupt gives the start up before a supervisor has the VM, and stops the VM
/// after that.
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
    if vm.goes_on().await.is_ok() {
        return Ok(vm.end(Termination::Stop(None), &Context::default()).await?);
    }
    Ok(given_up?)
}

/// Starts a tenant's lost VMs again, one after the other. Gives the id of each, and the reason if it does not run.
async fn restarted(
    shared: &Shared,
    engine: &Engine,
    vms: Vec<VmRecord>,
) -> Vec<(String, Option<String>)> {
    let mut all = vec![];
    for vm in vms {
        let handle = engine.handle(&vm);
        let again = start_again(shared, &handle, "it was lost");
        let why = match Box::pin(again).await {
            Ok(now) if !now.status.state().is_final() => None,
            Ok(now) => Some(summary(&now)),
            Err(error) => {
                tracing::warn!(vm = vm.id, %error, "it was not started again");
                let against = error.verdict().map(against).unwrap_or_default();
                Some(format!("{error}{against}"))
            }
        };
        all.push((vm.id, why));
    }
    all
}

/// A decision's reasons against a task, behind the policy or rule that refused it.
fn against(decision: &Decision) -> String {
    let policies = decision.policies.iter().filter(|policy| policy.refuses());
    let violations = policies.flat_map(|policy| &policy.violations);
    let all = violations.chain(&decision.host.violations);
    all.map(|one| format!("; {} {}: {}", one.code, one.field, one.message)).collect()
}

/// Adopts the VMs that live; then starts those again that are lost and whose jobs want that.
pub(super) async fn recover(shared: &Shared, engine: &Engine) -> Result<Exit, RunError> {
    let recovered = engine.recover().await;
    let mut by_tenant = BTreeMap::<String, Vec<VmRecord>>::new();
    for vm in engine.vms(Which::All).await {
        let wants = Spec::read(&vm.folder).is_ok_and(|spec| spec.restart.wants(true));
        if vm.status.state() == State::Lost && wants {
            by_tenant.entry(vm.tenant.clone()).or_default().push(vm);
        }
    }
    // Each tenant's VMs are started on their own, so that one tenant's policies, or images, keep no other tenant's VMs waiting.
    let tenants = by_tenant.into_values().map(|vms| restarted(shared, engine, vms));
    let all = join_all(tenants).await;
    let (restarted, failed): (Vec<_>, Vec<_>) =
        all.into_iter().flatten().partition(|(_, why)| why.is_none());
    let restarted: Vec<_> = restarted.into_iter().map(|(id, _)| id).collect();
    let failed: Vec<_> = failed.into_iter().filter_map(|(id, why)| Some((id, why?))).collect();
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
