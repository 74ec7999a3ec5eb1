//! `qhost logs`, `stats` and `events`.

use std::io::{self, IsTerminal as _, Write as _, stdout};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use tokio::time;

use qhost_model::printable;
use qhost_sys::state::StateDir;
use qhost_vm::{AskError, Event, Events, Request, Stats, Vm, VmError};

use super::{RunError, ending::going_on, show};
use crate::{
    cli::{EventsArgs, LogsArgs, Shared, StatsArgs},
    limits,
    outcome::Exit,
};

/// The console: in a pipe the bytes that the guest wrote, on a terminal what of them is text.
pub(super) async fn logs(vm: &Vm, args: &LogsArgs) -> Result<Exit, RunError> {
    let path = vm.console_log();
    let unreadable = |source| VmError::Folder { doing: "read", path: path.clone(), source };
    let mut console = vm.console(args.since.map(|since| since.0));
    let mut buffer = vec![0; qhost_image::limits::BLOCK_BYTES];
    let mut shown = (stdout().is_terminal() && !args.raw).then(printable::Console::default);
    loop {
        // Asked first, so that what was written before the end is read after it.
        let goes_on = vm.again().is_some_and(|vm| !vm.is_over());
        loop {
            let read = console.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            let written = match &mut shown {
                Some(console) => write(console.push(bytes).as_bytes()),
                None => write(bytes),
            };
            // A closed pipe is the reader's choice and no error of ours.
            if written.is_err() {
                return Ok(Exit::Done);
            }
        }
        if !args.follow || !goes_on {
            let rest = shown.as_mut().map(printable::Console::finish).unwrap_or_default();
            if let Err(error) = write(rest.as_bytes()) {
                tracing::debug!(%error, "the console's last bytes were not written");
            }
            return Ok(Exit::Done);
        }
        time::sleep(qhost_vm::limits::VM_POLL).await;
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    stdout().write_all(bytes).and_then(|()| stdout().flush())
}

#[derive(Serialize)]
struct Used {
    id: String,
    task: String,
    #[serde(flatten)]
    stats: Stats,
}

pub(super) async fn stats(
    shared: &Shared,
    state: &StateDir,
    args: &StatsArgs,
) -> Result<Exit, RunError> {
    let names = args.names();
    let mut vms = match names.as_slice() {
        [] => qhost_vm::going_on(state),
        names => going_on(state, names)?,
    };
    vms.retain(|vm| args.of.includes(&vm.tenant));
    let mut used = vec![];
    // All at once: one that does not answer costs the others nothing.
    let asked = join_all(vms.into_iter().map(async |vm| {
        let stats = qhost_vm::ask(&vm.folder, Request::Stats, limits::CONTROL_STATS).await;
        let stats =
            stats.and_then(|stats| Ok(serde_json::from_value(stats).map_err(io::Error::from)?));
        (vm, stats)
    }));
    for (vm, stats) in asked.await {
        match stats {
            Ok(stats) => used.push(Used { id: vm.id, task: vm.task, stats }),
            // Of all, those that are only beginning or have just ended are left out.
            Err(AskError::Unanswered(error))
                if names.is_empty() && error.kind() == io::ErrorKind::TimedOut =>
            {
                let seconds = limits::CONTROL_STATS.as_secs();
                let id = &vm.id;
                show::aside(shared, &format!("silent    {id}: no answer within {seconds} s"));
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

pub(super) async fn events(
    shared: &Shared,
    state: &StateDir,
    args: &EventsArgs,
) -> Result<Exit, RunError> {
    let unreadable =
        |source| VmError::Folder { doing: "read events in", path: state.path().into(), source };
    let mut events = Events::new(state.path());
    loop {
        let mut text = String::new();
        for event in events.read().map_err(unreadable)? {
            let is_late = args.since.is_none_or(|since| event.at >= since.0);
            if is_late && args.of.includes(&event.tenant) {
                text += &if shared.json { show::json(&event) } else { line(&event) };
            }
        }
        // A closed pipe is the reader's choice and no error of ours.
        let written = anstream::stdout().lock().write_all(text.as_bytes());
        if written.and_then(|()| stdout().flush()).is_err() || !args.follow {
            return Ok(Exit::Done);
        }
        time::sleep(qhost_vm::limits::VM_POLL).await;
    }
}

fn line(event: &Event) -> String {
    let Event { at, vm, task, tenant, event, reason } = event;
    let shown = |text: &str, most| printable::line(text, most).to_string();
    let reason = reason.as_deref().map(|reason| shown(reason, 300)).unwrap_or_default();
    let (task, tenant) = (shown(task, 40), shown(tenant, 40));
    let text = format!("{at:.3}  {:<9}  {vm}  {tenant}/{task}  {reason}", shown(event, 40));
    show::one_line(text.trim_end()) + "\n"
}
