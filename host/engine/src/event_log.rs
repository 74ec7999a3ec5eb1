//! What happened to VMs, read as it happens.

use std::{collections::VecDeque, path::PathBuf};

use jiff::Timestamp;

use qhost_sys::{state::StateDir, watch::FolderWatch};
use qhost_vm::{Event, Events, VmError};

use crate::{
    error::{EngineError, Failure},
    limits,
};

/// Events from some time on.
#[derive(Debug)]
pub struct EventLog {
    state: PathBuf,
    events: Events,
    since: Option<Timestamp>,
    read: VecDeque<Event>,
}

impl EventLog {
    pub(crate) fn new(state: &StateDir, since: Option<Timestamp>) -> Self {
        let path = state.path();
        Self { state: path.to_owned(), events: Events::new(path), since, read: VecDeque::new() }
    }

    /// The next one that there is.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn next_kept(&mut self) -> Result<Option<Event>, EngineError> {
        if self.read.is_empty() {
            let events = self.events.read().map_err(|source| {
                let path = self.state.clone();
                Failure::Vm(VmError::Folder { doing: "read events in", path, source })
            })?;
            let since = self.since;
            let is_late = |event: &Event| since.is_none_or(|since| event.at >= since);
            self.read.extend(events.into_iter().filter(is_late));
        }
        Ok(self.read.pop_front())
    }

    /// The next one, as soon as it has happened. May be dropped while it waits.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn next(&mut self) -> Result<Event, EngineError> {
        loop {
            // Made first, so that it tells of what is written after it was read. The folder of events comes with the first of them.
            let folders = [self.state.clone(), self.state.join(Events::FOLDER)];
            let mut watch = FolderWatch::new(folders.iter().map(PathBuf::as_path));
            if let Some(event) = self.next_kept()? {
                return Ok(event);
            }
            watch.changed(limits::EVENTS_LOOK).await;
        }
    }
}
