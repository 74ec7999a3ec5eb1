//! The commands about VMs, each in a file of its name; `stop.rs` has `kill`, `pause`, `resume`, `wait` and `rm` too.

mod stop;
mod ps;
mod inspect;
mod logs;
mod stats;
mod events;
mod console;
mod restart;
mod drain;

use std::collections::BTreeSet;

use qhost_engine::{Context, Ending, Engine, Vm};
use qhost_policy::{Actor, Door, Operation};
use qhost_vm::VmRecord;

use super::{RunError, engine, show, unconfigured};
use crate::{
    cli::{Shared, VmCommand},
    outcome::{Exit, Shown},
};

pub(super) async fn command(shared: &Shared, command: &VmCommand) -> Exit {
    match done(shared, command).await {
        Ok(exit) => exit,
        Err(error) => {
            // The decision that refused a restart; JSON has it beside the error.
            if let Some(decision) = error.verdict().filter(|_| !shared.json) {
                show::say(Shown(decision).to_string().trim_end());
            }
            show::failure(shared, &error)
        }
    }
}

async fn done(shared: &Shared, command: &VmCommand) -> Result<Exit, RunError> {
    let engine = match command {
        // A VM that is started again, and an operation, are held to what is configured now.
        VmCommand::Restart(_) | VmCommand::Recover | VmCommand::Console(_) => engine(shared)?,
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
            inspect::inspect(shared, &vm.details().await?)
        }
        VmCommand::Logs(args) => {
            logs::logs(&engine.latest_vm(&args.which.name()).await?.record(), args).await
        }
        VmCommand::Console(args) => {
            let vm = engine.live_vm(&args.name()).await?;
            let actor = actor(args.of.tenant.clone());
            vm.permit(Operation::Console, actor, &Context::default()).await?;
            console::attach(&vm).await
        }
        VmCommand::Stats(args) => stats::stats(shared, &engine, args).await,
        VmCommand::Events(args) => events::events(shared, &engine, args).await,
        VmCommand::Stop(args) => {
            let grace = args.grace.map(std::time::Duration::from_secs);
            stop::end(shared, &engine, &args.which.names(), Ending::Stop(grace)).await
        }
        VmCommand::Kill(args) => stop::end(shared, &engine, &args.names(), Ending::Kill).await,
        VmCommand::Pause(args) => stop::pause(shared, &engine, &args.names()).await,
        VmCommand::Resume(args) => stop::resume(shared, &engine, &args.names()).await,
        VmCommand::Restart(args) => restart::restart(shared, &engine, args).await,
        VmCommand::Wait(args) => stop::wait(shared, &engine, args).await,
        VmCommand::Rm(args) => stop::remove(shared, &engine, &args.names()).await,
        VmCommand::Drain(args) => drain::drain(shared, &engine, args).await,
        VmCommand::Recover => restart::recover(shared, &engine).await,
    }
}

/// Who asks on a command line: its user, who acts as a tenant where `--tenant` says so.
fn actor(tenant: Option<String>) -> Actor {
    let name = format!("uid {}", rustix::process::geteuid().as_raw());
    Actor { name, tenant, door: Door::Cli }
}

/// The VMs of these names, each once; it is an error where one of them has ended.
async fn going_on(engine: &Engine, names: &[String]) -> Result<Vec<Vm>, RunError> {
    let mut vms = vec![];
    for name in names {
        vms.push(engine.live_vm(name).await?);
    }
    Ok(each_once(vms))
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
