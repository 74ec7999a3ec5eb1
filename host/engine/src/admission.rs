//! Admission of one VM more, and retention of the VMs that have ended. Both are settled by one reading of all VMs' folders, under the lock
//! of all folders.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use qhost_image::volumes::Volumes;
use qhost_model::{
    job::Task,
    quota::{Quota, Terms, Usage},
    retention::Retention,
};
use qhost_sys::state::StateDir;
use qhost_vm::{
    Status, VmDir, VmError, VmRecord,
    dir::{bytes_of, remove_leftovers},
    error::io_error,
    list,
    lock::is_abandoned,
    records::{STATUS, read_record},
};

use crate::{
    drain,
    overlays::{self, Owner},
};

/// A VM, or a volume, that is to be admitted.
struct AdmissionRequest {
    of: Owner,
    takes: Usage,
}

/// A VM that has ended, with the facts that decide whether it is kept.
struct EndedVm {
    folder: PathBuf,
    at: Timestamp,
    bytes: u64,
}

/// Makes the folder of a new VM, if the VM fits the quotas of the host and of its tenant.
pub(crate) fn admit_new(
    state: &StateDir,
    task: &Task,
    takes: Usage,
    operation: Option<String>,
    terms: &Terms,
) -> Result<VmDir, VmError> {
    let Task { tenant, job, name, .. } = task;
    let asking = AdmissionRequest { of: Owner::new(tenant, job, name), takes };
    VmDir::create(state, task, takes, operation, || admit(state, &asking, terms))
}

/// Claims the folder of a VM that has ended, to start it once more, if the VM fits the quotas of the host and of its tenant; nothing if the
/// folder is held.
pub(crate) fn admit_again(
    state: &StateDir,
    folder: &Path,
    task: &Task,
    takes: Usage,
    terms: &Terms,
) -> Result<Option<VmDir>, VmError> {
    let Task { tenant, job, name, .. } = task;
    let asking = AdmissionRequest { of: Owner::new(tenant, job, name), takes };
    VmDir::claim_ended(state, folder, task, takes, || admit(state, &asking, terms))
}

/// Removes ended VMs that are not kept, and checks that there is room for one VM more. The caller holds the lock of all folders.
fn admit(state: &StateDir, asking: &AdmissionRequest, terms: &Terms) -> Result<(), VmError> {
    drain::refuse(state)?;
    let (mut going_on, mut ended) = (vec![], vec![]);
    for folder in list::folders(&state.vms()) {
        let held = !is_abandoned(&folder);
        let status: Option<Status> = read_record(&folder.join(STATUS));
        if held || status.as_ref().is_some_and(Status::qemu_lives) {
            going_on.push(VmRecord::at(&folder))
        } else {
            ended.push(EndedVm::of(folder, status.as_ref()))
        }
    }
    sweep(ended, &terms.retention);
    is_within(state, &going_on, asking, terms)
}

/// Checks that a VM of a task would be admitted now, and changes nothing.
pub(crate) fn would_admit(
    state: &StateDir,
    task: &Task,
    takes: Usage,
    terms: &Terms,
) -> Result<(), VmError> {
    drain::refuse(state)?;
    let Task { tenant, job, name, .. } = task;
    let asking = AdmissionRequest { of: Owner::new(tenant, job, name), takes };
    is_within(state, &list::running(state), &asking, terms)
}

fn is_within(
    state: &StateDir,
    going_on: &[VmRecord],
    asking: &AdmissionRequest,
    terms: &Terms,
) -> Result<(), VmError> {
    let bounds_disks = terms.host.disk_bytes.or(terms.tenant.disk_bytes).is_some();
    let kept = if bounds_disks { kept_disks(state, going_on, &asking.of)? } else { vec![] };
    for (whose, quota) in
        [(QuotaScope::Host, &terms.host), (QuotaScope::Tenant(&asking.of.tenant), &terms.tenant)]
    {
        let taken = InUse::of(whose, going_on, &kept);
        admits(quota, whose, taken, asking.takes)?;
    }
    Ok(())
}

/// A disk that counts against quotas without a VM: a kept overlay, or a volume.
pub(crate) struct KeptDisk {
    pub(crate) tenant: String,
    bytes: u64,
}

/// Kept overlays that no VM has, without the asking task's, by the space that they take, and volumes, by their sizes.
pub(crate) fn kept_disks(
    state: &StateDir,
    going_on: &[VmRecord],
    asking: &Owner,
) -> Result<Vec<KeptDisk>, VmError> {
    let overlays = overlays::unused(state, going_on, asking)?;
    let volumes = Volumes::of(state).list();
    let volumes =
        volumes.map_err(|error| io_error("read", &state.volumes())(io::Error::other(error)))?;
    let overlays =
        overlays.into_iter().map(|one| KeptDisk { tenant: one.of.tenant, bytes: one.disk_usage });
    let volumes =
        volumes.into_iter().map(|one| KeptDisk { tenant: one.of.tenant, bytes: one.bytes });
    Ok(overlays.chain(volumes).collect())
}

/// Checks the quotas for so many more bytes of a tenant's volumes. The caller holds the lock of all folders.
pub(crate) fn admit_volume(
    state: &StateDir,
    tenant: &str,
    takes: Usage,
    terms: &Terms,
) -> Result<(), VmError> {
    let of = Owner { tenant: tenant.to_owned(), ..Owner::default() };
    is_within(state, &list::running(state), &AdmissionRequest { of, takes }, terms)
}

impl EndedVm {
    fn of(folder: PathBuf, status: Option<&Status>) -> Self {
        let modified = || fs::metadata(&folder)?.modified().map(Timestamp::try_from);
        let at = status.and_then(Status::since);
        let at = at.or_else(|| modified().ok()?.ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let bytes = status.and_then(|status| status.kept_bytes);
        Self { at, bytes: bytes.unwrap_or_else(|| bytes_of(&folder)), folder }
    }
}

/// Removes the folders of the VMs that ended first, for each tenant that has more than are kept. A failure is logged and ends no command.
fn sweep(ended: Vec<EndedVm>, retention: &Retention) {
    let now = Timestamp::now();
    let is_old =
        |one: &EndedVm| one.at < now && now.duration_since(one.at).unsigned_abs() > retention.age();
    let bytes = ended.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
    // If all together are within the bounds, so is each tenant, and the records need not be read.
    if ended.len() <= retention.ended_vms
        && bytes <= retention.ended_bytes
        && !ended.iter().any(is_old)
    {
        return;
    }
    let mut tenants: BTreeMap<String, Vec<EndedVm>> = BTreeMap::new();
    for one in ended {
        tenants.entry(list::tenant_of(&one.folder)).or_default().push(one);
    }
    for mut ended in tenants.into_values() {
        ended.sort_by_key(|one| std::cmp::Reverse(one.at));
        let mut bytes = 0_u64;
        let is_kept = |(number, one): &(usize, &EndedVm)| {
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

/// What is taken of a quota already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InUse {
    /// What VMs take.
    pub(crate) vms: Usage,
    /// What kept overlays that no VM has, and volumes, take of the disk.
    pub(crate) kept_bytes: u64,
}

impl InUse {
    /// Sums up what those VMs and disks take that count against a quota.
    pub(crate) fn of(whose: QuotaScope<'_>, vms: &[VmRecord], kept: &[KeptDisk]) -> Self {
        let is_meant = |tenant: &str| match whose {
            QuotaScope::Host => true,
            QuotaScope::Tenant(only) => only == tenant,
        };
        let vms = vms.iter().filter(|vm| is_meant(&vm.tenant));
        let kept = kept.iter().filter(|one| is_meant(&one.tenant));
        Self {
            vms: vms.fold(Usage::default(), |sum, vm| sum + vm.reserved),
            kept_bytes: kept.map(|one| one.bytes).fold(0, u64::saturating_add),
        }
    }
}

/// The scope of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaScope<'a> {
    /// All tenants together.
    Host,
    /// One tenant.
    Tenant(&'a str),
}

/// Checks that a quota has room for more beside what is taken.
fn admits(
    quota: &Quota,
    whose: QuotaScope<'_>,
    InUse { vms: taken, kept_bytes }: InUse,
    more: Usage,
) -> Result<(), VmError> {
    let (disk_bytes, more_vms) = (taken.disk_bytes.saturating_add(kept_bytes), more.vms);
    let each = [
        ("vms", "VMs", quota.vms, taken.vms, more.vms),
        ("cpus", "CPUs", quota.cpus, taken.cpus, more.cpus),
        ("memory_mib", "MiB of memory", quota.memory_mib, taken.memory_mib, more.memory_mib),
        ("disk_bytes", "bytes of disk", quota.disk_bytes, disk_bytes, more.disk_bytes),
        ("ports", "ports", quota.ports, taken.ports, more.ports),
    ];
    let exceeded = each.into_iter().find(|(_, _, most, taken, more)| {
        most.is_some_and(|most| taken.saturating_add(*more) > most)
    });
    let Some((key, what, Some(most), taken, more)) = exceeded else { return Ok(()) };
    let (who, table) = match whose {
        QuotaScope::Host => ("all tenants together".to_owned(), "host.quota".to_owned()),
        QuotaScope::Tenant(tenant) => {
            (format!("tenant {tenant}"), format!("tenants.{tenant}.quota"))
        }
    };
    let (kept, remove) = if key == "disk_bytes" && kept_bytes > 0 {
        (
            format!(
                ", {kept_bytes} of them by kept overlays and volumes (qhost overlay ls, qhost volume ls),"
            ),
            " remove a kept overlay or a volume,",
        )
    } else {
        (String::new(), "")
    };
    let takes = if more_vms == 0 { "this volume takes" } else { "this VM takes" };
    let reason = format!(
        "{who} may have {most} {what} on this host, {taken} are taken{kept} and {takes} {more}; wait for another VM to end,{remove} \
             or have the operator raise it"
    );
    Err(VmError::Quota {
        key: format!("{table}.{key}"),
        reason,
        is_hosts: whose == QuotaScope::Host,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_fits_and_the_first_that_does_not() {
        let one = Usage { vms: 1, cpus: 2, memory_mib: 64, disk_bytes: 10, ports: 1 };
        let check = |quota: Quota, taken: u64, admitted: bool| {
            let vms = (0..taken).fold(Usage::default(), |sum, _| sum + one);
            let taken = InUse { vms, kept_bytes: 0 };
            let whose = QuotaScope::Tenant("acme");
            assert_eq!(admits(&quota, whose, taken, one).is_ok(), admitted, "{quota:?}");
        };
        let none = Quota::default();
        check(none.clone(), 1000, true);
        for (quota, fits) in [
            (Quota { vms: Some(3), ..none.clone() }, 2),
            (Quota { cpus: Some(6), ..none.clone() }, 2),
            (Quota { cpus: Some(7), ..none.clone() }, 2),
            (Quota { memory_mib: Some(64), ..none.clone() }, 0),
            (Quota { disk_bytes: Some(29), ..none.clone() }, 1),
            (Quota { ports: Some(1), ..none.clone() }, 0),
        ] {
            check(quota.clone(), fits, true);
            check(quota, fits + 1, false);
        }
        check(Quota { vms: Some(0), ..none }, 0, false);
    }
}
