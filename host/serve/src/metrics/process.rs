//! The service's own process, under the names that Prometheus' clients give such numbers ("Process metrics" in "Writing client libraries").

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// Reads the kernel's numbers of this process; a number that cannot be read is left out.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::with_prefix("process");
    let mut gauge = |name: &str, help: &str, number: Option<f64>| {
        let Some(number) = number else { return };
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(number);
        registry.register(name, help, gauge);
    };
    let stat = Stat::read();
    let files = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let most = getrlimit(Resource::Nofile).current;
    let resident = stat.as_ref().and_then(|stat| stat.number(Stat::RESIDENT_PAGES));
    let page = page_size() as f64;
    gauge("open_fds", "Descriptors that the service has open", files);
    gauge("max_fds", "Descriptors that it may have open", most.map(|most| most as f64));
    gauge("resident_memory_bytes", "Memory of the service", resident.map(|pages| pages * page));
    gauge(
        "start_time_seconds",
        "When the service began, in seconds since 1970",
        stat.as_ref().and_then(Stat::began_at),
    );
    let cpu = stat.as_ref().and_then(Stat::cpu_seconds);
    if let Some(seconds) = cpu {
        let total = Counter::<f64, AtomicU64>::default();
        total.inc_by(seconds);
        registry.register("cpu_seconds", "CPU time of the service", total);
    }
    registry
}

/// `/proc/self/stat` (proc_pid_stat(5)) from behind the program's name, which may contain blanks: the text begins with the file's third
/// field.
struct Stat(String);

impl Stat {
    const USER_TICKS: usize = 14;
    const SYSTEM_TICKS: usize = 15;
    const START_TICKS: usize = 22;
    const RESIDENT_PAGES: usize = 24;

    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        Some(Self(text.rsplit_once(") ")?.1.to_owned()))
    }

    /// Reads a field, by its number in the manual.
    fn number(&self, field: usize) -> Option<f64> {
        self.0.split(' ').nth(field - 3)?.parse().ok()
    }

    fn cpu_seconds(&self) -> Option<f64> {
        let ticks = self.number(Self::USER_TICKS)? + self.number(Self::SYSTEM_TICKS)?;
        Some(ticks / clock_ticks_per_second() as f64)
    }

    fn began_at(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        let since = self.number(Self::START_TICKS)? / clock_ticks_per_second() as f64;
        Some(boot.trim().parse::<f64>().ok()? + since)
    }
}
