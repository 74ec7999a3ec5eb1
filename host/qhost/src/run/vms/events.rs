//! `qhost events`.

use std::{
    collections::VecDeque,
    io::{self, Write as _, stdout},
};

use qhost_engine::Engine;
use qhost_model::printable;
use qhost_vm::Event;

use super::{RunError, show};
use crate::{
    cli::{EventsArgs, Shared},
    exit::Exit,
};

pub(super) async fn events(
    shared: &Shared,
    engine: &Engine,
    args: &EventsArgs,
) -> Result<Exit, RunError> {
    let mut events = engine.events(args.since.map(|since| since.0));
    // If only the latest events are asked for, they are told once all were read.
    let mut latest = args.tail.map(|_| VecDeque::new());
    loop {
        let event = match events.next_kept().await? {
            Some(event) => event,
            None => {
                let told = latest.take().unwrap_or_default();
                if told.iter().any(|event| tell(shared, event).is_err()) || !args.follow {
                    return Ok(Exit::Done);
                }
                events.next().await?
            }
        };
        if !args.includes(&event) {
            continue;
        }
        match &mut latest {
            Some(latest) => {
                latest.push_back(event);
                if latest.len() > args.tail.unwrap_or(usize::MAX) {
                    latest.pop_front();
                }
            }
            // A closed pipe is the reader's choice and no error of ours.
            None if tell(shared, &event).is_err() => return Ok(Exit::Done),
            None => {}
        }
    }
}

impl EventsArgs {
    pub(in crate::run) fn includes(&self, event: &Event) -> bool {
        self.of.includes(&event.tenant)
            && self.vm.as_ref().is_none_or(|id| event.vm.starts_with(id))
            && self.task.as_ref().is_none_or(|task| event.task == *task)
            && (self.events.is_empty() || self.events.contains(&event.event))
    }
}

pub(in crate::run) fn tell(shared: &Shared, event: &Event) -> io::Result<()> {
    let text = if shared.json { show::json(event) } else { line(event) };
    let written = anstream::stdout().lock().write_all(text.as_bytes());
    written.and_then(|()| stdout().flush())
}

fn line(event: &Event) -> String {
    let Event { at, vm, task, tenant, event, request, actor, by, reason } = event;
    let shown = |text: &str, most| printable::line(text, most).to_string();
    let reason = reason.as_deref().map(|reason| shown(reason, 300)).unwrap_or_default();
    let (task, tenant) = (shown(task, 40), shown(tenant, 40));
    let vm = if vm.is_empty() { "-" } else { vm };
    let by = by.as_deref().map(|by| format!("by {}: ", shown(by, 120))).unwrap_or_default();
    let request = request.as_deref().map(|request| shown(request, 40)).unwrap_or_default();
    let actor = actor.as_deref().map(|actor| format!(" by {}", shown(actor, 120)));
    let actor = actor.unwrap_or_default();
    let text = format!(
        "{at:.3}  {:<9}  {vm}  {tenant}/{task}  {request}{actor}{by}{reason}",
        shown(event, 40)
    );
    show::one_line(text.trim_end()) + "\n"
}
