//! `qhost stats`.

use std::io;

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

use qhost_engine::{Engine, Vm, Which, limits};
use qhost_model::printable;
use qhost_vm::{AskError, Stats, VmError};

use super::{RunError, going_on, show};
use crate::{
    cli::{Shared, StatsArgs},
    outcome::Exit,
};

#[derive(Serialize)]
struct Used {
    id: String,
    task: String,
    #[serde(flatten)]
    stats: Stats,
}

pub(super) async fn stats(
    shared: &Shared,
    engine: &Engine,
    args: &StatsArgs,
) -> Result<Exit, RunError> {
    let names = args.names();
    let mut vms = match names.as_slice() {
        [] => engine.vms(Which::GoingOn).await,
        names => going_on(engine, names).await?.iter().map(Vm::record).collect(),
    };
    vms.retain(|vm| args.of.includes(&vm.tenant));
    let mut used = vec![];
    // All at once: a supervisor that does not answer costs the other VMs nothing.
    let asked = join_all(vms.into_iter().map(async |vm| {
        let stats = engine.handle(&vm).stats().await;
        (vm, stats)
    }));
    for (vm, stats) in asked.await {
        match stats {
            Ok(stats) => used.push(Used { id: vm.id, task: vm.task, stats }),
            // VMs that were not named and are only beginning, or have just ended, are left out.
            Err(AskError::Unanswered(error))
                if names.is_empty() && error.kind() == io::ErrorKind::TimedOut =>
            {
                let seconds = limits::CONTROL_STATS.as_secs();
                let id = &vm.id;
                if !shared.json {
                    show::say(&format!("silent    {id}: no answer within {seconds} s"));
                }
            }
            Err(AskError::Unanswered(_) | AskError::Refused(_)) if names.is_empty() => {}
            Err(error) => {
                return Err(VmError::Refused { id: vm.id, reason: error.to_string() }.into());
            }
        }
    }
    if shared.json {
        show::print(&show::json(&json!({ "vms": used })));
        return Ok(Exit::Done);
    }
    let header = ["ID", "TASK", "CPU TIME", "MEMORY", "READ", "WRITTEN", "CONNECTIONS", "THREADS"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(used.iter().map(|Used { id, task, stats }| {
        let bytes = |bytes: u64| indicatif::BinaryBytes(bytes).to_string();
        let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
        let cpu = stats.cpu_ms.map(|ms| std::time::Duration::from_millis(ms).as_secs_f64());
        [
            id.clone(),
            printable::line(task, 40).to_string(),
            cpu.map_or("-".into(), |seconds| format!("{seconds:.1} s")),
            stats.resident_bytes.map_or("-".into(), bytes),
            bytes(stats.disks.iter().map(|disk| disk.read_bytes).sum()),
            bytes(stats.disks.iter().map(|disk| disk.written_bytes).sum()),
            number(stats.connections),
            number(stats.threads),
        ]
    }));
    show::print(&show::table(&rows));
    Ok(Exit::Done)
}
