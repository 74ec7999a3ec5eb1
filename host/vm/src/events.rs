//! What happened to VMs, a line each: `events/<tenant>.jsonl`, which rotates, so that no tenant's events push out another's.
//! `events.jsonl` beside that is an earlier version's, whose supervisors may still write to it.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_model::{digest::Sha256, job::Task, name::is_name};
use qhost_sys::state;

use crate::limits;

const ENDING: &str = ".jsonl";
const OLD_ENDING: &str = ".jsonl.1";
const LOCK: &str = ".lock";

/// Something that happened to a VM, or to a task that got none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The VM's id; empty where none was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vm: String,
    /// The task's name.
    pub task: String,
    /// Whose it is.
    pub tenant: String,
    /// What: a state that began, or `ready`, `adopted`, `removed`, `refused`, `requested`.
    pub event: String,
    /// What was requested, of `requested`: `start`, `stop`, `kill`, `restart`, `pause`, `resume`, `remove`, `console`, `exec`, `screenshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Who requested it, as decision records name who asks: `uid 1001`, `token ci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// By what it was refused: a policy, a quota, the host's ports, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Event {
    /// A task was refused, and got no VM.
    pub fn refused(task: &Task, by: &str, reason: &str) -> Self {
        Self {
            at: Timestamp::now(),
            vm: String::new(),
            task: task.name.clone(),
            tenant: task.tenant.clone(),
            event: "refused".into(),
            request: None,
            actor: None,
            by: Some(by.into()),
            reason: Some(reason.chars().take(limits::EVENT_REASON_CHARS).collect()),
        }
    }

    /// Writes it down. On a full disk it is not, and the VM goes on all the same.
    pub fn append(&self, state: &Path) {
        if let Err(error) = self.try_append(state) {
            tracing::warn!(%error, "an event was not written");
        }
    }

    fn try_append(&self, state: &Path) -> io::Result<()> {
        let folder = state.join(Events::FOLDER);
        let of = |ending: &str| folder.join(stem(&self.tenant) + ending);
        state::create_private(&folder)?;
        // For the moment in which it is written or rotated.
        let _lock = state::lock(&of(LOCK))?;
        // The time is taken under the lock, so that times ascend in a file.
        let mut line = serde_json::to_vec(&Self { at: Timestamp::now(), ..self.clone() })?;
        line.push(b'\n');
        let open = || File::options().create(true).append(true).mode(0o600).open(of(ENDING));
        let mut file = open()?;
        if file.metadata()?.len() >= limits::EVENTS_BYTES {
            fs::rename(of(ENDING), of(OLD_ENDING))?;
            file = open()?;
        }
        file.write_all(&line)
    }
}

/// The path of a tenant's files, without the ending that is added to it: with one, a name such as `..` leads nowhere else. The
/// name comes from a record, which may be damaged.
fn stem(tenant: &str) -> String {
    if is_name(tenant) {
        tenant.to_owned()
    } else {
        // No name has this character.
        format!("~{}", Sha256::of(tenant.as_bytes()))
    }
}

/// Reads what happened, and what happens from then on.
#[derive(Debug)]
pub struct Events {
    state: PathBuf,
    /// The tenant whose events are read; none: all.
    tenant: Option<String>,
    files: Vec<Rotated>,
    /// What was read, and may have happened after something that was not read yet.
    late: Vec<Event>,
}

impl Events {
    /// The folder of the files, in the state folder.
    pub const FOLDER: &str = "events";

    /// From the beginning of what is kept.
    pub fn new(state: &Path) -> Self {
        // An earlier version's.
        let files = vec![Rotated::new(state.join(Events::FOLDER).into())];
        Self { state: state.to_owned(), tenant: None, files, late: vec![] }
    }

    /// The same of one tenant's alone, whatever the others' files have.
    pub fn of_tenant(state: &Path, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..Self::new(state) }
    }

    /// The events since the last call, by time: none that comes later happened before one of these, unless the host's clock was set.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.late);
        let mut now = Timestamp::now();
        for _ in 0..limits::EVENTS_READS {
            now = Timestamp::now();
            self.find()?;
            for file in &mut self.files {
                let lines = file.read()?;
                let lines = lines.split(|byte| *byte == b'\n');
                events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
            }
            if !events.iter().any(|event| may_be_early(event, now)) {
                break;
            }
        }
        // What happened while files were read waits for what happened meanwhile in those that were read before.
        let (late, mut events) = events.into_iter().partition(|event| may_be_early(event, now));
        self.late = late;
        if let Some(tenant) = &self.tenant {
            events.retain(|event: &Event| event.tenant == *tenant);
        }
        events.sort_by(|one, other| (one.at, &one.tenant).cmp(&(other.at, &other.tenant)));
        Ok(events)
    }

    /// Begins with the files of tenants that had no events before.
    fn find(&mut self) -> io::Result<()> {
        let folder = self.state.join(Events::FOLDER);
        if let Some(tenant) = &self.tenant {
            let own = folder.join(stem(tenant)).into_os_string();
            if !self.files.iter().any(|known| known.stem == own) {
                self.files.push(Rotated::new(own));
            }
            return Ok(());
        }
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let stems: BTreeSet<_> = names
            .filter_map(|name| {
                // A writer has the lock before it has the file.
                let stem = [ENDING, OLD_ENDING, LOCK].into_iter();
                let stem = stem.filter_map(|ending| name.strip_suffix(ending)).next();
                stem.map(|stem| folder.join(stem).into_os_string())
            })
            .collect();
        for stem in stems {
            if !self.files.iter().any(|known| known.stem == stem) {
                self.files.push(Rotated::new(stem));
            }
        }
        Ok(())
    }
}

/// Whether an event that was read may be told before another that happened earlier. An event of long after now was written before the
/// host's clock was set back.
fn may_be_early(event: &Event, now: Timestamp) -> bool {
    event.at > now && now.duration_until(event.at) < limits::EVENTS_AHEAD
}

/// One file of events, and the one before it.
#[derive(Debug)]
struct Rotated {
    /// The files' path, but for its ending: no path of its own, as a tenant may be called `..`.
    stem: OsString,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    old: bool,
}

impl Rotated {
    fn new(stem: OsString) -> Self {
        Self { stem, file: None, partial: vec![], old: true }
    }

    fn path(&self, ending: &str) -> PathBuf {
        let mut path = self.stem.clone();
        path.push(ending);
        path.into()
    }

    /// The whole lines that were written since the last call. They are read under the writers' lock, so that what has a time before this call
    /// is among them.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let _lock = self.lock_shared();
        let mut lines = vec![];
        loop {
            if self.file.is_none() {
                let path = self.path(if self.old { OLD_ENDING } else { ENDING });
                self.file = match File::open(path) {
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
            let whole =
                self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            lines.extend(self.partial.drain(..whole));
            if std::mem::take(&mut self.old) || rotated {
                // Where it has been rotated away meanwhile, the file that came after it is the one before the last.
                self.old = self.file.is_some() && !self.is_at(OLD_ENDING);
                self.file = None;
                continue;
            }
            return Ok(lines);
        }
    }

    /// The writers' lock, shared with other readers. It is opened to be read, as a watch of the folder tells of files that were open to be
    /// written. Without it, an event may be told after one that happened later.
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

    /// Whether a path is the file that is open.
    fn is_at(&self, ending: &str) -> bool {
        let named = fs::metadata(self.path(ending)).map(|named| named.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        named.is_ok_and(|named| open.is_some_and(|open| open.ino() == named))
    }

    fn has_rotated(&self) -> bool {
        self.file.is_some() && !self.old && self.path(ENDING).exists() && !self.is_at(ENDING)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use qhost_sys::watch::FolderWatch;

    use super::*;

    fn event(tenant: &str, vm: usize, reason: Option<String>) -> Event {
        Event {
            at: Timestamp::now(),
            vm: vm.to_string(),
            task: "t".into(),
            tenant: tenant.into(),
            event: "running".into(),
            request: None,
            actor: None,
            by: None,
            reason,
        }
    }

    #[test]
    fn events_are_read_through_rotations_and_are_each_tenants_own() {
        let state = tempfile::tempdir().unwrap();
        let mut events = Events::new(state.path());
        assert!(events.read().unwrap().is_empty());
        event("acme", 0, None).append(state.path());
        let mut seen = 0;
        let most = usize::try_from(limits::EVENTS_BYTES / 4096 * 3).unwrap();
        for number in 0..most {
            event("mallory", number, Some("x".repeat(4096))).append(state.path());
            if number % 100 == 0 {
                seen += events.read().unwrap().len();
            }
        }
        seen += events.read().unwrap().len();
        assert_eq!(seen, most + 1);
        let kept = Events::new(state.path()).read().unwrap();
        assert!(kept.len() < most && kept.last().unwrap().vm == (most - 1).to_string());
        assert_eq!(kept[0].tenant, "acme", "another's events pushed it out");
    }

    /// A reader that waits for changes of the folder would otherwise wake itself for ever.
    #[tokio::test]
    async fn reading_changes_nothing_in_the_folder() {
        let state = tempfile::tempdir().unwrap();
        event("acme", 0, None).append(state.path());
        let mut events = Events::new(state.path());
        let mut watch = FolderWatch::new([state.path().join(Events::FOLDER).as_path()]);
        assert_eq!(events.read().unwrap().len(), 1);
        let (within, began) = (Duration::from_millis(300), Instant::now());
        watch.changed(within).await;
        assert!(began.elapsed() >= within, "the reader changed something");
        event("acme", 1, None).append(state.path());
        watch.changed(within * 100).await;
        assert_eq!(events.read().unwrap().len(), 1);
    }

    #[test]
    fn tenants_of_any_name_are_read_by_time() {
        let state = tempfile::tempdir().unwrap();
        let mut events = Events::new(state.path());
        let earlier = serde_json::to_string(&event("acme", 0, None)).unwrap();
        fs::write(state.path().join("events.jsonl"), earlier + "\n").unwrap();
        let tenants = ["..", "acme", ".", "", "../../x", "a.jsonl.1", "a", "acme"];
        for (number, tenant) in tenants.into_iter().enumerate() {
            event(tenant, number + 1, None).append(state.path());
        }
        let mut found = events.read().unwrap();
        event("new", 9, None).append(state.path());
        event("acme", 10, None).append(state.path());
        found.extend(events.read().unwrap());
        let vms: Vec<usize> = found.iter().map(|event| event.vm.parse().unwrap()).collect();
        assert_eq!(vms, (0..=10).collect::<Vec<_>>());
        let made = fs::read_dir(state.path()).unwrap().count();
        assert_eq!(made, 2, "a tenant's name led out of the folder");
    }
}
