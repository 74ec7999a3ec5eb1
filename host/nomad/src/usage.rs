//! The resources that a task uses, in the terms of Nomad.

use std::{
    collections::HashMap,
    fs,
    sync::OnceLock,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::{Interval, MissedTickBehavior, interval};

use qhost_engine::Vm;
use qhost_vm::Stats;

use crate::{
    events::timestamp,
    proto::driver::{
        CpuUsage, MemoryUsage, TaskResourceUsage, TaskStats, cpu_usage::Fields as CpuField,
        memory_usage::Fields as MemoryField,
    },
};

/// Samples a VM's usage at intervals, until the VM has ended.
pub(crate) struct Looks {
    task_id: String,
    vm: Vm,
    every: Interval,
    last: Option<(Instant, u64)>,
}

impl Looks {
    pub(crate) fn new(task_id: String, vm: Vm, every: Duration) -> Self {
        let mut every = interval(every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { task_id, vm, every, last: None }
    }

    pub(crate) async fn next(&mut self) -> Option<TaskStats> {
        loop {
            self.every.tick().await;
            // A supervisor that is being replaced answers at the next sample.
            if let Ok(stats) = self.vm.stats().await {
                return Some(self.counted(&stats));
            }
            self.vm.goes_on().await.ok()?;
        }
    }

    fn counted(&mut self, stats: &Stats) -> TaskStats {
        let now = Instant::now();
        let cpu_ms = stats.cpu_ms.unwrap_or(0);
        let percent = self.last.map_or(0.0, |(at, before)| {
            let took = now.duration_since(at).as_secs_f64() * 1e3;
            if took > 0.0 { cpu_ms.saturating_sub(before) as f64 / took * 100.0 } else { 0.0 }
        });
        self.last = Some((now, cpu_ms));
        let cpu = CpuUsage {
            percent,
            total_ticks: percent / 100.0 * megahertz(),
            measured_fields: vec![CpuField::Percent.into(), CpuField::TotalTicks.into()],
            ..CpuUsage::default()
        };
        let group = stats.cgroup.unwrap_or_default();
        let memory = MemoryUsage {
            rss: stats.resident_bytes.unwrap_or(0),
            usage: group.memory_bytes.unwrap_or(0),
            max_usage: group.memory_peak_bytes.unwrap_or(0),
            measured_fields: [MemoryField::Rss, MemoryField::Usage, MemoryField::MaxUsage]
                .map(Into::into)
                .into(),
            ..MemoryUsage::default()
        };
        TaskStats {
            id: self.task_id.clone(),
            timestamp: Some(timestamp(Timestamp::now())),
            agg_resource_usage: Some(TaskResourceUsage { cpu: Some(cpu), memory: Some(memory) }),
            resource_usage_by_pid: HashMap::new(),
        }
    }
}

/// The statistics that Nomad's form has no field for, and other facts about a task's VM.
pub(crate) async fn attributes(vm: &Vm) -> HashMap<String, String> {
    let record = vm.record().await;
    let mut attributes = HashMap::from([("vm".to_owned(), record.id)]);
    if let Some(qemu) = record.status.qemu {
        attributes.insert("pid".into(), qemu.pid.to_string());
    }
    let Ok(stats) = vm.stats().await else { return attributes };
    for disk in &stats.disks {
        for (counter, value) in [
            ("read_bytes", disk.read_bytes),
            ("written_bytes", disk.written_bytes),
            ("reads", disk.reads),
            ("writes", disk.writes),
        ] {
            attributes.insert(format!("disk.{}.{counter}", disk.device), value.to_string());
        }
    }
    if let Some(connections) = stats.connections {
        attributes.insert("network.connections".into(), connections.to_string());
    }
    attributes
}

/// The speed of this host's processor, by which Nomad counts usage; 0 where the kernel does not tell it.
fn megahertz() -> f64 {
    static SPEED: OnceLock<f64> = OnceLock::new();
    *SPEED.get_or_init(|| {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let speed = text.lines().find_map(|line| line.strip_prefix("cpu MHz"));
        speed.and_then(|rest| rest.rsplit(':').next()?.trim().parse().ok()).unwrap_or(0.0)
    })
}
