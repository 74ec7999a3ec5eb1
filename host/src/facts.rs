//! What this host offers a task, and what is in use on it now: what policies and the host's rules decide from.

use std::{collections::BTreeSet, io};

use procfs::{
    Current as _, Meminfo,
    net::{TcpState, tcp, tcp6, udp, udp6},
};

use crate::{
    job::Resources,
    policy::{HostFacts, Usage},
    qemu::Fingerprint,
    state::StateDir,
    vm::{self, Takes, Vm},
};

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
    tenant: &str,
) -> Result<HostFacts, FactsError> {
    let running = vm::running(state);
    let takes = running.iter().filter_map(|vm| vm.takes.as_ref());
    let taken: u32 = takes.map(|takes| takes.resources.cpus).fold(0, u32::saturating_add);
    let (resources, available_mib) = resources()?;
    Ok(HostFacts {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        qemu_version: fingerprint.version.clone(),
        accelerators: fingerprint.working(),
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

fn usage<'a>(running: impl Iterator<Item = &'a Vm>) -> Usage {
    let none = Usage { vms: 0, resources: Resources { cpus: 0, memory_mib: 0 }, ports: 0 };
    let takes = running.filter_map(|vm| vm.takes.as_ref());
    takes.fold(none, |sum, Takes { resources, forwards, .. }| Usage {
        vms: sum.vms + 1,
        resources: Resources {
            cpus: sum.resources.cpus.saturating_add(resources.cpus),
            memory_mib: sum.resources.memory_mib.saturating_add(resources.memory_mib),
        },
        ports: sum.ports.saturating_add(u32::try_from(forwards.len()).unwrap_or(u32::MAX)),
    })
}

/// Ports with a listener, and those that runs hold, ascending.
pub fn ports_in_use(state: &StateDir) -> Vec<u16> {
    let mut ports = listening_ports();
    ports.extend(vm::held_ports(state));
    ports.into_iter().collect()
}

/// Ports with a listener, whatever the address. A table that cannot be read adds none: the ports that a launch gets
/// are bound in any case.
fn listening_ports() -> BTreeSet<u16> {
    let listening = [tcp(), tcp6()].into_iter().flatten().flatten();
    let listening = listening.filter(|entry| entry.state == TcpState::Listen);
    let bound = [udp(), udp6()].into_iter().flatten().flatten();
    let tcp = listening.map(|entry| entry.local_address.port());
    tcp.chain(bound.map(|entry| entry.local_address.port())).collect()
}
