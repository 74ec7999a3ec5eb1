//! Whether one VM more is admitted, and which of those that have ended are kept. Both are settled by one reading of all VMs'
//! folders, under the lock of all.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Amounts, Status, Vm, VmError, Whose,
    dir::{STATUS, remove_leftovers},
    kept, list,
    quota::Taken,
};
use crate::{
    config::{Retention, Terms},
    qemu::OVERLAY,
    state::StateDir,
};

/// What is to be admitted.
pub(super) struct Asking<'a> {
    pub(super) tenant: &'a str,
    pub(super) job: &'a str,
    pub(super) task: &'a str,
    pub(super) takes: Amounts,
}

/// A VM that has ended: what decides whether it is kept.
struct Ended {
    folder: PathBuf,
    at: Timestamp,
    bytes: u64,
}

/// Removes what is not kept, and says whether there is room for one VM more. Called under the lock of all folders.
pub(super) fn admit(state: &StateDir, asking: &Asking<'_>, terms: &Terms) -> Result<(), VmError> {
    let (mut going_on, mut ended) = (vec![], vec![]);
    for folder in list::folders(&state.vms()) {
        let held = !list::is_abandoned(&folder);
        let status: Option<Status> = list::read_record(&folder.join(STATUS));
        match held || status.as_ref().is_some_and(Status::qemu_lives) {
            true => going_on.push(Vm::at(&folder)),
            false => ended.push(Ended::of(folder, status.as_ref())),
        }
    }
    sweep(ended, &terms.retention);
    let bounds_disks = terms.host.disk_bytes.or(terms.tenant.disk_bytes).is_some();
    let overlays = if bounds_disks { kept::unused(state, &going_on, asking)? } else { vec![] };
    for (whose, quota) in
        [(Whose::Host, &terms.host), (Whose::Tenant(asking.tenant), &terms.tenant)]
    {
        let is_meant = |tenant: &str| match whose {
            Whose::Host => true,
            Whose::Tenant(only) => only == tenant,
        };
        let vms = going_on.iter().filter(|vm| is_meant(&vm.tenant));
        let kept = overlays.iter().filter(|one| is_meant(&one.of.tenant));
        let taken = Taken {
            vms: vms.fold(Amounts::default(), |sum, vm| sum + vm.reserved),
            kept_bytes: kept.map(|one| one.disk_usage).sum(),
        };
        quota.admits(whose, taken, asking.takes)?;
    }
    Ok(())
}

impl Ended {
    fn of(folder: PathBuf, status: Option<&Status>) -> Self {
        let modified = || fs::metadata(&folder)?.modified().map(Timestamp::try_from);
        let at = status.and_then(Status::since);
        let at = at.or_else(|| modified().ok()?.ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let bytes = status.and_then(|status| status.kept_bytes);
        Self { at, bytes: bytes.unwrap_or_else(|| bytes_of(&folder)), folder }
    }
}

/// What a VM's records and console logs take, in bytes. Those that are gone take nothing.
pub(super) fn bytes_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name() != OVERLAY);
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// Removes the folders of VMs that ended first, of each tenant that has more than are kept. A failure is logged and ends no
/// command.
fn sweep(ended: Vec<Ended>, retention: &Retention) {
    let now = Timestamp::now();
    let is_old =
        |one: &Ended| one.at < now && now.duration_since(one.at).unsigned_abs() > retention.age();
    let bytes = ended.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
    // Then no tenant has more, and their records need not be read.
    if ended.len() <= retention.ended_vms
        && bytes <= retention.ended_bytes
        && !ended.iter().any(is_old)
    {
        return;
    }
    let mut tenants: BTreeMap<String, Vec<Ended>> = BTreeMap::new();
    for one in ended {
        tenants.entry(list::tenant_of(&one.folder)).or_default().push(one);
    }
    for mut ended in tenants.into_values() {
        ended.sort_by_key(|one| std::cmp::Reverse(one.at));
        let mut bytes = 0_u64;
        let is_kept = |(number, one): &(usize, &Ended)| {
            bytes = bytes.saturating_add(one.bytes);
            *number < retention.ended_vms && bytes <= retention.ended_bytes && !is_old(one)
        };
        let kept = ended.iter().enumerate().take_while(is_kept).count();
        for one in ended.drain(kept..) {
            if let Err(error) = remove(&one.folder) {
                let path = one.folder.display();
                tracing::warn!(%path, %error, "cannot remove an ended VM's folder");
            }
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    remove_leftovers(folder)?;
    fs::remove_dir_all(folder)
}
