//! Reads a tenant's file of events, a piece at a time, through its rotations.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
};

use jiff::Timestamp;

use qhost_sys::state;

use super::{ENDING, Event, LOCK, OLD_ENDING};
use crate::limits;

/// One file of events, and the one before it.
#[derive(Debug)]
pub(super) struct Rotated {
    /// The files' path without the ending. It is not used as a path by itself, as a tenant may be called `..`.
    pub(super) stem: OsString,
    file: Option<File>,
    /// The beginning of a line whose end is not read yet.
    partial: Vec<u8>,
    old: bool,
    /// The events that were read and are not given out yet.
    pub(super) read: Vec<Event>,
    /// All events before this time have been read.
    pub(super) known_until: Timestamp,
    /// Whether the file was read to its end since the last call.
    pub(super) is_at_end: bool,
}

impl Rotated {
    pub(super) fn new(stem: OsString) -> Self {
        Self {
            stem,
            file: None,
            partial: vec![],
            old: true,
            read: vec![],
            known_until: Timestamp::MIN,
            is_at_end: false,
        }
    }

    fn path(&self, ending: &str) -> PathBuf {
        let mut path = self.stem.clone();
        path.push(ending);
        path.into()
    }

    /// Reads a piece.
    pub(super) fn read_on(&mut self, tenant: Option<&str>) -> io::Result<()> {
        let now = Timestamp::now();
        let lines = self.read_piece()?;
        let lines = lines.split(|byte| *byte == b'\n');
        let events = lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok());
        for event in events {
            self.known_until = self.known_until.max(event.at.min(now));
            if tenant.is_none_or(|tenant| event.tenant == tenant) {
                self.read.push(event);
            }
        }
        if self.is_at_end {
            self.known_until = now;
        }
        Ok(())
    }

    /// Reads the whole lines of the next piece. The piece is read under the writers' lock, so that at the file's end all events with a time
    /// before this call have been read.
    fn read_piece(&mut self) -> io::Result<Vec<u8>> {
        let _lock = self.lock_shared();
        loop {
            if self.file.is_none() {
                let path = self.path(if self.old { OLD_ENDING } else { ENDING });
                self.file = match File::open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    file => Some(file?),
                };
            }
            // The rotation is looked for before the read, so that all that was written before the rotation is read.
            let rotated = self.has_rotated();
            let mut read = 0;
            if let Some(file) = &mut self.file {
                read = file.take(limits::EVENTS_PIECE_BYTES).read_to_end(&mut self.partial)?;
            }
            let whole =
                self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines = self.partial.drain(..whole).collect();
            if self.partial.len() > limits::EVENT_LINE_BYTES {
                self.partial.clear();
            }
            if read as u64 == limits::EVENTS_PIECE_BYTES {
                return Ok(lines);
            }
            if std::mem::take(&mut self.old) || rotated {
                // If the open file is not the older one any more, it was rotated away, and the file that came after it is the older one
                // now.
                self.old = self.file.is_some() && !self.is_at(OLD_ENDING);
                self.file = None;
                if lines.is_empty() {
                    continue;
                }
                return Ok(lines);
            }
            self.is_at_end = true;
            return Ok(lines);
        }
    }

    /// Takes the writers' lock, shared with other readers. The lock is opened for reading, as a watch of the folder reports files that were
    /// open for writing. Without the lock, an event may be given out after one that happened later.
    fn lock_shared(&self) -> Option<File> {
        let file = state::open_plain(File::options().read(true), &self.path(LOCK)).ok()?;
        for _ in 0..qhost_sys::limits::LOCK_TRIES {
            if file.try_lock_shared().is_ok() {
                return Some(file);
            }
            thread::sleep(qhost_sys::limits::LOCK_POLL);
        }
        None
    }

    /// Whether the file with an ending is the one that is open.
    fn is_at(&self, ending: &str) -> bool {
        let named = fs::metadata(self.path(ending)).map(|named| named.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        named.is_ok_and(|named| open.is_some_and(|open| open.ino() == named))
    }

    fn has_rotated(&self) -> bool {
        self.file.is_some() && !self.old && self.path(ENDING).exists() && !self.is_at(ENDING)
    }
}
