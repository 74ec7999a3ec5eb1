//! `qhost ps`, `inspect`, `logs`, `stop`, `kill`, `wait` and `rm`: VMs that other runs look after, or did.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use tokio::time;

use super::{RunError, images::ago, show, state_dir};
use crate::{
    cli::{LogsArgs, PsArgs, Shared, VmArgs, VmsArgs, WaitArgs},
    limits,
    outcome::Exit,
    printable,
    state::StateDir,
    vm::{self, State, Vm, VmError},
};

pub(super) fn ps(shared: &Shared, args: &PsArgs) -> Exit {
    ended(shared, list(shared, args))
}

pub(super) fn inspect(shared: &Shared, args: &VmArgs) -> Exit {
    ended(shared, inspected(shared, args))
}

pub(super) async fn logs(shared: &Shared, args: &LogsArgs) -> Exit {
    ended(shared, console(shared, args).await)
}

pub(super) async fn stop(shared: &Shared, args: &VmsArgs) -> Exit {
    ended(shared, end(shared, args, How::Asked).await)
}

pub(super) async fn kill(shared: &Shared, args: &VmsArgs) -> Exit {
    ended(shared, end(shared, args, How::Hastened).await)
}

pub(super) async fn wait(shared: &Shared, args: &WaitArgs) -> Exit {
    ended(shared, waited(shared, args).await)
}

pub(super) fn rm(shared: &Shared, args: &VmsArgs) -> Exit {
    ended(shared, remove(shared, args))
}

fn ended(shared: &Shared, done: Result<Exit, RunError>) -> Exit {
    done.unwrap_or_else(|error| show::failure(shared, &error))
}

fn list(shared: &Shared, args: &PsArgs) -> Result<Exit, RunError> {
    let mut vms = vm::list(&state_dir(shared)?);
    vms.retain(|vm| args.all || !vm.status.state().is_final());
    if shared.json {
        show::print(&show::json(&json!({ "vms": vms })));
        return Ok(Exit::Done);
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
    Ok(Exit::Done)
}

fn ports(vm: &Vm) -> Vec<String> {
    let forwards = vm.takes.iter().flat_map(|takes| &takes.forwards);
    forwards
        .map(|port| format!("{}:{}→{}/{}", port.bind, port.host, port.guest, port.protocol.name()))
        .collect()
}

fn inspected(shared: &Shared, args: &VmArgs) -> Result<Exit, RunError> {
    let vm = vm::named(&state_dir(shared)?, &args.vm)?;
    if shared.json {
        show::print(&show::json(&vm));
        return Ok(Exit::Done);
    }
    let line = |text: &str| printable::line(text, 120).to_string();
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
    if let Some(takes) = &vm.takes {
        let resources = takes.resources;
        text += &format!("takes      {} CPUs, {} MiB\n", resources.cpus, resources.memory_mib);
        if let Some(image) = takes.image() {
            text += &format!("image      sha256:{image}\n");
        }
    }
    for port in ports(&vm) {
        text += &format!("port       {port}\n");
    }
    if let Some(qemu) = vm.status.qemu.as_ref().filter(|_| vm.held) {
        text += &format!("qemu       process {}\n", qemu.pid);
    }
    text +=
        &format!("console    {}\nfolder     {}\n", vm.console_log().display(), vm.folder.display());
    show::print(&text);
    Ok(Exit::Done)
}

/// The console as the guest wrote it: bytes, which are the terminal's to show or the pipe's to carry.
async fn console(shared: &Shared, args: &LogsArgs) -> Result<Exit, RunError> {
    let vm = vm::named(&state_dir(shared)?, &args.vm)?;
    let path = vm.console_log();
    let unreadable = |source| VmError::Folder { doing: "read", path: path.clone(), source };
    let mut file = None;
    let mut buffer = vec![0; limits::BLOCK_BYTES];
    loop {
        // Asked first, so that what was written before the end is read after it.
        let goes_on = vm.again().is_some_and(|vm| vm.held);
        if file.is_none() {
            file = match File::open(&path) {
                Ok(log) => Some(log),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(unreadable(error).into()),
            };
        }
        while let Some(log) = &mut file {
            let read = log.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            // A closed pipe is the reader's choice and no error of ours.
            if std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()).is_err()
            {
                return Ok(Exit::Done);
            }
        }
        if !args.follow || !goes_on {
            return Ok(Exit::Done);
        }
        time::sleep(limits::VM_POLL).await;
    }
}

/// How hard a VM is made to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Its guest has its grace.
    Asked,
    /// Whoever looks after it is hastened until it is gone.
    Hastened,
}

/// Asks whoever looks after VMs to stop them, and waits for their ends. None is asked where one has ended already.
async fn end(shared: &Shared, args: &VmsArgs, how: How) -> Result<Exit, RunError> {
    let state = state_dir(shared)?;
    let mut vms = vec![];
    for name in &args.vms {
        let vm = vm::named(&state, name)?;
        if !vm.held || vm.status.supervisor.is_none() {
            let state = vm.status.state().name();
            return Err(VmError::HasEnded { id: vm.id, state }.into());
        }
        vms.push(vm);
    }
    for vm in &vms {
        if !ask(vm) {
            // Found so below.
            tracing::info!(vm = vm.id, "it ended before it was asked to");
        }
    }
    let mut ended = vec![];
    for vm in vms {
        let vm = until_end(vm, limits::STOP_GRACE_MOST, how).await?;
        if !shared.json {
            show::print(&summary(&vm));
        }
        ended.push(vm);
    }
    if shared.json {
        show::print(&show::json(&json!({ "vms": ended })));
    }
    Ok(Exit::Done)
}

/// Whether whoever looks after a VM was there to be asked.
fn ask(vm: &Vm) -> bool {
    vm.status.supervisor.as_ref().is_some_and(|supervisor| supervisor.signal(Signal::TERM))
}

async fn waited(shared: &Shared, args: &WaitArgs) -> Result<Exit, RunError> {
    let vm = vm::named(&state_dir(shared)?, &args.vm)?;
    let vm = until_end(vm, Duration::from_secs(args.timeout), How::Asked).await?;
    show::print(&if shared.json { show::json(&vm) } else { summary(&vm) });
    let exited = vm.status.state() == State::Exited;
    Ok(if exited { Exit::Done } else { Exit::VmFailed })
}

async fn until_end(mut vm: Vm, most: Duration, how: How) -> Result<Vm, VmError> {
    let began = Instant::now();
    let mut asked = began;
    while vm.held {
        if began.elapsed() > most {
            return Err(VmError::Stays { id: vm.id, seconds: most.as_secs() });
        }
        // Requests that come while nobody listens are heard as one.
        if how == How::Hastened && asked.elapsed() > limits::KILL_AGAIN {
            ask(&vm);
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

fn summary(vm: &Vm) -> String {
    let last = vm.status.changes().last();
    let reason = last.and_then(|change| change.reason.as_deref()).unwrap_or_default();
    let (state, reason) = (vm.status.state().name(), printable::line(reason, 300));
    format!("{state:<10} {}  {reason}\n", vm.id).replace("  \n", "\n")
}

fn remove(shared: &Shared, args: &VmsArgs) -> Result<Exit, RunError> {
    let state: StateDir = state_dir(shared)?;
    let mut removed = vec![];
    for name in &args.vms {
        let vm = vm::named(&state, name)?;
        if !vm.remove(&state)? {
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
