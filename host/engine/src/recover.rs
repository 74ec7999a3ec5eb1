//! Recovers VMs whose supervisor was killed. A VM whose QEMU lives gets another supervisor; any other is recorded as lost, and its
//! leftovers are removed. This is done before every look at VMs.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use futures_util::future::join_all;
use tokio::{sync::watch, time};

use qhost_cage::{UIDS, User};
use qhost_image::volumes;
use qhost_sys::{failpoint, state::StateDir, watch::FolderWatch};
use qhost_vm::{
    Begin, Notification, Spec, State, Status, VmDir, VmError,
    dir::remove_leftovers,
    list::{self, Scan},
    lock::{is_abandoned, lock_all, try_lock},
    records::{STATUS, name_of, read_record},
    start_supervisor, subscribe,
};

use crate::{limits, overlays, ports};

/// The VMs that were found and recovered.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The VMs that have a supervisor again.
    pub adopted: Vec<String>,
    /// The VMs that are lost: how they ended is not known.
    pub lost: Vec<String>,
}

/// Recovers every VM without a supervisor, and also returns the scan. An error with one VM is logged, and keeps no other VM from getting a
/// supervisor.
pub(crate) async fn recover(state: &StateDir) -> (Recovered, Scan) {
    let swept = {
        let state = state.clone();
        tokio::task::spawn_blocking(move || sweep_all(&state)).await
    };
    let Swept { mut recovered, adopting, scan } = swept.unwrap_or_default();
    let waited = (!adopting.is_empty()).then(|| state.clone());
    recovered.adopted = adopted(adopting).await;
    let scan = match waited {
        // Other VMs may have ended, or been started again, meanwhile.
        Some(state) => {
            tokio::task::spawn_blocking(move || list::scan(&state)).await.unwrap_or_default()
        }
        None => scan,
    };
    (recovered, scan)
}

/// The result of a sweep: the recovered VMs, the folders of VMs whose new supervisor has not reported yet, and the scan.
#[derive(Default)]
struct Swept {
    recovered: Recovered,
    adopting: Vec<PathBuf>,
    scan: Scan,
}

/// Waits for the supervisors that VMs were just given, and gives the ids of the VMs that go on. One watch serves all VMs, since giving a
/// watch up takes the kernel some 8 ms.
async fn adopted(adopting: Vec<PathBuf>) -> Vec<String> {
    if adopting.is_empty() {
        return vec![];
    }
    let mut watch = FolderWatch::new(adopting.iter().map(PathBuf::as_path));
    let (changed, changes) = watch::channel(());
    let begun = join_all(adopting.iter().map(async |vm| {
        let adopted = time::timeout(limits::SUPERVISOR, is_adopted(vm, changes.clone())).await;
        adopted.unwrap_or(false).then_some(name_of(vm))
    }));
    let telling = async {
        loop {
            watch.changed(limits::SUPERVISOR).await;
            changed.send_replace(());
            // The pause bounds the looks, since each VM is looked at after a change of any.
            time::sleep(limits::ADOPTION_LOOK).await;
        }
    };
    tokio::select! {
        begun = begun => begun.into_iter().flatten().collect(),
        () = telling => vec![],
    }
}

/// Waits until the supervisor that a VM was just given tells the VM's status. Gives whether the VM goes on.
async fn is_adopted(vm: &Path, mut changes: watch::Receiver<()>) -> bool {
    loop {
        changes.mark_unchanged();
        if let Ok(mut subscription) = subscribe(vm).await {
            while let Some(notification) = subscription.next().await {
                if let Notification::Status(status) = notification {
                    return !status.state().is_final();
                }
            }
        }
        if is_abandoned(vm) || changes.changed().await.is_err() {
            return false;
        }
    }
}

fn sweep_all(state: &StateDir) -> Swept {
    let scan = list::scan(state);
    let mut recovered = Recovered::default();
    let mut adopting = vec![];
    let locked = locked(state, &scan.abandoned).unwrap_or_else(|error| {
        tracing::warn!(%error, "VMs without a supervisor are not looked after");
        vec![]
    });
    for (vm, lock) in locked {
        let id = name_of(&vm);
        match read_record::<Status>(&vm.join(STATUS)) {
            Some(status) if status.qemu_lives() && !is_anothers(&vm, &status) => {
                match adopt(state, &vm, lock) {
                    Ok(()) => adopting.push(vm),
                    Err(error) => tracing::warn!(id, %error, "a VM is not looked after"),
                }
            }
            Some(status) if !status.state().is_final() => {
                // The sweep comes first: a scheduler that hears of the VM's end removes the group that the VM's cgroup is in.
                sweep(&vm);
                mark_lost(&vm, status.why_lost());
                recovered.lost.push(id);
            }
            None if vm.join(STATUS).exists() => {
                sweep(&vm);
                mark_lost(&vm, "its status could not be read, as after a loss of power");
                // A status that could not be overwritten is found again the next time.
                if read_record::<Status>(&vm.join(STATUS)).is_some() {
                    recovered.lost.push(id);
                }
            }
            Some(_) | None => sweep(&vm),
        }
    }
    Swept { recovered, adopting, scan }
}

/// Locks the folders of VMs that no process holds, so that only one of two commands at the same time recovers a VM.
fn locked(state: &StateDir, abandoned: &[PathBuf]) -> Result<Vec<(PathBuf, File)>, VmError> {
    if abandoned.is_empty() {
        return Ok(vec![]);
    }
    // While this lock is held, no process makes a folder.
    let _all = lock_all(&state.vms())?;
    let mut found = vec![];
    for vm in abandoned {
        if !vm.exists() {
            continue;
        }
        match try_lock(vm) {
            Ok(lock) => found.extend(lock.map(|lock| (vm.clone(), lock))),
            // An error with one VM keeps no other VM from being adopted.
            Err(error) => tracing::warn!(vm = %vm.display(), %error, "a VM is not looked after"),
        }
    }
    Ok(found)
}

fn adopt(state: &StateDir, vm: &Path, lock: File) -> Result<(), VmError> {
    let spec = Spec::read(vm)?;
    spec.keeps_to_state_of(vm)?;
    let mut holds = vec![lock];
    // The VM had all of these already, and its QEMU uses them, so that it goes on even if one cannot be held.
    holds.extend(ports::hold(state, &spec.forwards)?);
    holds.extend(spec.images().filter_map(|image| qhost_image::hold(&image.path)));
    if let User::Own(uid) = spec.cage.user {
        holds.extend(UIDS.lock(uid).ok().flatten());
    }
    if let Some(overlay) = spec.overlay.as_deref().filter(|_| !spec.has_own_overlay()) {
        holds.extend(overlays::hold_again(overlay)?);
    }
    for volume in spec.volumes() {
        match volumes::hold_again(volume) {
            Ok(lock) => holds.extend(lock),
            Err(error) => {
                tracing::warn!(path = %volume.display(), %error, "a volume is not locked for its VM");
            }
        }
    }
    failpoint::reach("recover.held");
    start_supervisor(vm, Begin::Adopt, holds)
}

/// Whether the process that a VM's record names as its QEMU cannot be its QEMU, so that it must not be killed.
fn is_anothers(vm: &Path, status: &Status) -> bool {
    let spec = Spec::read(vm);
    spec.is_ok_and(|spec| status.qemu.as_ref().is_some_and(|qemu| !spec.can_be(qemu)))
}

/// Records that a VM is lost whose supervisor and QEMU are gone, and whose record still says that it goes on.
fn mark_lost(vm: &Path, why: &str) {
    let mut dir = match Spec::read(vm) {
        Ok(spec) => VmDir::open_for_supervisor(vm, &spec),
        // The VM's start was killed before its plan was written.
        Err(_) => VmDir::open_unlaunched(vm),
    };
    dir.enter(State::Lost, Some(why.into()));
}

fn sweep(vm: &Path) {
    if let Err(error) = remove_leftovers(vm) {
        tracing::warn!(path = %vm.display(), %error, "cannot remove what an ended VM had");
    }
}
