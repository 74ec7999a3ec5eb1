//! Reads events of VMs as they happen.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use qhost_sys::{state::StateDir, watch::FolderWatch};
use qhost_vm::{Event, Events, VmError};

use crate::{
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    limits,
};

/// A log of events, from a time on.
#[derive(Debug)]
pub struct EventLog {
    state: PathBuf,
    kept: Arc<Mutex<Kept>>,
    watch: Option<EventWatch>,
}

/// A watch that is kept from one event to the next, since giving a watch up takes the kernel some 8 ms.
#[derive(Debug)]
struct EventWatch {
    watch: FolderWatch,
    /// Whether the folder of events existed when the watch began; the first event makes it.
    has_folder: bool,
}

/// The events that were read from the files.
#[derive(Debug)]
struct Kept {
    state: PathBuf,
    events: Events,
    since: Option<Timestamp>,
    read: VecDeque<Event>,
}

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn next(&mut self) -> Result<Option<Event>, Failure> {
        while self.read.is_empty() {
            let events = self.events.read().map_err(|source| {
                let path = self.state.clone();
                Failure::Vm(VmError::Folder { doing: "read events in", path, source })
            })?;
            if events.is_empty() {
                break;
            }
            let since = self.since;
            let is_late = |event: &Event| since.is_none_or(|since| event.at >= since);
            self.read.extend(events.into_iter().filter(is_late));
        }
        Ok(self.read.pop_front())
    }
}

impl Engine {
    /// The events of VMs since a time, as far as they are kept, and from now on.
    pub fn events(&self, since: Option<Timestamp>) -> EventLog {
        self.log(Events::new(self.state().path()), since)
    }

    /// The events of one tenant's VMs since a time, as far as they are kept, and from now on. Other tenants' events do not slow this.
    pub fn events_of(&self, tenant: &str, since: Option<Timestamp>) -> EventLog {
        self.log(Events::of_tenant(self.state().path(), tenant), since)
    }

    fn log(&self, events: Events, since: Option<Timestamp>) -> EventLog {
        let state = self.state().path().to_owned();
        let kept = Kept { state: state.clone(), events, since, read: VecDeque::new() };
        EventLog { state, kept: Arc::new(Mutex::new(kept)), watch: None }
    }
}

impl EventLog {
    /// The folders that change with each event.
    pub fn folders(state: &StateDir) -> [PathBuf; 2] {
        [state.path().to_owned(), state.path().join(Events::FOLDER)]
    }

    /// The next event that has been written already; none once all are read.
    ///
    /// # Errors
    /// Fails where the log cannot be read.
    pub async fn next_kept(&mut self) -> Result<Option<Event>, EngineError> {
        let kept = Arc::clone(&self.kept);
        if let Some(event) = locked(&kept).read.pop_front() {
            return Ok(Some(event));
        }
        let next = blocking(move || locked(&kept).next());
        Ok(next.await?)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// Fails where the log cannot be read.
    pub async fn next(&mut self) -> Result<Event, EngineError> {
        loop {
            // The watch begins before the read, so that it notices events that are written after the read.
            let folders = [self.state.clone(), self.state.join(Events::FOLDER)];
            let has_folder = folders.iter().all(|folder| folder.exists());
            let watch = self.watch.take().filter(|watch| watch.has_folder || !has_folder);
            let mut watch = watch.unwrap_or_else(|| {
                let watch = FolderWatch::new(folders.iter().map(PathBuf::as_path));
                EventWatch { watch, has_folder }
            });
            let event = self.next_kept().await?;
            if event.is_none() {
                watch.watch.changed(limits::EVENTS_LOOK).await;
            }
            self.watch = Some(watch);
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }
}
