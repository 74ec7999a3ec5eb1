//! A VM's folder, `vms/<id>/`, and its lock, which is held for as long as the VM is looked after: by the run that makes the VM, then by its
//! supervisor.
//!
//! A folder whose lock is free has a VM that has ended, or whose supervisor was killed. `recover` in the engine says what is done then.

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
    End, Ended, Event, Process, Spec, State, Status, VmError, console,
    error::io_error,
    files::{
        AGENT_SOCKET, CONSOLE_SOCKET, CONTROL_SOCKET, FIRMWARE, FROZEN, OVERLAY, QMP_SOCKET,
        VARIABLES, is_disk_file,
    },
    lock::{LOCK, lock_all, try_lock},
    records::{
        RANDOM_CHARS, STATUS, TASK, name_of, read_record, read_reservation, read_status, slug,
    },
    reservation::Reservation,
    spare,
    spec::PLAN,
};

/// The folder of a VM that this process looks after. A new folder that is dropped before the supervisor has it is removed.
#[derive(Debug)]
pub struct VmDir {
    path: PathBuf,
    id: String,
    /// The task's name, for events.
    task: String,
    tenant: String,
    /// The VM's lock, held until dropped; absent in a supervisor, which inherits the open file from the process that started it.
    lock: Option<File>,
    /// Whether the folder was made by this run. The folder of a VM that was started before has records that are worth keeping.
    is_new: bool,
    status: Status,
}

impl VmDir {
    /// Makes a folder for a task, under an id that starts with the task's [`slug`], and reserves what the VM takes. `admit` is asked first,
    /// under the lock of all folders. The image is fetched next.
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
            .rand_bytes(RANDOM_CHARS)
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
        dir.status.reservation = Some(Reservation::new(task, takes, operation));
        let reserved = dir.write(STATUS, &dir.status);
        // The reservation alone needs the lock of all; other runs need not wait for the rest.
        drop(all_folders);
        reserved?;
        failpoint::reach("launch.reserved");
        // The record has no secrets of the task's: this run has them for fetching the image, and they are not needed after that.
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

    /// Claims the folder of a VM that has ended, to start the VM once more; nothing if the folder is held. `admit` is asked under the lock
    /// of all folders, and before the VM's own lock is held, since a held lock counts as a VM in use.
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
        // Another command may have started the VM since it was looked at, and been killed.
        if !dir.status.state().is_final() {
            return Ok(None);
        }
        dir.lock = Some(lock);
        dir.status.supervisor = Process::this();
        // The reservation is made anew, since one of the VM's volumes may be larger by now.
        let operation = read_reservation(folder).and_then(|it| it.operation);
        dir.status.reservation = Some(Reservation::new(task, takes, operation));
        dir.write(STATUS, &dir.status)?;
        Ok(Some(dir))
    }

    /// Opens the folder for the VM's supervisor.
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

    /// Opens the folder of a VM whose run was killed before its spec was written.
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

    /// The VM's status.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Writes one of the VM's records. A new VM's record outlasts its writer at once, and a power cut once [`VmDir::sync`] has returned.
    pub fn write(&self, name: &str, record: &impl Serialize) -> Result<(), VmError> {
        self.write_by(self.write_before_launch(), name, record)
    }

    /// The function that writes a record. The launch syncs a new VM's records together. A VM that ran before has records on the disk
    /// already, which a power cut must not leave empty.
    fn write_before_launch(&self) -> fn(&Path, &[u8]) -> io::Result<()> {
        if self.is_new { state::write_unsynced } else { state::write_replacing }
    }

    /// Writes the VM's spec, which also tells other runs what the VM takes. The spec is the last record of the launch.
    pub fn write_spec(&self, spec: &Spec) -> Result<(), VmError> {
        self.write(PLAN, spec)
    }

    /// Waits until the records of the launch outlast a power cut. The VM's supervisor starts QEMU meanwhile, since no VM goes on after a
    /// power cut.
    pub fn sync(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.path)?.flatten() {
            // A guest's disks are left out, which are synced when the guest asks for it.
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

    /// Enters a state and records it. On a full disk the state is not recorded, and the VM goes on all the same.
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

    /// Starts a VM that has ended once more, as far as its records go.
    pub fn start_again(&mut self, reason: &str) -> Result<(), VmError> {
        if self.status.start_again(reason.to_owned()) {
            self.try_update_status(|_| {})?;
            self.record_event(State::Starting.name(), Some(reason.to_owned()));
        }
        Ok(())
    }

    /// Records that the VM was not started again after all.
    pub fn did_not_start(&mut self, error: &VmError) {
        let ended = self.start_failed(error);
        self.end(ended);
    }

    /// The end, at this moment, of a VM whose QEMU did not start.
    pub(super) fn start_failed(&self, error: &VmError) -> Ended {
        let now = Timestamp::now();
        let started_at = self.status.started_at.unwrap_or(now);
        Ended { end: End::of_start(error), started_at, ended_at: now }
    }

    /// Records for good how the VM ended.
    pub(super) fn end(&mut self, ended: Ended) {
        let (state, reason) = ended.state();
        self.enter_with(state, Some(reason), |status| status.ended = Some(ended));
    }

    /// Changes the VM's status and records it. On a full disk the status is not recorded, and the VM goes on all the same.
    pub(super) fn update_status(&mut self, note: impl FnOnce(&mut Status)) {
        if let Err(error) = self.try_update_status(note) {
            tracing::warn!(%error, "the VM's status was not written");
        }
    }

    /// Changes the VM's status and records it. A failed write is an error, for a change that must be on disk before the launch goes on.
    pub(super) fn try_update_status(
        &mut self,
        note: impl FnOnce(&mut Status),
    ) -> Result<(), VmError> {
        note(&mut self.status);
        let is_final = self.status.state().is_final();
        let write = match self.status.state() {
            // Only this process knows how the VM ended.
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

    /// Appends an event of this VM to this host's events.
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

    /// The VM's lock, for the supervisor.
    pub fn share_lock(&self) -> Result<File, VmError> {
        let none = || io::Error::other("it is another process's");
        let shared = self.lock.as_ref().ok_or_else(none).and_then(File::try_clone);
        shared.map_err(io_error("hold the lock of", &self.path))
    }

    /// Hands the folder over to the supervisor. From here on the folder stays, whatever becomes of this process.
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
        // Under the lock of all folders, no process sees the folder half removed; without the lock it is removed all the same.
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
    // The control socket is removed last: a folder without one has been swept.
    state::remove(&path.join(CONTROL_SOCKET))
}

/// The size of a VM's records and console logs in bytes. Files that are gone count as empty.
pub fn bytes_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name() != OVERLAY && !is_disk(file));
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// Whether a file of a VM's folder is that of a disk which ends with the VM.
fn is_disk(file: &fs::DirEntry) -> bool {
    file.file_name().to_str().is_some_and(is_disk_file)
}
