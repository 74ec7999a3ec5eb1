//! The contract's version 0.1, `wit/0.1`. Fields that this version has no word for stay as they were.

use std::borrow::Cow;

use wasmtime::component::{HasSelf, Linker};

use qhost_model::{
    host_facts::{Accelerator, Resources, TenantUsage},
    job::{Checksum, Task},
    launch::{
        AccessLevel, Architecture, CPU_MAX, Egress, Firmware, Launch, Machine, MachineKind,
        PortMap, PortRange, PortRequest, Protocol, disk_bytes,
    },
    printable,
};

use super::{
    super::{Request, error::Fault, host_state::HostState, log::Level},
    Asking, GivenAbout, GivenViolation, Shown, Store, address,
    answer::{self, ContractBreaches, few, nonsense, unknown, word},
    form, pairs,
};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/0.1",
        world: "policy",
        // What the host hands over is lent, not copied.
        ownership: Borrowing { duplicate_if_necessary: true },
        additional_derives: [PartialEq, Clone],
    });
}

use bindings::qhost::policy::{log, types as wit};

pub(super) type Component = bindings::PolicyPre<HostState>;
pub(super) type Instance = bindings::Policy;
pub(super) type GivenLaunch = wit::LaunchResult;

pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    bindings::Policy::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
}

/// Names the fields of a launch that this version has no word for and that no job could ask for when this version was the
/// newest.
pub(super) fn unseen(launch: &Launch, task: &Task) -> Vec<&'static str> {
    let Machine { cpu, nested, kind, architecture } = &launch.machine;
    let fields = [
        ("seed", launch.seed.is_some()),
        // The policy is shown whether the task asks to persist, so that only a launch that adds it is unseen.
        ("persist", launch.persist && !task.asked.persist),
        ("disk_rate", !launch.disk_rate.is_unlimited()),
        ("disks", !launch.disks.is_empty()),
        ("firmware", launch.firmware != Firmware::default()),
        ("machine.kind", *kind != MachineKind::Pc),
        ("machine.architecture", *architecture != Architecture::X86_64),
        ("machine.cpu", cpu != CPU_MAX),
        ("machine.nested", *nested),
        ("access.agent", launch.access.agent != AccessLevel::None),
        ("access.display", launch.access.display != AccessLevel::None),
    ];
    fields.into_iter().filter(|(_, is_held)| *is_held).map(|(field, _)| field).collect()
}

pub(super) fn describe(policy: &Instance, store: &mut Store) -> wasmtime::Result<GivenAbout> {
    let wit::About { name, version, description, settings_schema, extensions: _ } =
        policy.qhost_policy_decide().call_describe(store)?;
    Ok(GivenAbout { name, version, description, settings_schema, tables: vec![] })
}

pub(super) fn choose(
    policy: &Instance,
    store: &mut Store,
    asking: &Asking<'_>,
    so_far: &Shown<'_>,
) -> wasmtime::Result<Result<super::GivenLaunch, Vec<GivenViolation>>> {
    let (request, so_far) = (form(asking.request.v0_1.as_ref())?, form(so_far.v0_1.as_ref())?);
    let request = request.with(asking.settings);
    let chosen = policy.qhost_policy_decide().call_choose(store, request, so_far.param())?;
    Ok(chosen.map(super::GivenLaunch::V0_1).map_err(given))
}

pub(super) fn validate(
    policy: &Instance,
    store: &mut Store,
    asking: &Asking<'_>,
    launch: &Shown<'_>,
) -> wasmtime::Result<Vec<GivenViolation>> {
    let (request, launch) = (form(asking.request.v0_1.as_ref())?, form(launch.v0_1.as_ref())?);
    let request = request.with(asking.settings);
    policy.qhost_policy_decide().call_validate(store, request, launch.param()).map(given)
}

fn given(violations: Vec<wit::Violation>) -> Vec<GivenViolation> {
    let one = |violation| {
        let wit::Violation { code, field, message, hint, extensions: _ } = violation;
        GivenViolation { code, field, message, hint }
    };
    violations.into_iter().map(one).collect()
}

/// Texts of a request that the contract has as text and qhost keeps in another type.
pub(super) struct RequestTexts {
    sha256: String,
    sha512: Option<String>,
    disk_bytes: Option<String>,
    time: String,
}

impl RequestTexts {
    pub(super) fn of(Request { task, time, .. }: &Request) -> Self {
        Self {
            time: format!("{time:.0}"),
            // The contract has no image without a SHA-256. No file has this digest, so that no list of allowed images
            // holds it.
            sha256: task.image.checksum.pin().map_or("0".repeat(64), |sha256| sha256.to_string()),
            sha512: match &task.image.checksum {
                Checksum::Sha512 { sha512 } => Some(sha512.to_string()),
                Checksum::List { .. } | Checksum::Image { .. } => None,
            },
            disk_bytes: task.asked.disk_bytes.map(|bytes| bytes.to_string()),
        }
    }
}

/// A request in the contract's form. Texts and lists are lent to the sandbox, not copied; values of another form in the
/// contract are kept here.
pub(super) struct RequestView<'a> {
    of: &'a Request,
    sha256: &'a str,
    extensions: Vec<(&'a str, &'a str)>,
    /// The request's one extension: the time of the decision.
    time: [(&'a str, &'a str); 1],
    ports: Vec<wit::PortRequest<'a>>,
    args: Vec<&'a str>,
    meta: Vec<(&'a str, &'a str)>,
    accelerators: Vec<wit::AcceleratorParam<'a>>,
    allowed: Vec<wit::PortRange>,
}

impl<'a> RequestView<'a> {
    pub(super) fn of(of: &'a Request, texts: &'a RequestTexts) -> Self {
        let Request { task, host, rules, .. } = of;
        let port = |port: &'a PortRequest| wit::PortRequest {
            label: &port.label,
            guest: port.guest,
            host: port.host,
            protocol: port.protocol.into(),
        };
        let range = |range: &PortRange| wit::PortRange { first: range.first(), last: range.last() };
        let sums = task.image.checksum.sums().map(|sums| ("image.sums", sums.as_str()));
        let sha512 = texts.sha512.as_deref().map(|text| ("image.sha512", text));
        let persist = task.asked.persist.then_some(("persist", "true"));
        let disk_bytes = texts.disk_bytes.as_deref().map(|text| (disk_bytes::EXTENSION, text));
        Self {
            of,
            sha256: &texts.sha256,
            time: [("time", &texts.time)],
            extensions: sums.into_iter().chain(sha512).chain(persist).chain(disk_bytes).collect(),
            ports: task.asked.ports.iter().map(port).collect(),
            args: task.args.iter().map(String::as_str).collect(),
            meta: pairs(&task.meta),
            accelerators: host.accelerators.iter().copied().map(Into::into).collect(),
            allowed: rules.ports.iter().map(range).collect(),
        }
    }

    /// Gives the request with a policy's settings.
    fn with<'b>(&'b self, settings: &'b str) -> wit::Request<'b> {
        wit::Request { task: self.task(), host: self.host(), settings, extensions: &self.time }
    }

    fn task(&self) -> wit::Task<'_> {
        let task = &self.of.task;
        wit::Task {
            tenant: &task.tenant,
            job: &task.job,
            name: &task.name,
            image: wit::Image { source: task.image.source.as_str(), sha256: self.sha256 },
            resources: task.asked.resources.into(),
            accelerator: task.asked.accelerator.map(Into::into),
            ports: &self.ports,
            egress: task.asked.egress.into(),
            args: &self.args,
            meta: &self.meta,
            extensions: &self.extensions,
        }
    }

    fn host(&self) -> wit::HostFacts<'_> {
        let host = &self.of.host;
        let TenantUsage { vms, resources, ports } = host.tenant_usage;
        wit::HostFacts {
            name: &host.name,
            qemu_version: &host.qemu_version,
            accelerators: &self.accelerators,
            resources: host.resources.into(),
            free: host.free.into(),
            ports: &self.allowed,
            ports_in_use: &host.ports_in_use,
            tenant_usage: wit::Usage { vms, resources: resources.into(), ports },
            extensions: &[],
        }
    }
}

/// Texts of a launch that the contract has as text and qhost keeps in another type.
pub(super) struct LaunchTexts {
    binds: Vec<Cow<'static, str>>,
    disk_bytes: Option<String>,
}

impl LaunchTexts {
    pub(super) fn of(launch: &Launch) -> Self {
        Self {
            binds: launch.ports.iter().map(|port| address(port.bind)).collect(),
            disk_bytes: launch.disk_bytes.map(|bytes| bytes.to_string()),
        }
    }
}

/// A launch in the contract's form.
pub(super) struct LaunchView<'a> {
    of: &'a Launch,
    ports: Vec<wit::PortMapParam<'a>>,
    warnings: Vec<&'a str>,
    extensions: Vec<(&'a str, &'a str)>,
}

impl<'a> LaunchView<'a> {
    pub(super) fn of(of: &'a Launch, texts: &'a LaunchTexts) -> Self {
        let disk_bytes = texts.disk_bytes.as_deref().map(|text| (disk_bytes::EXTENSION, text));
        let mut extensions = pairs(of.extensions.iter().map(|(key, value)| (key, value)));
        extensions.extend(disk_bytes);
        Self {
            of,
            ports: of.ports.iter().zip(&texts.binds).map(lent_port).collect(),
            warnings: of.warnings.iter().map(String::as_str).collect(),
            extensions,
        }
    }

    fn param(&self) -> wit::LaunchParam<'_> {
        wit::LaunchParam {
            accelerator: self.of.accelerator.into(),
            ports: &self.ports,
            resources: self.of.resources.into(),
            egress: self.of.egress.into(),
            warnings: &self.warnings,
            extensions: &self.extensions,
        }
    }
}

fn lent_port<'a>((port, bind): (&'a PortMap, &'a Cow<'_, str>)) -> wit::PortMapParam<'a> {
    wit::PortMapParam {
        label: &port.label,
        guest: port.guest,
        host: port.host,
        bind,
        protocol: port.protocol.into(),
    }
}

pub(super) fn launch_in(
    mut launch: GivenLaunch,
    shown: &Launch,
    breaches: &mut ContractBreaches,
) -> Result<Launch, Fault> {
    few("ports", launch.ports.len())?;
    few("warnings", launch.warnings.len())?;
    breaches.warnings(&launch.warnings);
    let accelerator = match launch.accelerator {
        wit::AcceleratorResult::Tcg => Accelerator::Tcg,
        wit::AcceleratorResult::Kvm => Accelerator::Kvm,
        wit::AcceleratorResult::Other(name) => return Err(unknown("accelerator", &name)),
    };
    let egress = match launch.egress {
        wit::EgressResult::Isolated => Egress::Isolated,
        wit::EgressResult::Internet => Egress::Internet,
        wit::EgressResult::Other(name) => return Err(unknown("egress", &name)),
    };
    answer::extensions(&launch.extensions)?;
    let disk_bytes = taken(&mut launch.extensions, disk_bytes::EXTENSION)?;
    Ok(Launch {
        accelerator,
        ports: launch.ports.into_iter().map(port_in).collect::<Result<_, _>>()?,
        resources: Resources {
            cpus: launch.resources.cpus,
            memory_mib: launch.resources.memory_mib,
        },
        egress,
        disk_bytes,
        warnings: launch.warnings.iter().map(|warning| answer::text(warning)).collect(),
        extensions: launch.extensions,
        ..shown.clone()
    })
}

/// Takes out of the extensions a number for which the contract has no field.
fn taken(extensions: &mut Vec<(String, String)>, key: &str) -> Result<Option<u64>, Fault> {
    let (mut found, rest): (Vec<_>, Vec<_>) =
        std::mem::take(extensions).into_iter().partition(|(name, _)| name == key);
    *extensions = rest;
    let Some((_, value)) = found.pop() else { return Ok(None) };
    match value.parse::<u64>() {
        // A policy that hands back what it was shown has this spelling; another one would come back changed.
        Ok(number) if number.to_string() == value && found.is_empty() => Ok(Some(number)),
        Ok(_) | Err(_) => {
            let shown = printable::line(&value, qhost_model::limits::SHOWN_CHARS).to_string();
            Err(nonsense(format!(
                "the extension {key} {shown:?} is not one number in decimal digits"
            )))
        }
    }
}

fn port_in(port: wit::PortMapResult) -> Result<PortMap, Fault> {
    let protocol = match port.protocol {
        wit::ProtocolResult::Tcp => Protocol::Tcp,
        wit::ProtocolResult::Udp => Protocol::Udp,
        wit::ProtocolResult::Other(name) => return Err(unknown("protocol", &name)),
    };
    let bind = answer::bind(&port.bind)?;
    Ok(PortMap { label: word(&port.label), guest: port.guest, host: port.host, bind, protocol })
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

/// The interface has types only, and the bindings still want it implemented.
impl wit::Host for HostState {}

impl log::Host for HostState {
    fn log(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.note(level, &message);
    }
}
