//! The facts that policies and the host's rules decide from: what this host offers a task, and what is in use on it now.

mod sockets;

use std::io;

use procfs::{Current as _, Meminfo, WithCurrentSystemInfo as _, process};

use qhost_model::{
    host_facts::{AARCH64_FIRMWARE, HostFacts, Resources, TenantUsage},
    launch::Architecture,
    quota::Usage,
};
use qhost_sys::state::StateDir;
use qhost_vm::VmRecord;

use crate::{
    config::Config,
    fingerprint::Fingerprint,
    firmware::{self, Build},
};

/// The error of a fact that this host does not tell.
#[derive(Debug, thiserror::Error)]
#[error("cannot find out this host's {what}")]
pub struct FactsError {
    what: &'static str,
    source: io::Error,
}

/// Gathers the facts for a tenant's task. The facts for a VM that is audited leave that VM out.
pub fn gather(
    fingerprint: &Fingerprint,
    state: &StateDir,
    config: &Config,
    tenant: &str,
    audited: Option<&str>,
) -> Result<HostFacts, FactsError> {
    let (audited, running): (Vec<_>, Vec<_>) =
        qhost_vm::running(state).into_iter().partition(|vm| audited == Some(vm.id.as_str()));
    let mut ports_in_use = ports_in_use(state);
    let its = audited.iter().filter_map(|vm| vm.takes.get()).flat_map(|takes| &takes.forwards);
    let its: Vec<_> = its.map(|forward| forward.host).collect();
    ports_in_use.retain(|port| !its.contains(port));
    let taken = usage(running.iter()).resources.cpus;
    let (resources, available_mib) = resources()?;
    let builds = firmware::builds(&config.firmware());
    let its_mib = audited.iter().map(resident_mib).fold(0, u32::saturating_add);
    let available_mib = available_mib.saturating_add(its_mib).min(resources.memory_mib);
    Ok(HostFacts {
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        qemu_version: fingerprint.version.clone(),
        accelerators: fingerprint.working(),
        architectures: architectures(fingerprint, &builds),
        firmware: firmware::offered(&builds, Architecture::X86_64),
        resources,
        free: Resources { cpus: resources.cpus.saturating_sub(taken), memory_mib: available_mib },
        ports_in_use,
        tenant_usage: usage(running.iter().filter(|vm| vm.tenant == tenant)),
    })
}

/// The architectures of guests that can run here: those with an emulator and a firmware.
pub(crate) fn architectures(fingerprint: &Fingerprint, builds: &[Build]) -> Vec<Architecture> {
    let is_offered = |architecture: &Architecture| {
        let offered = firmware::offered(builds, *architecture);
        let boots = match architecture {
            Architecture::X86_64 => !offered.is_empty(),
            Architecture::Aarch64 => offered.contains(&AARCH64_FIRMWARE),
        };
        boots && fingerprint.program(*architecture).is_ok()
    };
    Architecture::ALL.iter().copied().filter(is_offered).collect()
}

/// The memory that a VM's QEMU has now, in MiB.
fn resident_mib(vm: &VmRecord) -> u32 {
    let qemu = vm.status.qemu.as_ref().and_then(|qemu| i32::try_from(qemu.pid).ok());
    let stat = qemu.and_then(|pid| process::Process::new(pid).ok()?.stat().ok());
    let bytes = stat.map_or(0, |stat| stat.rss_bytes().get());
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

/// The CPUs that this process may use and all memory, and then the memory that the kernel says is available, in MiB.
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
