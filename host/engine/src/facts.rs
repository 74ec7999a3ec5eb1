//! What this host offers a task, and what is in use on it now: what policies and the host's rules decide from.

mod sockets;

use std::io;

use procfs::{Current as _, Meminfo};

use qhost_model::{
    host_facts::{HostFacts, Resources, TenantUsage},
    quota::Usage,
};
use qhost_sys::state::StateDir;
use qhost_vm::VmRecord;

use crate::{config::Config, fingerprint::Fingerprint, firmware};

/// The host does not say what it has.
#[derive(Debug, thiserror::Error)]
#[error("cannot find out this host's {what}")]
pub struct FactsError {
    what: &'static str,
    source: io::Error,
}

/// Gathers the facts for a tenant's task.
pub fn gather(
    fingerprint: &Fingerprint,
    state: &StateDir,
    config: &Config,
    tenant: &str,
) -> Result<HostFacts, FactsError> {
    let running = qhost_vm::running(state);
    let taken = usage(running.iter()).resources.cpus;
    let (resources, available_mib) = resources()?;
    Ok(HostFacts {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        qemu_version: fingerprint.version.clone(),
        accelerators: fingerprint.working(),
        firmware: firmware::offered(&config.firmware()),
        resources,
        free: Resources { cpus: resources.cpus.saturating_sub(taken), memory_mib: available_mib },
        ports_in_use: ports_in_use(state),
        tenant_usage: usage(running.iter().filter(|vm| vm.tenant == tenant)),
    })
}

/// The CPUs that this process may use and all memory; and the memory that the kernel says is available, in MiB.
pub fn resources() -> Result<(Resources, u32), FactsError> {
    let cpus = std::thread::available_parallelism()
        .map_err(|source| FactsError { what: "number of CPUs", source })?;
    let memory = Meminfo::current()
        .map_err(|error| FactsError { what: "memory", source: io::Error::other(error) })?;
    let mib = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    let all = Resources {
        cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX),
        memory_mib: mib(memory.mem_total),
    };
    Ok((all, mib(memory.mem_available.unwrap_or(memory.mem_free))))
}

fn usage<'a>(running: impl Iterator<Item = &'a VmRecord>) -> TenantUsage {
    let sum = running.fold(Usage::default(), |sum, vm| sum + vm.reserved);
    let number = |amount: u64| u32::try_from(amount).unwrap_or(u32::MAX);
    TenantUsage {
        vms: number(sum.vms),
        resources: Resources { cpus: number(sum.cpus), memory_mib: number(sum.memory_mib) },
        ports: number(sum.ports),
    }
}

/// Ports with a listener, and those that runs hold, ascending.
pub fn ports_in_use(state: &StateDir) -> Vec<u16> {
    let mut ports = sockets::bound_ports();
    ports.extend(crate::ports::held(state));
    ports.into_iter().collect()
}
