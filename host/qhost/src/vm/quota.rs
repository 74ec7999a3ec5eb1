//! What VMs take of the host together, and what a tenant's or all may take at most. Reserved with a VM's folder, under the
//! lock of all folders, and given back with its lock, whatever ends whoever holds that.

use std::ops::Add;

use serde::{Deserialize, Serialize};

use super::VmError;
use crate::{config::Quota, policy::Launch};

/// What VMs take, or one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// VMs.
    pub vms: u64,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Memory of guests in MiB.
    pub memory_mib: u64,
    /// What guests may write to their disks, in bytes.
    pub disk_bytes: u64,
    /// Forwarded ports.
    pub ports: u64,
}

impl Amounts {
    /// What one VM of this launch takes; each guest may write so much.
    pub fn of(launch: &Launch, overlay_bytes: u64) -> Self {
        Self {
            vms: 1,
            cpus: launch.resources.cpus.into(),
            memory_mib: launch.resources.memory_mib.into(),
            disk_bytes: overlay_bytes,
            ports: launch.ports.len() as u64,
        }
    }
}

impl Add for Amounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            vms: self.vms.saturating_add(other.vms),
            cpus: self.cpus.saturating_add(other.cpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            ports: self.ports.saturating_add(other.ports),
        }
    }
}

/// What is taken already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// By VMs.
    pub(super) vms: Amounts,
    /// By kept overlays that no VM has.
    pub(super) kept_bytes: u64,
}

/// Whose quota it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// All tenants' together.
    Host,
    /// One tenant's.
    Tenant(&'a str),
}

impl Quota {
    /// Whether there is room for more beside what is taken.
    pub(super) fn admits(
        &self,
        whose: Whose<'_>,
        Taken { vms: taken, kept_bytes }: Taken,
        more: Amounts,
    ) -> Result<(), VmError> {
        let disk_bytes = taken.disk_bytes.saturating_add(kept_bytes);
        let each = [
            ("vms", "VMs", self.vms, taken.vms, more.vms),
            ("cpus", "CPUs", self.cpus, taken.cpus, more.cpus),
            ("memory_mib", "MiB of memory", self.memory_mib, taken.memory_mib, more.memory_mib),
            ("disk_bytes", "bytes of disk", self.disk_bytes, disk_bytes, more.disk_bytes),
            ("ports", "ports", self.ports, taken.ports, more.ports),
        ];
        let exceeded = each.into_iter().find(|(_, _, most, taken, more)| {
            most.is_some_and(|most| taken.saturating_add(*more) > most)
        });
        let Some((key, what, Some(most), taken, more)) = exceeded else { return Ok(()) };
        let (who, table) = match whose {
            Whose::Host => ("all tenants together".to_owned(), "host.quota".to_owned()),
            Whose::Tenant(tenant) => {
                (format!("tenant {tenant}"), format!("tenants.{tenant}.quota"))
            }
        };
        let (kept, remove) = match key == "disk_bytes" && kept_bytes > 0 {
            true => (
                format!(", {kept_bytes} of them by kept overlays (qhost overlay ls),"),
                " remove kept overlays,",
            ),
            false => (String::new(), ""),
        };
        let reason = format!(
            "{who} may have {most} {what} on this host, {taken} are taken{kept} and this VM takes {more}; wait for another to end,{remove} \
             or have the operator raise {table}.{key}"
        );
        Err(VmError::Quota { reason, is_hosts: whose == Whose::Host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_fits_and_the_first_that_does_not() {
        let one = Amounts { vms: 1, cpus: 2, memory_mib: 64, disk_bytes: 10, ports: 1 };
        let check = |quota: Quota, taken: u64, admitted: bool| {
            let vms = (0..taken).fold(Amounts::default(), |sum, _| sum + one);
            let taken = Taken { vms, kept_bytes: 0 };
            let whose = Whose::Tenant("acme");
            assert_eq!(quota.admits(whose, taken, one).is_ok(), admitted, "{quota:?}");
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
