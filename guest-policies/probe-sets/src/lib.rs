//! Hostile: writes the values of its settings into the launch, whatever policies before it allow.
//!
//! Settings, each optional: `cpus`, `memory_mib`, `accelerator`, `egress`, `warnings`, `extension` (by `extension_key`), `disk_bytes` and
//! `persist` (of the root disk), `data_mib`, `read_only`, `volume` (of every other), `operations` (of each), `machine`, `architecture`,
//! `cpu`, `nested`, `network` (of every device), `console`, `agent`, `display`, `grace_seconds` (all replace), `warn` (adds a warning that
//! is not there), `label`, `guest`, `host`, `bind`, `protocol` (of every port), `bind_loopback` (of every port on 127.0.0.1), `drop_ports`,
//! `drop_nics`, `drop_disks`, `swap_disks`, `add_disk`, `add_seed`, `drop_seed`, `hostname`, `firmware`, `listed`, `repeat_seed` (in
//! violations), `refuse` (a violation's code), `refuse_on` (an occasion), `refuse_operation` (the name of one), `saw` (adds a warning with
//! what the task asks of a field).

use std::net::Ipv4Addr;

use qhost_policy_sdk::{
    About, Accelerator, AccessLevel, Actor, Egress, FirmwareKind, Launch, Occasion, Operation,
    Policy, Protocol, Request, Running, SecureBoot, Seed, SeedKind, Task, Violation, export_policy,
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
    persist: Option<bool>,
    data_mib: Option<u32>,
    read_only: Option<bool>,
    volume: Option<String>,
    operations: Option<u32>,
    #[serde(default)]
    drop_disks: bool,
    #[serde(default)]
    swap_disks: bool,
    machine: Option<String>,
    architecture: Option<String>,
    cpu: Option<String>,
    nested: Option<bool>,
    network: Option<String>,
    console: Option<String>,
    agent: Option<String>,
    display: Option<String>,
    grace_seconds: Option<u32>,
    firmware: Option<String>,
    #[serde(default)]
    drop_nics: bool,
    #[serde(default)]
    add_disk: bool,
    #[serde(default)]
    add_seed: bool,
    #[serde(default)]
    drop_seed: bool,
    hostname: Option<String>,
    #[serde(default)]
    listed: bool,
    label: Option<String>,
    guest: Option<u16>,
    host: Option<u16>,
    bind: Option<Ipv4Addr>,
    bind_loopback: Option<Ipv4Addr>,
    protocol: Option<String>,
    #[serde(default)]
    drop_ports: bool,
    refuse: Option<String>,
    refuse_on: Option<String>,
    refuse_operation: Option<String>,
    saw: Option<String>,
    #[serde(default)]
    repeat_seed: bool,
    refuse_to_choose_above_mib: Option<u32>,
}

impl Settings {
    fn disks_of(&self, launch: &mut Launch) {
        let set = self;
        if let Some(root) = launch.disks.first_mut() {
            let size_mib = set.disk_bytes.and_then(|bytes| u32::try_from(bytes >> 20).ok());
            root.size_mib = size_mib.or(root.size_mib);
            root.persistent = set.persist.unwrap_or(root.persistent);
        }
        launch.disks.iter_mut().skip(1).for_each(|disk| {
            disk.size_mib = set.data_mib.or(disk.size_mib);
            disk.read_only = set.read_only.unwrap_or(disk.read_only);
            disk.volume = set.volume.clone().or(disk.volume.take());
        });
        launch.disks.iter_mut().for_each(|disk| {
            disk.rate.operations = set.operations.or(disk.rate.operations);
        });
        if set.drop_disks {
            launch.disks.truncate(1);
        }
        if set.swap_disks {
            launch.disks.reverse();
        }
        if set.add_disk {
            let more = launch.disks.clone();
            launch.disks.extend(more);
        }
    }

    fn machine_of(&self, launch: &mut Launch) {
        let set = self;
        let machine = &mut launch.machine;
        machine.kind = set.machine.clone().unwrap_or(machine.kind.clone());
        machine.architecture = set.architecture.clone().unwrap_or(machine.architecture.clone());
        machine.cpu = set.cpu.clone().unwrap_or(machine.cpu.clone());
        machine.nested = set.nested.unwrap_or(machine.nested);
        if set.drop_nics {
            launch.nics.clear();
        }
        launch.nics.iter_mut().for_each(|nic| {
            nic.network = set.network.clone().unwrap_or(nic.network.clone());
        });
        let level = |set: &Option<String>, now: &AccessLevel| match set.as_deref() {
            Some("none") => AccessLevel::None,
            Some("watch") => AccessLevel::Watch,
            Some("interact") => AccessLevel::Interact,
            Some(other) => AccessLevel::Other(other.into()),
            None => now.clone(),
        };
        launch.access.console = level(&set.console, &launch.access.console);
        launch.access.agent = level(&set.agent, &launch.access.agent);
        launch.access.display = level(&set.display, &launch.access.display);
        launch.grace_seconds = set.grace_seconds.unwrap_or(launch.grace_seconds);
        match set.firmware.as_deref() {
            Some("uefi") => launch.firmware.kind = FirmwareKind::Uefi,
            Some("bios") => {
                launch.firmware.kind = FirmwareKind::Bios;
                launch.firmware.secure_boot = SecureBoot::Off;
                launch.firmware.keeps_variables = false;
            }
            Some(other) => launch.firmware.kind = FirmwareKind::Other(other.into()),
            None => {}
        }
        if set.add_seed {
            launch.seed = Some(Seed {
                kind: SeedKind::CloudInit,
                parts: vec![],
                hostname: Some("probe".into()),
                ssh_keys: vec![],
            });
        }
        if set.drop_seed {
            launch.seed = None;
        }
        if let (Some(seed), Some(hostname)) = (&mut launch.seed, &set.hostname) {
            seed.hostname = Some(hostname.clone());
        }
        if set.listed {
            launch.egress = Egress::Listed(vec![]);
        }
    }
}

/// What a task asks of a field, as a text.
fn asked(task: &Task, field: &str) -> String {
    match field {
        "image" => format!("{:?}", task.image),
        "resources" => format!("{:?}", task.resources),
        "accelerator" => format!("{:?}", task.accelerator),
        "ports" => format!("{:?}", task.ports),
        "egress" => format!("{:?}", task.egress),
        "disks" => format!("{:?}", task.disks),
        "seed" => format!("{:?}", task.seed),
        "firmware" => format!("{:?}", task.firmware),
        "machine" => format!("{:?}", task.machine),
        "nics" => format!("{:?}", task.nics),
        "access" => format!("{:?}", task.access),
        "grace-seconds" => format!("{:?}", task.grace_seconds),
        other => format!("no field {other}"),
    }
}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-sets", "0.1.0", "Hostile: writes into the launch what its settings say.")
    }

    fn choose(
        request: &Request,
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
        if let Some(field) = &set.saw {
            let saw = format!("{field}: {}", asked(&request.task, field));
            if !launch.warnings.contains(&saw) {
                launch.warnings.push(saw);
            }
        }
        if let Some(extension) = &set.extension {
            launch.extensions =
                vec![(set.extension_key.clone().unwrap_or("probe".into()), extension.clone())];
        }
        set.disks_of(&mut launch);
        set.machine_of(&mut launch);
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

    fn validate(request: &Request, settings: &Settings, _: &Launch) -> Vec<Violation> {
        if settings.repeat_seed {
            let parts = request.task.seed.iter().flat_map(|seed| &seed.parts);
            return parts
                .map(|part| {
                    let text = part.text.as_deref().unwrap_or("no text");
                    Violation::new("repeats", "seed", format!("{}: {text}", part.name))
                })
                .collect();
        }
        let violation = |code: &String| Violation::new(code, "task", "its settings say so");
        let occasion = match &request.occasion {
            Occasion::Launch => "launch",
            Occasion::Restart => "restart",
            Occasion::Audit => "audit",
            Occasion::Operation => "operation",
            Occasion::Other(name) => name,
        };
        if settings.refuse_on.as_ref().is_some_and(|on| on == occasion) {
            return vec![Violation::new("occasion", "request", occasion)];
        }
        settings.refuse.iter().map(violation).collect()
    }

    fn permit(
        _: &Request,
        settings: &Settings,
        vm: &Running,
        operation: &Operation,
        actor: &Actor,
    ) -> Vec<Violation> {
        let name = operation.name();
        if settings.refuse_operation.as_deref() != Some(name) {
            return vec![];
        }
        let message = format!("{} may not {name} {}", actor.name, vm.id);
        vec![Violation::new("no-operation", "operation", message)]
    }
}

export_policy!(Probe);
