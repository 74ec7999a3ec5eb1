//! The commands about VMs: `qhost ps`, `inspect`, and what is in the files beside this.

mod ending;
mod looking;
mod console;
mod again;

use serde_json::json;

use qhost_engine::{name, recover};
use qhost_model::printable;
use qhost_vm::Vm;

use super::{Host, RunError, images::ago, show, state_dir};
use crate::{
    cli::{PsArgs, Shared, VmCommand},
    limits,
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
        VmCommand::Ps(args) => Ok(ps(shared, args, &state)),
        VmCommand::Inspect(args) => inspect(shared, &name::named(&state, &args.name())?),
        VmCommand::Logs(args) => {
            looking::logs(&name::named(&state, &args.which.name())?, args).await
        }
        VmCommand::Console(args) => console::attach(&name::named(&state, &args.name())?).await,
        VmCommand::Stats(args) => looking::stats(shared, &state, args).await,
        VmCommand::Events(args) => looking::events(shared, &state, args).await,
        VmCommand::Stop(args) => {
            let stop = qhost_vm::Request::Stop { grace_s: args.grace };
            ending::end(shared, &state, &args.which.names(), stop).await
        }
        VmCommand::Kill(args) => {
            ending::end(shared, &state, &args.names(), qhost_vm::Request::Kill).await
        }
        VmCommand::Pause(args) => {
            ending::each(shared, &state, &args.names(), (qhost_vm::Request::Pause, "paused")).await
        }
        VmCommand::Resume(args) => {
            ending::each(shared, &state, &args.names(), (qhost_vm::Request::Resume, "running"))
                .await
        }
        VmCommand::Restart(args) => again::restart(shared, args).await,
        VmCommand::Wait(args) => ending::wait(shared, &state, args).await,
        VmCommand::Rm(args) => ending::remove(shared, &state, &args.names()),
        VmCommand::Recover => again::recover(shared, recovered).await,
    }
}

fn ps(shared: &Shared, args: &PsArgs, state: &qhost_sys::state::StateDir) -> Exit {
    let mut vms = if args.all { qhost_vm::list(state) } else { qhost_vm::going_on(state) };
    vms.retain(|vm| args.of.includes(&vm.tenant));
    if shared.json {
        show::print(&show::json(&json!({ "vms": vms })));
        return Exit::Done;
    }
    let header = ["ID", "STATE", "SINCE", "TASK", "TENANT", "CPUS", "MEMORY", "PORTS"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(vms.iter().map(|vm| {
        let resources = vm.takes.as_ref().map(|takes| takes.resources);
        [
            vm.id.clone(),
            vm.status.state().name().to_owned(),
            vm.status.since().map_or("-".into(), ago),
            printable::line(&vm.task, 40).to_string(),
            printable::line(&vm.tenant, 40).to_string(),
            resources.map_or("-".into(), |resources| resources.cpus.to_string()),
            resources.map_or("-".into(), |resources| format!("{} MiB", resources.memory_mib)),
            ports(vm).join(" "),
        ]
    }));
    show::print(&show::table(&rows));
    Exit::Done
}

fn ports(vm: &Vm) -> Vec<String> {
    let forwards = vm.takes.iter().flat_map(|takes| &takes.forwards);
    forwards
        .map(|port| format!("{}:{}→{}/{}", port.bind, port.host, port.guest, port.protocol.name()))
        .collect()
}

fn inspect(shared: &Shared, vm: &Vm) -> Result<Exit, RunError> {
    if shared.json {
        show::print(&show::json(vm));
        return Ok(Exit::Done);
    }
    let line = |text: &str| printable::line(text, limits::SHOWN_CAUSE_CHARS).to_string();
    let mut text = format!(
        "id         {}\ntask       {}\njob        {}\ntenant     {}\nstate      {}\n",
        vm.id,
        line(&vm.task),
        line(&vm.job),
        line(&vm.tenant),
        vm.status.state().name(),
    );
    for change in vm.status.changes() {
        let reason = change.reason.as_deref().map(line).unwrap_or_default();
        text += format!("           {:<9} {} {reason}", change.state.name(), change.at).trim_end();
        text += "\n";
    }
    if let Some(ready) = vm.status.ready_at {
        text += &format!("ready      {ready}\n");
    }
    if vm.status.restarts > 0 {
        text += &format!("restarts   {}\n", vm.status.restarts);
    }
    if let Some(takes) = &vm.takes {
        let resources = takes.resources;
        text += &format!("takes      {} CPUs, {} MiB\n", resources.cpus, resources.memory_mib);
        if let Some(image) = takes.image() {
            text += &format!("image      sha256:{image}\n");
        }
        if let Some(cage) = &takes.cage {
            text += &format!("cage       {}\n", cage.summary());
        }
    }
    for port in ports(vm) {
        text += &format!("port       {port}\n");
    }
    if vm.held {
        let processes = [("supervisor", &vm.status.supervisor), ("qemu", &vm.status.qemu)];
        for (name, process) in processes {
            if let Some(process) = process {
                text += &format!("{name:<10} process {}\n", process.pid);
            }
        }
    }
    text +=
        &format!("console    {}\nfolder     {}\n", vm.console_log().display(), vm.folder.display());
    show::tell(&text);
    Ok(Exit::Done)
}
