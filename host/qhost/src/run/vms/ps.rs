//! `qhost ps`.

use serde_json::json;

use qhost_engine::{Engine, Which};
use qhost_model::printable;
use qhost_vm::{State, VmRecord};

use super::{ports, show};
use crate::{
    cli::{MetaPair, PsArgs, Shared},
    exit::Exit,
    run::images::ago,
};

pub(super) async fn ps(shared: &Shared, args: &PsArgs, engine: &Engine) -> Exit {
    let ended_too = args.all || args.state.is_some_and(State::is_final);
    let mut vms = engine.vms(if ended_too { Which::All } else { Which::GoingOn }).await;
    vms.retain(|vm| args.includes(vm));
    listed(shared, args, &vms)
}

/// Prints a list of VMs.
pub(in crate::run) fn listed(shared: &Shared, args: &PsArgs, vms: &[VmRecord]) -> Exit {
    if args.quiet {
        show::print(&vms.iter().map(|vm| format!("{}\n", vm.id)).collect::<String>());
        return Exit::Done;
    }
    if shared.json {
        show::print(&show::json(&json!({ "vms": vms })));
        return Exit::Done;
    }
    let header = ["ID", "STATE", "SINCE", "TASK", "TENANT", "CPUS", "MEMORY", "PORTS"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(vms.iter().map(|vm| {
        let takes = vm.reserved;
        [
            vm.id.clone(),
            vm.status.state().name().to_owned(),
            vm.status.since().map_or("-".into(), ago),
            printable::line(&vm.task, 40).to_string(),
            printable::line(&vm.tenant, 40).to_string(),
            takes.cpus.to_string(),
            format!("{} MiB", takes.memory_mib),
            ports(vm).join(" "),
        ]
    }));
    show::print(&show::table(&rows));
    Exit::Done
}

impl PsArgs {
    fn includes(&self, vm: &VmRecord) -> bool {
        self.of.includes(&vm.tenant)
            && self.task.as_ref().is_none_or(|name| [&vm.task, &vm.job].contains(&name))
            && self.state.is_none_or(|state| state == vm.status.state())
            && self.meta.iter().all(|MetaPair { key, value }| vm.has_meta(key, value))
    }
}
