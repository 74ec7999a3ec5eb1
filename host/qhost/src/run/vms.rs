//! The commands about VMs, each in a file of its name; `stop.rs` has `kill`, `pause`, `resume`, `wait` and `rm` too.

pub(super) mod stop;
pub(super) mod ps;
pub(super) mod inspect;
pub(super) mod logs;
pub(super) mod stats;
pub(super) mod events;
pub(super) mod console;
pub(super) mod exec;
pub(super) mod screenshot;
mod restart;
mod drain;

use std::collections::BTreeSet;

use qhost_engine::{Context, Engine, Termination, Vm};
use qhost_policy::{Actor, Door, Operation};
use qhost_vm::VmRecord;

use super::{RunError, engine, show, unconfigured};
use crate::{
    cli::{ExecArgs, Shared, VmCommand, VmsArgs},
    exit::{Exit, ExitStatus},
    outcome::Shown,
};

pub(super) async fn command(shared: &Shared, command: &VmCommand) -> Exit {
    match done(shared, command).await {
        Ok(exit) => exit,
        Err(error) => failed(shared, &error),
    }
}

/// Does `qhost exec`, whose exit code is that of the command in the guest.
pub(super) async fn exec(shared: &Shared, args: &ExecArgs) -> ExitStatus {
    let done = async { exec::exec(shared, args, &engine(shared)?).await };
    match done.await {
        Ok(status) => status,
        Err(error) => failed(shared, &error).into(),
    }
}

fn failed(shared: &Shared, error: &RunError) -> Exit {
    // The decision refused a restart or an operation; JSON has it beside the error.
    if let Some(decision) = error.verdict().filter(|_| !shared.json) {
        show::say(Shown(decision).to_string().trim_end());
    }
    show::failure(shared, error)
}

async fn done(shared: &Shared, command: &VmCommand) -> Result<Exit, RunError> {
    let engine = match command {
        // A restart and an operation are held to the current configuration.
        VmCommand::Restart(_)
        | VmCommand::Recover
        | VmCommand::Console(_)
        | VmCommand::Screenshot(_) => engine(shared)?,
        VmCommand::Inspect(_) => inspect::engine(shared)?,
        VmCommand::Ps(_)
        | VmCommand::Logs(_)
        | VmCommand::Stats(_)
        | VmCommand::Events(_)
        | VmCommand::Stop(_)
        | VmCommand::Kill(_)
        | VmCommand::Pause(_)
        | VmCommand::Resume(_)
        | VmCommand::Wait(_)
        | VmCommand::Drain(_)
        | VmCommand::Rm(_) => unconfigured(shared)?,
    };
    match command {
        VmCommand::Ps(args) => Ok(ps::ps(shared, args, &engine).await),
        VmCommand::Inspect(args) => {
            let vm = engine.latest_vm(&args.name()).await?;
            let (details, guest) = (vm.details().await?, vm.guest().await);
            inspect::inspect(shared, &inspect::Inspected { details, guest })
        }
        VmCommand::Logs(args) => {
            logs::logs(&engine.latest_vm(&args.which.name()).await?.record().await, args).await
        }
        VmCommand::Console(args) => {
            let vm = engine.live_vm(&args.name()).await?;
            let actor = actor(args.of.tenant.clone());
            vm.permit(Operation::Console, actor.clone(), &Context::default()).await?;
            vm.note_request("console", &actor).await;
            console::attach(&vm).await
        }
        VmCommand::Screenshot(args) => screenshot::screenshot(shared, args, &engine).await,
        VmCommand::Stats(args) => stats::stats(shared, &engine, args).await,
        VmCommand::Events(args) => events::events(shared, &engine, args).await,
        VmCommand::Stop(args) => {
            let grace = args.grace.map(std::time::Duration::from_secs);
            let vms = permitted(shared, &engine, &args.which, Operation::Stop, "stop").await?;
            stop::end(shared, vms, Termination::Stop(grace)).await
        }
        // A kill is an operator's last resort, so that no policy and no configuration stands in its way.
        VmCommand::Kill(args) => {
            let (vms, actor) =
                (going_on(&engine, &args.names()).await?, actor(args.of.tenant.clone()));
            note_requests(&vms, "kill", &actor).await;
            stop::end(shared, vms, Termination::Kill).await
        }
        VmCommand::Pause(args) => {
            let vms = permitted(shared, &engine, args, Operation::Pause, "pause").await?;
            stop::pause(shared, vms).await
        }
        VmCommand::Resume(args) => {
            let vms = permitted(shared, &engine, args, Operation::Pause, "resume").await?;
            stop::resume(shared, vms).await
        }
        VmCommand::Restart(args) => restart::restart(shared, &engine, args).await,
        VmCommand::Wait(args) => stop::wait(shared, &engine, args).await,
        VmCommand::Rm(args) => stop::remove(shared, &engine, args).await,
        VmCommand::Drain(args) => drain::drain(shared, &engine, args).await,
        VmCommand::Recover => restart::recover(shared, &engine).await,
    }
}

/// The actor of a command line: its user, who acts as a tenant if `--tenant` says so.
pub(super) fn actor(tenant: Option<String>) -> Actor {
    let name = format!("uid {}", rustix::process::geteuid().as_raw());
    Actor { name, tenant, door: Door::Cli }
}

/// Finds the VMs of these names, each once; a VM that has ended is an error.
async fn going_on(engine: &Engine, names: &[String]) -> Result<Vec<Vm>, RunError> {
    let mut vms = vec![];
    for name in names {
        vms.push(engine.live_vm(name).await?);
    }
    Ok(each_once(vms))
}

/// Finds the VMs once policies permit the operation on each. If an actor needs no permission, no configuration has to be readable.
async fn permitted(
    shared: &Shared,
    unconfigured: &Engine,
    args: &VmsArgs,
    operation: Operation,
    request: &'static str,
) -> Result<Vec<Vm>, RunError> {
    let vms = going_on(unconfigured, &args.names()).await?;
    let actor = actor(args.of.tenant.clone());
    for vm in &vms {
        if !(vm.needs_permission(&operation, &actor).await && vm.is_launched().await) {
            continue;
        }
        let vm = engine(shared)?.handle(&vm.record().await);
        vm.permit(operation.clone(), actor.clone(), &Context::default()).await?;
    }
    note_requests(&vms, request, &actor).await;
    Ok(vms)
}

async fn note_requests(vms: &[Vm], request: &'static str, actor: &Actor) {
    for vm in vms {
        vm.note_request(request, actor).await;
    }
}

fn each_once(mut vms: Vec<Vm>) -> Vec<Vm> {
    let mut known = BTreeSet::new();
    vms.retain(|vm| known.insert(vm.id().to_owned()));
    vms
}

fn ports(vm: &VmRecord) -> Vec<String> {
    if vm.reserved.ports == 0 {
        return vec![];
    }
    let forwards = vm.takes.get().into_iter().flat_map(|takes| &takes.forwards);
    forwards
        .map(|port| format!("{}:{}→{}/{}", port.bind, port.host, port.guest, port.protocol.name()))
        .collect()
}
