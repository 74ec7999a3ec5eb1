//! The commands about VMs, each in a file of its name; `stop.rs` has `kill`, `pause`, `resume`, `wait` and `rm` too.

mod stop;
mod ps;
mod inspect;
mod logs;
mod stats;
mod events;
mod console;
mod restart;

use qhost_engine::{name, recover};
use qhost_vm::Vm;

use super::{Host, RunError, show, state_dir};
use crate::{
    cli::{Shared, VmCommand},
    outcome::Exit,
};

pub(super) async fn command(shared: &Shared, command: &VmCommand) -> Exit {
    match done(shared, command).await {
        Ok(exit) => exit,
        Err(error) => show::failure(shared, &error),
    }
}

async fn done(shared: &Shared, command: &VmCommand) -> Result<Exit, RunError> {
    let state = state_dir(shared)?;
    let recovered = recover::recover(&state).await;
    match command {
        VmCommand::Ps(args) => Ok(ps::ps(shared, args, &state)),
        VmCommand::Inspect(args) => inspect::inspect(shared, &name::named(&state, &args.name())?),
        VmCommand::Logs(args) => logs::logs(&name::named(&state, &args.which.name())?, args).await,
        VmCommand::Console(args) => console::attach(&name::named(&state, &args.name())?).await,
        VmCommand::Stats(args) => stats::stats(shared, &state, args).await,
        VmCommand::Events(args) => events::events(shared, &state, args).await,
        VmCommand::Stop(args) => {
            let request = qhost_vm::Request::Stop { grace_s: args.grace };
            stop::end(shared, &state, &args.which.names(), request).await
        }
        VmCommand::Kill(args) => {
            stop::end(shared, &state, &args.names(), qhost_vm::Request::Kill).await
        }
        VmCommand::Pause(args) => {
            stop::each(shared, &state, &args.names(), (qhost_vm::Request::Pause, "paused")).await
        }
        VmCommand::Resume(args) => {
            stop::each(shared, &state, &args.names(), (qhost_vm::Request::Resume, "running")).await
        }
        VmCommand::Restart(args) => restart::restart(shared, args).await,
        VmCommand::Wait(args) => stop::wait(shared, &state, args).await,
        VmCommand::Rm(args) => stop::remove(shared, &state, &args.names()),
        VmCommand::Recover => restart::recover(shared, recovered).await,
    }
}

fn ports(vm: &Vm) -> Vec<String> {
    let forwards = vm.takes.iter().flat_map(|takes| &takes.forwards);
    forwards
        .map(|port| format!("{}:{}→{}/{}", port.bind, port.host, port.guest, port.protocol.name()))
        .collect()
}
