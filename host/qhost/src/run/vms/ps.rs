//! `qhost ps`.

use serde_json::json;

use qhost_engine::{Engine, Which};
use qhost_model::printable;

use super::{ports, show};
use crate::{
    cli::{PsArgs, Shared},
    outcome::Exit,
    run::images::ago,
};

pub(super) async fn ps(shared: &Shared, args: &PsArgs, engine: &Engine) -> Exit {
    let mut vms = engine.vms(if args.all { Which::All } else { Which::GoingOn }).await;
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
