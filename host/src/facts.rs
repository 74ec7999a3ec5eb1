//! What this host offers a task, and what is in use on it now: what policies and the host's rules decide from.

use std::collections::BTreeSet;

use procfs::net::{TcpState, tcp, tcp6, udp, udp6};

use crate::{
    job::Resources,
    policy::{HostFacts, Usage},
    qemu::{Fingerprint, FingerprintError, host_memory},
    vm::Running,
};

/// Gathers the facts for a tenant's task.
pub fn gather(
    fingerprint: &Fingerprint,
    running: &[Running],
    tenant: &str,
) -> Result<HostFacts, FingerprintError> {
    let (_, available_mib) = host_memory()?;
    let taken: u32 = running.iter().map(|vm| vm.resources.cpus).fold(0, u32::saturating_add);
    Ok(HostFacts {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        qemu_version: fingerprint.qemu.version.clone(),
        accelerators: fingerprint.working(),
        resources: Resources { cpus: fingerprint.cpus, memory_mib: fingerprint.memory_mib },
        free: Resources { cpus: fingerprint.cpus.saturating_sub(taken), memory_mib: available_mib },
        ports_in_use: ports_in_use(),
        tenant_usage: usage(running.iter().filter(|vm| vm.tenant == tenant)),
    })
}

fn usage<'a>(running: impl Iterator<Item = &'a Running>) -> Usage {
    let none = Usage { vms: 0, resources: Resources { cpus: 0, memory_mib: 0 }, ports: 0 };
    running.fold(none, |sum, vm| Usage {
        vms: sum.vms + 1,
        resources: Resources {
            cpus: sum.resources.cpus.saturating_add(vm.resources.cpus),
            memory_mib: sum.resources.memory_mib.saturating_add(vm.resources.memory_mib),
        },
        ports: sum.ports.saturating_add(vm.ports),
    })
}

/// Ports with a listener, whatever the address. A table that cannot be read adds none: the ports that a launch gets
/// are bound in any case.
fn ports_in_use() -> Vec<u16> {
    let listening = [tcp(), tcp6()].into_iter().flatten().flatten();
    let listening = listening.filter(|entry| entry.state == TcpState::Listen);
    let bound = [udp(), udp6()].into_iter().flatten().flatten();
    let tcp = listening.map(|entry| entry.local_address.port());
    let ports: BTreeSet<u16> = tcp.chain(bound.map(|entry| entry.local_address.port())).collect();
    ports.into_iter().collect()
}
