//! What happened to VMs, all of them, in one file that rotates: `events.jsonl`, a line each.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{limits, state};

const EVENTS: &str = "events.jsonl";
const OLD_EVENTS: &str = "events.jsonl.1";

/// Something that happened to a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The VM's id.
    pub vm: String,
    /// The task's name.
    pub task: String,
    /// Whose it is.
    pub tenant: String,
    /// What: a state that began, or `ready`, `adopted`, `removed`.
    pub event: String,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Event {
    /// Writes it down. On a full disk it is not, and the VM goes on all the same.
    pub(super) fn append(&self, state: &Path) {
        if let Err(error) = self.try_append(state) {
            tracing::warn!(%error, "an event was not written");
        }
    }

    fn try_append(&self, state: &Path) -> io::Result<()> {
        let path = state.join(EVENTS);
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        // For the moment in which it is written or rotated.
        let _lock = state::lock(&state.join(".events.lock"))?;
        let mut file = File::options().create(true).append(true).mode(0o600).open(&path)?;
        if file.metadata()?.len() >= limits::EVENTS_BYTES {
            fs::rename(&path, state.join(OLD_EVENTS))?;
            file = File::options().create(true).append(true).mode(0o600).open(&path)?;
        }
        file.write_all(&line)
    }
}

/// Reads what happened, and what happens from then on.
#[derive(Debug)]
pub struct Events {
    state: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    old: bool,
}

impl Events {
    /// From the beginning of what is kept.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), file: None, partial: vec![], old: true }
    }

    /// What came since it was last asked for.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        let mut events = vec![];
        loop {
            if self.file.is_none() {
                let name = if self.old { OLD_EVENTS } else { EVENTS };
                self.file = match File::open(self.state.join(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    file => Some(file?),
                };
            }
            // Asked first: what was written before it was rotated is read after that.
            let rotated = self.has_rotated();
            if let Some(file) = &mut self.file {
                let from = file.stream_position()?;
                let read = file.take(2 * limits::EVENTS_BYTES).read_to_end(&mut self.partial);
                file.seek(SeekFrom::Start(from + read? as u64))?;
            }
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                events.extend(serde_json::from_slice::<Event>(&line).ok());
            }
            if std::mem::take(&mut self.old) || rotated {
                self.file = None;
                continue;
            }
            return Ok(events);
        }
    }

    fn has_rotated(&self) -> bool {
        let named = fs::metadata(self.state.join(EVENTS)).map(|named| named.ino());
        let Some(file) = self.file.as_ref().filter(|_| !self.old) else { return false };
        named.is_ok_and(|named| file.metadata().is_ok_and(|file| file.ino() != named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_through_rotations() {
        let state = tempfile::tempdir().unwrap();
        let mut events = Events::new(state.path());
        assert!(events.read().unwrap().is_empty());
        let reason = Some("x".repeat(4096));
        let mut seen = 0;
        let most = usize::try_from(limits::EVENTS_BYTES / 4096 * 3).unwrap();
        for number in 0..most {
            let event = Event {
                at: Timestamp::now(),
                vm: number.to_string(),
                task: "t".into(),
                tenant: "t".into(),
                event: "running".into(),
                reason: reason.clone(),
            };
            event.append(state.path());
            if number % 100 == 0 {
                seen += events.read().unwrap().len();
            }
        }
        seen += events.read().unwrap().len();
        assert_eq!(seen, most);
        let kept = Events::new(state.path()).read().unwrap();
        assert!(kept.len() < most && kept.last().unwrap().vm == (most - 1).to_string());
    }
}
