//! The host's state at the moment: VMs with what they use, quotas with what is left, the disk, and the service itself.

use std::sync::atomic::AtomicU64;

use futures_util::{StreamExt as _, stream};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::time;

use qhost_engine::Which;
use qhost_vm::{Stats, VmRecord};

use crate::{Service, limits};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    tenant: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVm {
    tenant: String,
    task: String,
    vm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDisk {
    tenant: String,
    task: String,
    vm: String,
    device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQuota {
    /// Empty for the quota of all tenants together.
    tenant: String,
    resource: &'static str,
}

type Number = Gauge<f64, AtomicU64>;
type Total = Counter<f64, AtomicU64>;

/// Reads the gauges, and registers them.
pub(super) async fn add(registry: &mut Registry, service: &Service) {
    let build = Family::<OfBuild, Gauge>::default();
    build.get_or_create(&OfBuild { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("build_info", "The version of the service", build);
    add_service(registry, service);
    let vms = service.engine.vms(Which::GoingOn).await;
    let by_state = Family::<OfState, Number>::default();
    for vm in &vms {
        let of = OfState { tenant: vm.tenant.clone(), state: vm.status.state().name() };
        by_state.get_or_create(&of).inc();
    }
    registry.register("vms", "VMs that have not ended", by_state);
    add_allocations(registry, &vms);
    add_stats(registry, service, vms).await;
    add_quotas(registry, service).await;
}

fn add_service(registry: &mut Registry, service: &Service) {
    let mut add = |name: &str, help: &str, number: Option<u64>| {
        let gauge = Number::default();
        if let Some(number) = number {
            gauge.set(number as f64);
            registry.register(name, help, gauge);
        }
    };
    let size = |number: usize| u64::try_from(number).ok();
    add("streams", "Streams that are open", size(service.streams.count()));
    add("decisions_under_way", "Decisions that are being made", size(service.decisions.count()));
    add("operations_under_way", "Operations that go on", size(service.operations.under_way()));
    add("state_free_bytes", "What is free on the state folder's disk", service.engine.free_bytes());
    add("state_size_bytes", "The size of the state folder's disk", service.engine.disk_bytes());
    let in_force = service.engine.in_force();
    add(
        "configuration_generation",
        "Which configuration is in force, of those since the service began",
        Some(in_force.generation),
    );
    add(
        "configuration_loaded_timestamp_seconds",
        "Since when it is, in seconds since 1970",
        u64::try_from(in_force.since.as_second()).ok(),
    );
}

/// Adds the CPUs and the memory that are reserved for the latest VMs.
fn add_allocations(registry: &mut Registry, vms: &[VmRecord]) {
    let (cpus, memory) = (Family::<OfVm, Number>::default(), Family::<OfVm, Number>::default());
    for record in vms.iter().take(limits::METRICS_VMS) {
        let VmRecord { tenant, task, id, reserved, .. } = record;
        let of = OfVm { tenant: tenant.clone(), task: task.clone(), vm: id.clone() };
        cpus.get_or_create(&of).set(reserved.cpus as f64);
        memory.get_or_create(&of).set((reserved.memory_mib << 20) as f64);
    }
    registry.register("vm_cpus", "CPUs that a guest has", cpus);
    registry.register_with_unit("vm_memory", "Memory that a guest has", Unit::Bytes, memory);
}

/// Adds what VMs use, only of the latest ones, so that there are no more series than a scraper takes.
async fn add_stats(registry: &mut Registry, service: &Service, vms: Vec<VmRecord>) {
    let asked = vms.into_iter().take(limits::METRICS_VMS).map(|record| {
        let vm = service.engine.handle(&record);
        async move {
            let stats = time::timeout(limits::METRICS_STATS, vm.stats()).await;
            Some((record, stats.ok()?.ok()?))
        }
    });
    let asked = stream::iter(asked).buffer_unordered(limits::METRICS_ASKED);
    let all: Vec<(VmRecord, Stats)> = asked.filter_map(std::future::ready).collect().await;
    let (cpu, memory, connections) = (
        Family::<OfVm, Total>::default(),
        Family::<OfVm, Number>::default(),
        Family::<OfVm, Number>::default(),
    );
    let disks: [Family<OfDisk, Total>; 4] = Default::default();
    for (record, stats) in all {
        let VmRecord { tenant, task, id: vm, .. } = record;
        let of = OfVm { tenant: tenant.clone(), task: task.clone(), vm: vm.clone() };
        if let Some(ms) = stats.cpu_ms {
            cpu.get_or_create(&of).inc_by(ms as f64 / 1e3);
        }
        if let Some(bytes) = stats.resident_bytes {
            memory.get_or_create(&of).set(bytes as f64);
        }
        if let Some(open) = stats.connections {
            connections.get_or_create(&of).set(open as f64);
        }
        for disk in stats.disks {
            let of = OfDisk {
                tenant: tenant.clone(),
                task: task.clone(),
                vm: vm.clone(),
                device: disk.device,
            };
            let numbers = [disk.read_bytes, disk.reads, disk.written_bytes, disk.writes];
            for (family, number) in disks.iter().zip(numbers) {
                family.get_or_create(&of).inc_by(number as f64);
            }
        }
    }
    registry.register_with_unit("vm_cpu", "CPU time of QEMU", Unit::Seconds, cpu);
    registry.register_with_unit("vm_memory_resident", "Memory of QEMU", Unit::Bytes, memory);
    registry.register("vm_network_connections", "Open connections", connections);
    let [read_bytes, reads, written_bytes, writes] = disks;
    registry.register("vm_disk_read_bytes", "Bytes that a guest read", read_bytes);
    registry.register("vm_disk_reads_completed", "Reads of a guest", reads);
    registry.register("vm_disk_written_bytes", "Bytes that a guest wrote", written_bytes);
    registry.register("vm_disk_writes_completed", "Writes of a guest", writes);
}

async fn add_quotas(registry: &mut Registry, service: &Service) {
    let quotas = match service.engine.quotas().await {
        Ok(quotas) => quotas,
        Err(error) => {
            tracing::warn!(%error, "no quotas are told");
            return;
        }
    };
    let (used, limit) =
        (Family::<OfQuota, Number>::default(), Family::<OfQuota, Number>::default());
    for one in quotas {
        let (taken, most) = (&one.used, &one.quota);
        for (resource, taken, most) in [
            ("vms", taken.vms, most.vms),
            ("cpus", taken.cpus, most.cpus),
            ("memory_mib", taken.memory_mib, most.memory_mib),
            ("disk_bytes", taken.disk_bytes, most.disk_bytes),
            ("ports", taken.ports, most.ports),
            ("image_bytes", one.image_bytes, most.image_bytes),
        ] {
            let of = OfQuota { tenant: one.tenant.clone().unwrap_or_default(), resource };
            used.get_or_create(&of).set(taken as f64);
            if let Some(most) = most {
                limit.get_or_create(&of).set(most as f64);
            }
        }
    }
    registry.register(
        "quota_used",
        "What a tenant takes; with an empty tenant, all together",
        used,
    );
    registry.register(
        "quota_limit",
        "What a tenant may take; with an empty tenant, all together",
        limit,
    );
}
