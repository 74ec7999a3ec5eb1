//! `qhost events`.

use std::io::{Write as _, stdout};

use tokio::time;

use qhost_model::printable;
use qhost_sys::state::StateDir;
use qhost_vm::{Event, Events, VmError};

use super::{RunError, show};
use crate::{
    cli::{EventsArgs, Shared},
    outcome::Exit,
};

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
