//! A house's standard rules in one policy, to start one's own from, and to measure: `tests/benches` has the same rules
//! in Rego.
//!
//! Settings: `{"hosts": ["images.example"], "memory_mib": 1024, "first": 20000, "last": 20015}`. Images come from the
//! hosts; a task that asks for more memory gets the most there is, with a warning; ports without a host port get the
//! free ones of the range in order; kvm is taken where it works and the task did not ask otherwise.

use qhost_policy_sdk::{About, Accelerator, Launch, Policy, Request, Violation, export_policy};

struct Standard;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    hosts: Vec<String>,
    memory_mib: u32,
    first: u16,
    last: u16,
}

impl Policy for Standard {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "standard",
            env!("CARGO_PKG_VERSION"),
            "Trusted image hosts, a memory cap, a port range, kvm where it works.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    fn check_settings(settings: &Settings) -> Result<(), String> {
        match (settings.first < 1024, settings.first > settings.last) {
            (true, _) => Err(format!("first: {} is privileged; use 1024 or more", settings.first)),
            (_, true) => Err(format!("last: {} is below first", settings.last)),
            (false, false) => Ok(()),
        }
    }

    fn choose(
        request: &Request,
        settings: &Settings,
        mut launch: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        let works = request.host.accelerators.contains(&Accelerator::Kvm);
        if works && request.task.accelerator.is_none() {
            launch.accelerator = Accelerator::Kvm;
        }
        if launch.resources.memory_mib > settings.memory_mib {
            launch.resources.memory_mib = settings.memory_mib;
            launch.warnings.push(format!("memory was lowered to {} MiB", settings.memory_mib));
        }
        let taken = &request.host.ports_in_use;
        let mut free = (settings.first..=settings.last).filter(|port| !taken.contains(port));
        for port in launch.ports.iter_mut().filter(|port| port.host.is_none()) {
            port.host = free.next();
        }
        Ok(launch)
    }

    fn validate(request: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let mut violations = vec![];
        let root = [("image.source".to_owned(), &request.task.image)];
        let others = launch.disks.iter().filter_map(|disk| {
            disk.image.as_ref().map(|image| (format!("disks.{}.image", disk.name), image))
        });
        for (field, image) in root.into_iter().chain(others) {
            let source = &image.source;
            let host = source.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next());
            if !settings.hosts.iter().any(|trusted| Some(trusted.as_str()) == host) {
                let message = format!("{} is not a trusted image host", host.unwrap_or(source));
                violations.push(Violation::new("image-not-trusted", &field, message));
            }
        }
        if launch.resources.memory_mib > settings.memory_mib {
            let message = format!("more than {} MiB", settings.memory_mib);
            violations.push(Violation::new("memory-limit", "resources.memory-mib", message));
        }
        let range = settings.first..=settings.last;
        for port in &launch.ports {
            if port.host.is_none_or(|host| !range.contains(&host)) {
                let message = format!("{} is not on a port of the range", port.label);
                violations.push(Violation::new("port-out-of-range", "ports", message));
            }
        }
        violations
    }
}

export_policy!(Standard);
