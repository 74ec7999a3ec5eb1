//! Events of VMs, a line each, in `events/<tenant>.jsonl`. Each tenant's file rotates by itself, so that no tenant's events push out
//! another's. `events.jsonl` beside the folder is an earlier version's, whose supervisors may still write to it.

mod rotated;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_model::{digest::Sha256, job::Task, name::is_name};
use qhost_sys::state;

use self::rotated::Rotated;
use crate::limits;

const ENDING: &str = ".jsonl";
const OLD_ENDING: &str = ".jsonl.1";
const LOCK: &str = ".lock";

/// An event of a VM, or of a task that got no VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// When the event happened.
    pub at: Timestamp,
    /// The VM's id; empty where none was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vm: String,
    /// The task's name.
    pub task: String,
    /// The VM's tenant.
    pub tenant: String,
    /// The event's name: a state that began, or `ready`, `adopted`, `removed`, `refused`, `requested`.
    pub event: String,
    /// What was requested, for `requested`: `start`, `stop`, `kill`, `restart`, `pause`, `resume`, `remove`, `console`, `exec`,
    /// `screenshot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The actor who requested it, as decision records name actors: `uid 1001`, `token ci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What refused the task: a policy, a quota, the host's ports, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason, if it is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Event {
    /// The event of a task that was refused, and got no VM.
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

    /// Appends the event to its file. On a full disk the event is lost, and the VM goes on all the same.
    pub fn append(&self, state: &Path) {
        if let Err(error) = self.try_append(state) {
            tracing::warn!(%error, "an event was not written");
        }
    }

    fn try_append(&self, state: &Path) -> io::Result<()> {
        let folder = state.join(Events::FOLDER);
        let of = |ending: &str| folder.join(stem(&self.tenant) + ending);
        state::create_private(&folder)?;
        // The lock is held for the moment in which the file is written or rotated.
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

/// The path of a tenant's files without the ending, which keeps a name such as `..` from leading elsewhere. The name comes from a record,
/// which may be damaged.
fn stem(tenant: &str) -> String {
    if is_name(tenant) {
        tenant.to_owned()
    } else {
        // No tenant's name has this character.
        format!("~{}", Sha256::of(tenant.as_bytes()))
    }
}

/// Reads the events that are kept, and those that follow, a piece of each file at a time, so that a slow reader has no more than that in
/// memory.
#[derive(Debug)]
pub struct Events {
    state: PathBuf,
    /// The tenant whose events are read; absent: those of all.
    tenant: Option<String>,
    files: Vec<Rotated>,
    /// When files were last looked for.
    found_at: Timestamp,
}

impl Events {
    /// The folder of the files, in the state folder.
    pub const FOLDER: &str = "events";

    /// Reads all tenants' events, from the beginning of what is kept.
    pub fn new(state: &Path) -> Self {
        // This is the file of an earlier version.
        let files = vec![Rotated::new(state.join(Events::FOLDER).into())];
        Self { state: state.to_owned(), tenant: None, files, found_at: Timestamp::MIN }
    }

    /// Reads one tenant's events only, from the beginning of what is kept, without reading other tenants' files.
    pub fn of_tenant(state: &Path, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..Self::new(state) }
    }

    /// Reads the next events, by time; none once all are read. No later call gives an event that happened before one of these, unless the
    /// host's clock was set.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        for _ in 0..limits::EVENTS_READS {
            if let Some(events) = self.read_to_the_end()? {
                return Ok(events);
            }
            // Events that happened during the reading wait until the files that were read first have been read again.
            if self.files.iter().all(|file| file.read.is_empty()) {
                break;
            }
        }
        Ok(vec![])
    }

    /// Reads on until events can be given out; nothing if each file was read to its end, and no event can be given out.
    fn read_to_the_end(&mut self) -> io::Result<Option<Vec<Event>>> {
        let began = Timestamp::now();
        // The host's clock may have been set back since the last call.
        self.found_at = self.found_at.min(began);
        for file in &mut self.files {
            (file.known_until, file.is_at_end) = (file.known_until.min(began), false);
        }
        let mut has_found = false;
        loop {
            let known_until = self.files.iter().map(|file| file.known_until);
            let known_until = known_until.fold(self.found_at, Timestamp::min);
            let events = self.take(known_until);
            if !events.is_empty() {
                return Ok(Some(events));
            }
            let mut reads_on = false;
            if !has_found && self.found_at <= known_until {
                (self.found_at, has_found, reads_on) = (Timestamp::now(), true, true);
                self.find()?;
            }
            for file in &mut self.files {
                if !file.is_at_end && file.known_until <= known_until {
                    file.read_on(self.tenant.as_deref())?;
                    reads_on = true;
                }
            }
            if !reads_on {
                return Ok(None);
            }
        }
    }

    /// Takes the events that may be given out, by time: those before which all events are known.
    fn take(&mut self, known_until: Timestamp) -> Vec<Event> {
        let now = Timestamp::now();
        // An event that is far ahead of the clock was written before the host's clock was set back.
        let may_be_told = |event: &mut Event| {
            event.at <= known_until || now.duration_until(event.at) >= limits::EVENTS_AHEAD
        };
        let files = self.files.iter_mut();
        let mut events: Vec<_> =
            files.flat_map(|file| file.read.extract_if(.., may_be_told)).collect();
        events.sort_by(|one, other| (one.at, &one.tenant).cmp(&(other.at, &other.tenant)));
        events
    }

    /// Adds the files of tenants that had no events before.
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
                // A writer makes the lock before it makes the file.
                let stem = [ENDING, OLD_ENDING, LOCK].into_iter();
                let stem = stem.filter_map(|ending| name.strip_suffix(ending)).next();
                stem.map(|stem| folder.join(stem).into_os_string())
            })
            .collect();
        let known: BTreeSet<_> = self.files.iter().map(|known| known.stem.clone()).collect();
        self.files.extend(stems.difference(&known).cloned().map(Rotated::new));
        Ok(())
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
        let all = |events: &mut Events| {
            let pieces = std::iter::repeat_with(|| events.read().unwrap());
            pieces.take_while(|piece| !piece.is_empty()).flatten().collect::<Vec<_>>()
        };
        let most = usize::try_from(limits::EVENTS_BYTES / 4096 * 3).unwrap();
        for number in 0..most {
            event("mallory", number, Some("x".repeat(4096))).append(state.path());
            if number % 100 == 0 {
                seen += all(&mut events).len();
            }
        }
        seen += all(&mut events).len();
        assert_eq!(seen, most + 1);
        let kept = all(&mut Events::new(state.path()));
        assert!(kept.len() < most && kept.last().unwrap().vm == (most - 1).to_string());
        assert_eq!(kept[0].tenant, "acme", "another's events pushed it out");
    }

    /// The events of a slow client's stream were once all read into memory.
    #[test]
    fn no_more_is_read_than_is_taken() {
        let state = tempfile::tempdir().unwrap();
        let most = 100;
        for number in 0..most {
            // The tenant with few events has its last one in the middle.
            let tenant = if number % 10 == 0 && number <= 50 { "few" } else { "many" };
            event(tenant, number, Some("x".repeat(4096))).append(state.path());
        }
        let (mut events, mut vms) = (Events::new(state.path()), vec![]);
        loop {
            let piece = events.read().unwrap();
            let waits = events.files.iter().map(|file| file.read.len()).sum::<usize>();
            assert!(piece.len() + waits <= 8, "{} and {waits} of {most} were read", piece.len());
            if piece.is_empty() {
                break;
            }
            vms.extend(piece.iter().map(|event| event.vm.parse::<usize>().unwrap()));
        }
        assert_eq!(vms, (0..most).collect::<Vec<_>>());
    }

    /// A file that has events of several tenants, as an earlier version wrote it.
    #[test]
    fn a_tenants_events_do_not_end_where_others_come_between() {
        let state = tempfile::tempdir().unwrap();
        let tenants = ["acme"].into_iter().chain(["mallory"; 40]).chain(["acme"]);
        let line = |(number, tenant)| {
            serde_json::to_string(&event(tenant, number, Some("x".repeat(4096)))).unwrap() + "\n"
        };
        let lines: String = tenants.enumerate().map(line).collect();
        fs::write(state.path().join("events.jsonl"), lines).unwrap();
        let mut events = Events::of_tenant(state.path(), "acme");
        let vms: Vec<_> = std::iter::repeat_with(|| events.read().unwrap())
            .take_while(|piece| !piece.is_empty())
            .flatten()
            .map(|event| event.vm)
            .collect();
        assert_eq!(vms, ["0", "41"]);
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
