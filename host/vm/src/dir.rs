//! A VM's folder, `vms/<id>/`, and its lock, held for as long as the VM is looked after: by the run that makes it, then
//! by its supervisor.
//!
//! A folder whose lock is free has a VM that has ended, or whose supervisor was killed. `recover` in the engine says what then.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use qhost_cage::Cage;
use qhost_model::{job::Task, masks::Masks, quota::Usage};
use qhost_sys::{
    failpoint,
    state::{self, StateDir},
};

use super::{
    End, Ended, Event, Process, Spec, State, Status, VmError, console, control,
    error::io_error,
    files::{
        AGENT_SOCKET, CONSOLE_SOCKET, FIRMWARE, FROZEN, OVERLAY, QMP_SOCKET, VARIABLES,
        is_disk_file,
    },
    lock::{LOCK, lock_all, try_lock},
    records::{
        RANDOM_BYTES, RESERVED, Reserved, STATUS, TASK, name_of, read_record, read_status, slug,
    },
    spare,
    spec::PLAN,
};

/// The folder of a VM that this process looks after. Dropped before its supervisor has it, it is removed.
#[derive(Debug)]
pub struct VmDir {
    path: PathBuf,
    id: String,
    /// For events.
    task: String,
    tenant: String,
    /// Held until dropped. A supervisor has its own from the process that started it, open for as long as it lives.
    lock: Option<File>,
    /// Whether it was made for this run: one that was started before has records that are worth something.
    is_new: bool,
    status: Status,
}

impl VmDir {
    /// Makes a folder for a task, under an id that starts with something like its name, and reserves what it takes. Under the lock
    /// of all folders it is first asked whether the VM is admitted. Its image is fetched next.
    pub fn create(
        state: &StateDir,
        task: &Task,
        takes: Usage,
        operation: Option<String>,
        admit: impl FnOnce() -> Result<(), VmError>,
    ) -> Result<Self, VmError> {
        let vms = state.vms();
        state::create_private(&vms).map_err(io_error("create", &vms))?;
        let all_folders = lock_all(&vms)?;
        admit()?;
        let made = tempfile::Builder::new()
            .prefix(&format!("{}-", slug(&task.name)))
            .rand_bytes(RANDOM_BYTES)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&vms)
            .map_err(io_error("create a folder in", &vms))?;
        let lock_path = made.path().join(LOCK);
        let lock = File::create_new(&lock_path).map_err(io_error("create", &lock_path))?;
        lock.lock().map_err(io_error("lock", &lock_path))?;
        let path = made.keep();
        let mut dir = Self {
            id: name_of(&path),
            path,
            task: task.name.clone(),
            tenant: task.tenant.clone(),
            lock: Some(lock),
            is_new: true,
            status: Status::new(),
        };
        let reserved = dir.write(RESERVED, &Reserved::new(task, takes, operation));
        // The reservation alone needs the lock of all; other runs need not wait for the rest.
        drop(all_folders);
        reserved?;
        failpoint::reach("launch.reserved");
        // What is secret of it is not needed any more once the image is here.
        let mut kept = task.clone();
        Masks::default().mask(&mut kept);
        spare::make(&dir.path).map_err(io_error("write to", &dir.path))?;
        dir.write(TASK, &kept)?;
        dir.record_event(State::Created.name(), None);
        dir.status.enter(State::Fetching, None);
        dir.try_update_status(|_| {})?;
        dir.record_event(State::Fetching.name(), None);
        Ok(dir)
    }

    /// The folder of a VM that has ended, taken to start it once more; nothing where it is held. Whether the VM is admitted is asked
    /// under the lock of all folders, and before its own is held, which says that it takes something already.
    pub fn claim_ended(
        state: &StateDir,
        folder: &Path,
        task: &Task,
        takes: Usage,
        admit: impl FnOnce() -> Result<(), VmError>,
    ) -> Result<Option<Self>, VmError> {
        let _all = lock_all(&state.vms())?;
        let spec = Spec::read(folder)?;
        admit()?;
        let Some(lock) = try_lock(folder)? else { return Ok(None) };
        let mut dir = Self::open_for_supervisor(folder, &spec);
        // Since it was looked at, another command may have started it and been killed.
        if !dir.status.state().is_final() {
            return Ok(None);
        }
        dir.lock = Some(lock);
        dir.status.supervisor = Process::this();
        // A volume of its may be larger by now.
        let operation = read_record(&folder.join(RESERVED)).and_then(|it: Reserved| it.operation);
        dir.write(RESERVED, &Reserved::new(task, takes, operation))?;
        Ok(Some(dir))
    }

    /// The folder as a supervisor has it.
    pub fn open_for_supervisor(path: &Path, spec: &Spec) -> Self {
        let status = read_status(path);
        Self {
            path: path.to_owned(),
            id: spec.vm.clone(),
            task: spec.task.clone(),
            tenant: spec.tenant.clone(),
            lock: None,
            is_new: false,
            status,
        }
    }

    /// The folder of a VM whose run was killed before it was settled what it is run from.
    pub fn open_unlaunched(path: &Path) -> Self {
        let task: Option<Task> = read_record(&path.join(TASK));
        let status = read_status(path);
        let name = |of: fn(&Task) -> &String| task.as_ref().map(of).cloned().unwrap_or_default();
        Self {
            path: path.to_owned(),
            id: name_of(path),
            task: name(|task| &task.name),
            tenant: name(|task| &task.tenant),
            lock: None,
            is_new: false,
            status,
        }
    }

    /// The VM's id: the folder's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The guest's console log.
    pub fn console_log(&self) -> PathBuf {
        console::log(&self.path)
    }

    /// How it is doing.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Writes one of the VM's records. A new VM's outlasts its writer at once, and a power cut when [`VmDir::sync`] has returned.
    pub fn write(&self, name: &str, record: &impl Serialize) -> Result<(), VmError> {
        self.write_by(self.write_before_launch(), name, record)
    }

    /// How a record is written. The launch syncs a new VM's records together. A VM that ran before has records on the disk already, which a power
    /// cut must not leave empty.
    fn write_before_launch(&self) -> fn(&Path, &[u8]) -> io::Result<()> {
        if self.is_new { state::write_unsynced } else { state::write_replacing }
    }

    /// Writes what the VM is run from, which also tells other runs what it takes. With it all records of its launch are there.
    pub fn write_spec(&self, spec: &Spec) -> Result<(), VmError> {
        self.write(PLAN, spec)
    }

    /// Waits until what is written of the launch outlasts a power cut. The VM's supervisor starts QEMU meanwhile, as no VM goes on after
    /// such a cut.
    pub fn sync(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.path)?.flatten() {
            // What a guest writes is synced when the guest asks for it.
            if file.file_name() != OVERLAY && !is_disk(&file) {
                state::sync(&file.path())?;
            }
        }
        state::sync(&self.path)
    }

    fn write_by(
        &self,
        write: fn(&Path, &[u8]) -> io::Result<()>,
        name: &str,
        record: &impl Serialize,
    ) -> Result<(), VmError> {
        let path = self.path.join(name);
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::other)
            .and_then(|bytes| write(&path, &bytes))
            .map_err(io_error("write", &path))
    }

    /// Goes on to a state and writes that down. On a full disk it is not written, and the VM goes on all the same.
    pub fn enter(&mut self, state: State, reason: Option<String>) {
        self.enter_with(state, reason, |_| {});
    }

    pub(super) fn enter_with(
        &mut self,
        state: State,
        reason: Option<String>,
        note: impl FnOnce(&mut Status),
    ) {
        if !self.status.enter(state, reason.clone()) {
            tracing::debug!(vm = self.id, ?state, "no state to go on to");
            return;
        }
        self.update_status(note);
        self.record_event(state.name(), reason);
    }

    /// A VM that has ended begins once more.
    pub fn start_again(&mut self, reason: &str) -> Result<(), VmError> {
        if self.status.start_again(reason.to_owned()) {
            self.try_update_status(|_| {})?;
            self.record_event(State::Starting.name(), Some(reason.to_owned()));
        }
        Ok(())
    }

    /// It was not started again after all.
    pub fn did_not_start(&mut self, error: &VmError) {
        let ended = self.start_failed(error);
        self.end(ended);
    }

    /// How a VM ended whose QEMU did not start, now.
    pub(super) fn start_failed(&self, error: &VmError) -> Ended {
        let now = Timestamp::now();
        let started_at = self.status.started_at.unwrap_or(now);
        Ended { end: End::of_start(error), started_at, ended_at: now }
    }

    /// Records for good how it ended.
    pub(super) fn end(&mut self, ended: Ended) {
        let (state, reason) = ended.state();
        self.enter_with(state, Some(reason), |status| status.ended = Some(ended));
    }

    /// Writes down something of its status. On a full disk it is not written, and the VM goes on all the same.
    pub(super) fn update_status(&mut self, note: impl FnOnce(&mut Status)) {
        if let Err(error) = self.try_update_status(note) {
            tracing::warn!(%error, "the VM's status was not written");
        }
    }

    /// The same of what must be known before anything goes on.
    pub(super) fn try_update_status(
        &mut self,
        note: impl FnOnce(&mut Status),
    ) -> Result<(), VmError> {
        note(&mut self.status);
        let is_final = self.status.state().is_final();
        let write = match self.status.state() {
            // How it ended is known to this process alone.
            State::Exited | State::Failed | State::Lost => state::write_whole,
            State::Created
            | State::Fetching
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping => self.write_before_launch(),
        };
        self.status.kept_bytes = is_final.then(|| bytes_of(&self.path));
        match self.write_by(write, STATUS, &self.status) {
            Err(VmError::Folder { source, .. }) if spare::is_wanted(&source) => {
                spare::write(&self.path, &self.status)
                    .map_err(io_error("write", &self.path.join(STATUS)))
            }
            written => written,
        }
    }

    /// Adds to what happened on this host.
    pub(super) fn record_event(&self, event: &str, reason: Option<String>) {
        let event = Event {
            at: Timestamp::now(),
            vm: self.id.clone(),
            task: self.task.clone(),
            tenant: self.tenant.clone(),
            event: event.to_owned(),
            request: None,
            actor: None,
            by: None,
            reason,
        };
        if let Some(state) = self.path.ancestors().nth(2) {
            event.append(state);
        }
    }

    /// Its lock, for the supervisor.
    pub fn share_lock(&self) -> Result<File, VmError> {
        let none = || io::Error::other("it is another process's");
        let shared = self.lock.as_ref().ok_or_else(none).and_then(File::try_clone);
        shared.map_err(io_error("hold the lock of", &self.path))
    }

    /// The supervisor has it. From here on the folder stays, whatever becomes of this process.
    pub fn hand_over(&mut self) {
        self.lock = None;
    }
}

impl Drop for VmDir {
    fn drop(&mut self) {
        if self.lock.is_none() || !self.is_new {
            return;
        }
        self.record_event("removed", Some("it was not started".into()));
        // It is not to be seen half gone; without the lock of all it still goes.
        let _all = self.path.parent().map(lock_all);
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the VM's folder");
        }
    }
}

/// Removes what a VM had only for running: its overlay and its firmware's variables, unless they are kept, its disks but for volumes, its
/// firmware, its sockets, its cgroup.
pub fn remove_leftovers(path: &Path) -> io::Result<()> {
    for name in [OVERLAY, FIRMWARE, VARIABLES, QMP_SOCKET, CONSOLE_SOCKET, AGENT_SOCKET, FROZEN] {
        state::remove(&path.join(name))?;
    }
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        files => {
            files?.flatten().filter(is_disk).try_for_each(|disk| state::remove(&disk.path()))?
        }
    }
    if let Ok(spec) = Spec::read(path) {
        Cage::remove_cgroups(&spec.cage, &spec.vm)?;
    }
    // The last: what has none has been swept.
    state::remove(&path.join(control::SOCKET))
}

/// What a VM's records and console logs take, in bytes. Those that are gone take nothing.
pub fn bytes_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name() != OVERLAY && !is_disk(file));
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// Whether a file of a VM's folder is a disk's that ends with the VM.
fn is_disk(file: &fs::DirEntry) -> bool {
    file.file_name().to_str().is_some_and(is_disk_file)
}
