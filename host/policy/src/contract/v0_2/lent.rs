//! The contract's form of what policies are shown. Texts and lists are lent to a sandbox, not copied; values of another form in the
//! contract are made once for each decision.

use std::borrow::Cow;

use qhost_model::{
    host_facts::{Accelerator, Resources, TenantUsage},
    job::Checksum,
    launch::{
        Access, AccessLevel, Architecture, Egress, Firmware, FirmwareKind, Launch, Machine,
        MachineKind, Nic, PortMap, PortRange, PortRequest, Protocol, SecureBoot, Seed,
        nics::USER,
        seed::{AskedSeed, PartName, SeedKind, SeedPart},
    },
};

use super::{
    super::{address, pairs},
    Asking, UNLIMITED,
    disks::{DiskTexts, disks, root_disk},
    wit,
};
use crate::{Occasion, Request};

/// Texts of a request that the contract has as text and qhost keeps in another type.
pub(in super::super) struct RequestTexts<'a> {
    sha256: Option<String>,
    sha512: Option<String>,
    time: String,
    disks: DiskTexts,
    seed: Option<SeedTexts<'a>>,
}

/// Texts of a seed that the contract has as text and qhost keeps in another type.
struct SeedTexts<'a> {
    digests: Vec<String>,
    keys: Vec<Vec<&'a str>>,
    ssh_keys: Vec<&'a str>,
}

impl<'a> SeedTexts<'a> {
    fn of(seed: &'a Seed) -> Self {
        let parts = &seed.parts;
        Self {
            digests: parts.iter().map(|part| part.sha256.to_string()).collect(),
            keys: parts.iter().map(|part| part.keys.iter().map(String::as_str).collect()).collect(),
            ssh_keys: seed.ssh_keys.iter().map(String::as_str).collect(),
        }
    }
}

/// A seed in the contract's form.
struct SeedView<'a> {
    of: &'a Seed,
    ssh_keys: &'a [&'a str],
    parts: Vec<wit::SeedPartParam<'a>>,
    /// The parts with their texts, for a policy that is granted them.
    with_texts: Vec<wit::SeedPartParam<'a>>,
}

impl<'a> SeedView<'a> {
    fn of(of: &'a Seed, texts: &'a SeedTexts<'a>, asked: Option<&'a AskedSeed>) -> Self {
        let forms = of.parts.iter().zip(&texts.digests).zip(&texts.keys);
        let part = |((part, sha256), keys): ((&'a SeedPart, &'a String), &'a Vec<&'a str>)| {
            wit::SeedPartParam {
                name: part.name.name(),
                media_type: &part.media_type,
                sha256,
                bytes: part.bytes,
                keys,
                text: None,
            }
        };
        let parts: Vec<_> = forms.map(part).collect();
        let text = |name: PartName| asked.and_then(|asked| asked.texts.part(name));
        let with_texts = of
            .parts
            .iter()
            .zip(&parts)
            .map(|(part, form)| wit::SeedPartParam { text: text(part.name), ..form.clone() });
        Self { of, ssh_keys: &texts.ssh_keys, with_texts: with_texts.collect(), parts }
    }

    fn param(&self, with_texts: bool) -> wit::SeedParam<'_> {
        wit::SeedParam {
            kind: match self.of.kind {
                SeedKind::CloudInit => wit::SeedKindParam::CloudInit,
                SeedKind::Ignition => wit::SeedKindParam::Ignition,
            },
            parts: if with_texts { &self.with_texts } else { &self.parts },
            hostname: self.of.hostname.as_deref(),
            ssh_keys: self.ssh_keys,
        }
    }
}

impl<'a> RequestTexts<'a> {
    pub(in super::super) fn of(Request { task, time, .. }: &'a Request) -> Self {
        let (sha256, sha512) = match &task.image.checksum {
            Checksum::Image { sha256 } => (Some(sha256.to_string()), None),
            // The digest is that of the list of checksums.
            Checksum::List { sha256, .. } => (Some(sha256.to_string()), None),
            Checksum::Sha512 { sha512 } => (None, Some(sha512.to_string())),
        };
        let seed = task.asked.seed.as_ref().map(|asked| SeedTexts::of(&asked.seed));
        let disks = DiskTexts::of(&task.asked.disks);
        Self { sha256, sha512, time: format!("{time:.0}"), disks, seed }
    }
}

/// A request in the contract's form. Texts and lists are lent to the sandbox, not copied; values of another form in the contract are kept
/// here.
pub(in super::super) struct RequestView<'a> {
    of: &'a Request,
    image: wit::ImageParam<'a>,
    time: &'a str,
    ports: Vec<wit::PortRequest<'a>>,
    disks: Vec<wit::DiskParam<'a>>,
    seed: Option<SeedView<'a>>,
    nics: Vec<wit::NicParam<'a>>,
    args: Vec<&'a str>,
    meta: Vec<(&'a str, &'a str)>,
    accelerators: Vec<wit::AcceleratorParam<'a>>,
    machines: Vec<wit::MachineParam<'a>>,
    firmware: Vec<wit::FirmwareParam<'static>>,
    allowed: Vec<wit::PortRange>,
}

impl<'a> RequestView<'a> {
    pub(in super::super) fn of(of: &'a Request, texts: &'a RequestTexts<'a>) -> Self {
        let Request { task, host, rules, .. } = of;
        let asked = &task.asked;
        let port = |port: &'a PortRequest| wit::PortRequest {
            label: &port.label,
            guest: port.guest,
            host: port.host,
            protocol: port.protocol.into(),
        };
        let range = |range: &PortRange| wit::PortRange { first: range.first(), last: range.last() };
        let is_offered = |kind: &&MachineKind| host.architectures.contains(&kind.architecture());
        let kinds = MachineKind::ALL.iter().filter(is_offered);
        let machines = kinds.flat_map(|kind| {
            rules.cpus.iter().map(|cpu| wit::MachineParam {
                kind: kind.name(),
                architecture: kind.architecture().name(),
                cpu,
                nested: rules.nested && kind.architecture() == Architecture::X86_64,
            })
        });
        Self {
            of,
            image: image(of, texts),
            time: &texts.time,
            ports: asked.ports.iter().map(port).collect(),
            disks: disks(
                root_disk(asked.disk_bytes, asked.persist, asked.disk_rate),
                &asked.disks,
                &texts.disks,
            ),
            seed: asked
                .seed
                .as_ref()
                .zip(texts.seed.as_ref())
                .map(|(asked, texts)| SeedView::of(&asked.seed, texts, Some(asked))),
            nics: asked.nics.iter().map(nic).collect(),
            args: task.args.iter().map(String::as_str).collect(),
            meta: pairs(&task.meta),
            accelerators: host
                .accelerators_of(asked.machine.architecture)
                .map(Into::into)
                .collect(),
            machines: machines.collect(),
            firmware: host
                .firmware_of(asked.machine.architecture)
                .into_iter()
                .map(|one| firmware(one, rules.persist))
                .collect(),
            allowed: rules.ports.iter().map(range).collect(),
        }
    }

    /// Gives the request with a policy's settings.
    pub(super) fn with<'b>(&'b self, asking: &'b Asking<'_>) -> wit::Request<'b> {
        wit::Request {
            occasion: match self.of.occasion {
                Occasion::Launch => wit::Occasion::Launch,
                Occasion::Restart => wit::Occasion::Restart,
                Occasion::Audit => wit::Occasion::Audit,
                Occasion::Operation => wit::Occasion::Operation,
            },
            task: self.task(asking.seed_text),
            host: self.host(),
            settings: asking.settings,
            time: self.time,
            // The contract's last second is in the year 2106.
            unix_seconds: u32::try_from(self.of.time.as_second()).unwrap_or_default(),
            extensions: &[],
        }
    }

    fn task(&self, seed_text: bool) -> wit::Task<'_> {
        let (task, asked) = (&self.of.task, &self.of.task.asked);
        wit::Task {
            tenant: &task.tenant,
            job: &task.job,
            name: &task.name,
            image: self.image.clone(),
            resources: asked.resources.into(),
            accelerator: asked.accelerator.map(Into::into),
            ports: &self.ports,
            egress: asked.egress.into(),
            disks: &self.disks,
            seed: self.seed.as_ref().map(|seed| seed.param(seed_text)),
            firmware: asked.firmware.map(|it| firmware(it, asked.persist)),
            machine: (&asked.machine).into(),
            nics: &self.nics,
            access: asked.access.into(),
            grace_seconds: asked.grace_s.map(|grace| grace.seconds),
            args: &self.args,
            meta: &self.meta,
            extensions: &[],
        }
    }

    fn host(&self) -> wit::HostFacts<'_> {
        let host = &self.of.host;
        let TenantUsage { vms, resources, ports } = host.tenant_usage;
        wit::HostFacts {
            name: &host.name,
            qemu_version: &host.qemu_version,
            accelerators: &self.accelerators,
            machines: &self.machines,
            firmware: &self.firmware,
            networks: &[USER],
            resources: host.resources.into(),
            free: host.free.into(),
            ports: &self.allowed,
            ports_in_use: &host.ports_in_use,
            tenant_usage: wit::Usage { vms, resources: resources.into(), ports },
            extensions: &[],
        }
    }
}

fn image<'a>(
    Request { task, .. }: &'a Request,
    texts: &'a RequestTexts<'a>,
) -> wit::ImageParam<'a> {
    let sha256 = texts.sha256.as_deref();
    let checksums = task.image.checksum.sums().zip(sha256);
    wit::ImageParam {
        source: task.image.source.as_str(),
        sha256: sha256.filter(|_| checksums.is_none()),
        sha512: texts.sha512.as_deref(),
        checksums: checksums
            .map(|(list, sha256)| wit::ChecksumListParam { source: list.as_str(), sha256 }),
    }
}

/// The firmware in the contract's form. UEFI keeps its variables with the root disk.
fn firmware(
    Firmware { kind, secure_boot }: Firmware,
    persistent: bool,
) -> wit::FirmwareParam<'static> {
    wit::FirmwareParam {
        kind: match kind {
            FirmwareKind::Bios => wit::FirmwareKindParam::Bios,
            FirmwareKind::Uefi => wit::FirmwareKindParam::Uefi,
        },
        secure_boot: match secure_boot {
            SecureBoot::Off => wit::SecureBootParam::Off,
            SecureBoot::OwnKeys => wit::SecureBootParam::OwnKeys,
            SecureBoot::VendorKeys => wit::SecureBootParam::VendorKeys,
        },
        keeps_variables: persistent && kind == FirmwareKind::Uefi,
    }
}

fn nic(nic: &Nic) -> wit::NicParam<'_> {
    wit::NicParam { name: &nic.name, network: &nic.network, mac: None, rate: UNLIMITED }
}

/// Texts of a launch that the contract has as text and qhost keeps in another type.
pub(in super::super) struct LaunchTexts<'a> {
    binds: Vec<Cow<'static, str>>,
    disks: DiskTexts,
    seed: Option<SeedTexts<'a>>,
}

impl<'a> LaunchTexts<'a> {
    pub(in super::super) fn of(launch: &'a Launch) -> Self {
        Self {
            binds: launch.ports.iter().map(|port| address(port.bind)).collect(),
            disks: DiskTexts::of(&launch.disks),
            seed: launch.seed.as_ref().map(SeedTexts::of),
        }
    }
}

/// A launch in the contract's form.
pub(in super::super) struct LaunchView<'a> {
    of: &'a Launch,
    ports: Vec<wit::PortMapParam<'a>>,
    disks: Vec<wit::DiskParam<'a>>,
    seed: Option<SeedView<'a>>,
    nics: Vec<wit::NicParam<'a>>,
    warnings: Vec<&'a str>,
    extensions: Vec<(&'a str, &'a str)>,
}

impl<'a> LaunchView<'a> {
    pub(in super::super) fn of(of: &'a Launch, texts: &'a LaunchTexts<'a>) -> Self {
        let port = |(port, bind): (&'a PortMap, &'a Cow<'static, str>)| wit::PortMapParam {
            label: &port.label,
            guest: port.guest,
            host: port.host,
            bind,
            protocol: port.protocol.into(),
        };
        Self {
            of,
            ports: of.ports.iter().zip(&texts.binds).map(port).collect(),
            disks: disks(
                root_disk(of.disk_bytes, of.persist, of.disk_rate),
                &of.disks,
                &texts.disks,
            ),
            seed: of
                .seed
                .as_ref()
                .zip(texts.seed.as_ref())
                .map(|(seed, texts)| SeedView::of(seed, texts, None)),
            nics: of.nics.iter().map(nic).collect(),
            warnings: of.warnings.iter().map(String::as_str).collect(),
            extensions: pairs(of.extensions.iter().map(|(key, value)| (key, value))),
        }
    }

    pub(super) fn param(&self) -> wit::LaunchParam<'_> {
        wit::LaunchParam {
            accelerator: self.of.accelerator.into(),
            ports: &self.ports,
            resources: self.of.resources.into(),
            egress: self.of.egress.into(),
            disks: &self.disks,
            seed: self.seed.as_ref().map(|seed| seed.param(false)),
            firmware: firmware(self.of.firmware, self.of.persist),
            machine: (&self.of.machine).into(),
            nics: &self.nics,
            access: self.of.access.into(),
            grace_seconds: self.of.grace_s.seconds,
            warnings: &self.warnings,
            extensions: &self.extensions,
        }
    }
}

impl From<Resources> for wit::Resources {
    fn from(resources: Resources) -> Self {
        Self { cpus: resources.cpus, memory_mib: resources.memory_mib }
    }
}

impl From<Accelerator> for wit::AcceleratorParam<'_> {
    fn from(accelerator: Accelerator) -> Self {
        match accelerator {
            Accelerator::Tcg => Self::Tcg,
            Accelerator::Kvm => Self::Kvm,
        }
    }
}

impl From<Protocol> for wit::ProtocolParam<'_> {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<Egress> for wit::EgressParam<'_> {
    fn from(egress: Egress) -> Self {
        match egress {
            Egress::Isolated => Self::Isolated,
            Egress::Internet => Self::Internet,
        }
    }
}

impl<'a> From<&'a Machine> for wit::MachineParam<'a> {
    fn from(Machine { kind, architecture, cpu, nested }: &'a Machine) -> Self {
        Self { kind: kind.name(), architecture: architecture.name(), cpu, nested: *nested }
    }
}

impl From<AccessLevel> for wit::AccessLevelParam<'_> {
    fn from(level: AccessLevel) -> Self {
        match level {
            AccessLevel::None => Self::None,
            AccessLevel::Watch => Self::Watch,
            AccessLevel::Interact => Self::Interact,
        }
    }
}

impl From<Access> for wit::AccessParam<'_> {
    fn from(Access { console, display, agent }: Access) -> Self {
        Self { console: console.into(), display: display.into(), agent: agent.into() }
    }
}
