//! What a VM uses: QEMU's CPU time and memory by the kernel's counters, and the VM's disks and connections by QEMU's counters.

use procfs::{WithCurrentSystemInfo as _, process};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use qhost_cage::Usage;
use qhost_model::printable;

use super::{Process, Spec};
use crate::limits;

/// What a VM uses.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stats {
    /// CPU time of QEMU so far, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Memory of QEMU now, in bytes.
    pub resident_bytes: Option<u64>,
    /// Threads of QEMU.
    pub threads: Option<u64>,
    /// What its cgroup counted.
    pub cgroup: Option<Usage>,
    /// Its disks, by the names of QEMU's devices.
    pub disks: Vec<Disk>,
    /// Open connections through its network, forwarded ports included. QEMU counts no bytes of them.
    pub connections: Option<u64>,
}

/// What a guest did with one disk since QEMU was started.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Disk {
    /// QEMU's name for it.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Reads and writes that failed.
    pub failed: u64,
}

/// What the kernel counts of a VM's use. QEMU's counters are added when QEMU answers, or left out.
pub(super) fn of_process(spec: &Spec, process: Option<&Process>) -> Stats {
    let mut stats = Stats { cgroup: spec.cage.usage(&spec.vm), ..Stats::default() };
    let number = process.filter(|process| process.lives()).and_then(|one| one.pid.try_into().ok());
    if let Some(stat) = number.and_then(|pid| process::Process::new(pid).ok()?.stat().ok()) {
        let per_second = procfs::ticks_per_second();
        stats.cpu_ms = (stat.utime + stat.stime).checked_mul(1000).map(|ms| ms / per_second.max(1));
        stats.resident_bytes = Some(stat.rss_bytes().get());
        stats.threads = stat.num_threads.try_into().ok();
    }
    stats
}

impl Stats {
    /// Adds QEMU's answer to `query-blockstats`.
    pub(super) fn note_disks(&mut self, answer: &Value) {
        let disks = answer.as_array().into_iter().flatten();
        self.disks = disks.take(limits::DISKS).map(disk).collect();
    }

    /// Adds what QEMU's monitor for people answers to `info usernet`.
    pub(super) fn note_connections(&mut self, answer: &Value) {
        let lines = answer.as_str().unwrap_or_default().lines();
        self.connections = Some(lines.filter(|line| is_connection(line)).count() as u64);
    }
}

/// QEMU is not trusted: its counters are taken as numbers, and its names as text to be shown.
fn disk(answer: &Value) -> Disk {
    let number =
        |key: &str| answer.get("stats").and_then(|stats| stats.get(key)?.as_u64()).unwrap_or(0);
    let name = ["qdev", "node-name", "device"]
        .iter()
        .find_map(|key| answer.get(*key)?.as_str().filter(|name| !name.is_empty()));
    Disk {
        device: printable::line(name.unwrap_or_default(), qhost_model::limits::SHOWN_CHARS)
            .to_string(),
        read_bytes: number("rd_bytes"),
        written_bytes: number("wr_bytes"),
        reads: number("rd_operations"),
        writes: number("wr_operations"),
        failed: number("failed_rd_operations") + number("failed_wr_operations"),
    }
}

/// Whether a line of `info usernet` is a connection, not a heading or a listening forward.
fn is_connection(line: &str) -> bool {
    let protocol = line.trim_start();
    ["TCP[", "UDP[", "ICMP["].iter().any(|begin| protocol.starts_with(begin))
        && !line.contains("HOST_FORWARD")
}
