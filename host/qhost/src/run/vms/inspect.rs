//! `qhost inspect`.

use qhost_model::printable;
use qhost_vm::VmRecord;

use super::{RunError, ports, show};
use crate::{cli::Shared, limits, outcome::Exit};

pub(super) fn inspect(shared: &Shared, vm: &VmRecord) -> Result<Exit, RunError> {
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
