//! `qhost events`.

use std::io::{Write as _, stdout};

use qhost_engine::Engine;
use qhost_model::printable;
use qhost_vm::Event;

use super::{RunError, show};
use crate::{
    cli::{EventsArgs, Shared},
    outcome::Exit,
};

pub(super) async fn events(
    shared: &Shared,
    engine: &Engine,
    args: &EventsArgs,
) -> Result<Exit, RunError> {
    let mut events = engine.events(args.since.map(|since| since.0));
    loop {
        let event = match events.next_kept().await? {
            Some(event) => event,
            None if args.follow => events.next().await?,
            None => return Ok(Exit::Done),
        };
        if !args.of.includes(&event.tenant) {
            continue;
        }
        let text = if shared.json { show::json(&event) } else { line(&event) };
        // A closed pipe is the reader's choice and no error of ours.
        let written = anstream::stdout().lock().write_all(text.as_bytes());
        if written.and_then(|()| stdout().flush()).is_err() {
            return Ok(Exit::Done);
        }
    }
}

fn line(event: &Event) -> String {
    let Event { at, vm, task, tenant, event, by, reason } = event;
    let shown = |text: &str, most| printable::line(text, most).to_string();
    let reason = reason.as_deref().map(|reason| shown(reason, 300)).unwrap_or_default();
    let (task, tenant) = (shown(task, 40), shown(tenant, 40));
    let vm = if vm.is_empty() { "-" } else { vm };
    let by = by.as_deref().map(|by| format!("by {}: ", shown(by, 120))).unwrap_or_default();
    let text = format!("{at:.3}  {:<9}  {vm}  {tenant}/{task}  {by}{reason}", shown(event, 40));
    show::one_line(text.trim_end()) + "\n"
}
