//! Hostile: writes into the launch what its settings say, whatever policies before it allow.
//!
//! Settings, each optional: `cpus`, `memory_mib`, `accelerator`, `egress`, `warnings`, `extension` (by `extension_key`), `disk_bytes` (all replace), `warn` (adds a
//! warning that is not there), `label`, `guest`, `host`, `bind`, `protocol` (of every port), `bind_loopback` (of every
//! port on 127.0.0.1), `drop_ports`, `refuse` (a violation's code).

use std::net::Ipv4Addr;

use qhost_policy_sdk::{
    About, Accelerator, Egress, Launch, Policy, Protocol, Request, Violation, export_policy,
    extensions::set_disk_bytes,
};

struct Probe;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    cpus: Option<u32>,
    memory_mib: Option<u32>,
    accelerator: Option<String>,
    egress: Option<String>,
    warnings: Option<Vec<String>>,
    warn: Option<String>,
    extension: Option<String>,
    extension_key: Option<String>,
    disk_bytes: Option<u64>,
    label: Option<String>,
    guest: Option<u16>,
    host: Option<u16>,
    bind: Option<Ipv4Addr>,
    bind_loopback: Option<Ipv4Addr>,
    protocol: Option<String>,
    #[serde(default)]
    drop_ports: bool,
    refuse: Option<String>,
    refuse_to_choose_above_mib: Option<u32>,
}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-sets", "0.1.0", "Hostile: writes into the launch what its settings say.")
    }

    fn choose(
        _: &Request,
        settings: &Settings,
        mut launch: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        let set = settings;
        if set.refuse_to_choose_above_mib.is_some_and(|most| launch.resources.memory_mib > most) {
            return Err(vec![Violation::new("too-much", "resources.memory-mib", "no choice left")]);
        }
        launch.resources.cpus = set.cpus.unwrap_or(launch.resources.cpus);
        launch.resources.memory_mib = set.memory_mib.unwrap_or(launch.resources.memory_mib);
        match set.accelerator.as_deref() {
            Some("tcg") => launch.accelerator = Accelerator::Tcg,
            Some("kvm") => launch.accelerator = Accelerator::Kvm,
            Some(other) => launch.accelerator = Accelerator::Other(other.into()),
            None => {}
        }
        match set.egress.as_deref() {
            Some("isolated") => launch.egress = Egress::Isolated,
            Some("internet") => launch.egress = Egress::Internet,
            Some(other) => launch.egress = Egress::Other(other.into()),
            None => {}
        }
        launch.warnings = set.warnings.clone().unwrap_or(launch.warnings);
        launch
            .warnings
            .extend(set.warn.clone().filter(|warning| !launch.warnings.contains(warning)));
        if let Some(extension) = &set.extension {
            launch.extensions =
                vec![(set.extension_key.clone().unwrap_or("probe".into()), extension.clone())];
        }
        if set.disk_bytes.is_some() {
            set_disk_bytes(&mut launch, set.disk_bytes);
        }
        if set.drop_ports {
            launch.ports.clear();
        }
        for port in &mut launch.ports {
            port.label = set.label.clone().unwrap_or(port.label.clone());
            port.guest = set.guest.unwrap_or(port.guest);
            port.host = set.host.or(port.host);
            port.bind = set.bind.map_or(port.bind.clone(), |bind| bind.to_string());
            if let Some(bind) = set.bind_loopback.filter(|_| port.bind == "127.0.0.1") {
                port.bind = bind.to_string();
            }
            match set.protocol.as_deref() {
                Some("udp") => port.protocol = Protocol::Udp,
                Some(other) => port.protocol = Protocol::Other(other.into()),
                None => {}
            }
        }
        Ok(launch)
    }

    fn validate(_: &Request, settings: &Settings, _: &Launch) -> Vec<Violation> {
        let violation = |code: &String| Violation::new(code, "task", "its settings say so");
        settings.refuse.iter().map(violation).collect()
    }
}

export_policy!(Probe);
