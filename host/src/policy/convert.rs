//! Between the contract's types and qhost's own. What comes from a policy is checked here: lengths, names, addresses.

use super::{
    HostFacts, Launch, PortMap, Request, Rules, Usage, Violation,
    bindings::qhost::policy::types as wit, error::Fault,
};
use crate::{
    job::{Accelerator, Egress, Protocol, Resources, Task},
    limits, printable,
};

/// The request as every policy is shown it, but for the settings, which are each one's own.
pub(super) fn request(request: &Request) -> wit::Request {
    wit::Request {
        task: task(&request.task),
        host: host(&request.host, &request.rules),
        settings: String::new(),
        extensions: vec![],
    }
}

fn task(task: &Task) -> wit::Task {
    let port = |port: &crate::job::PortRequest| wit::PortRequest {
        label: port.label.clone(),
        guest: port.guest,
        host: port.host,
        protocol: port.protocol.into(),
    };
    wit::Task {
        tenant: task.tenant.clone(),
        job: task.job.clone(),
        name: task.name.clone(),
        image: wit::Image {
            source: task.image.source.to_string(),
            sha256: task.image.sha256.to_string(),
        },
        resources: task.resources.into(),
        accelerator: task.accelerator.map(Into::into),
        ports: task.ports.iter().map(port).collect(),
        egress: task.egress.into(),
        args: task.args.clone(),
        meta: task.meta.clone().into_iter().collect(),
        extensions: vec![],
    }
}

fn host(host: &HostFacts, rules: &Rules) -> wit::HostFacts {
    let range =
        |range: &super::PortRange| wit::PortRange { first: range.first(), last: range.last() };
    let Usage { vms, resources, ports } = host.tenant_usage;
    wit::HostFacts {
        name: host.name.clone(),
        qemu_version: host.qemu_version.clone(),
        accelerators: host.accelerators.iter().copied().map(Into::into).collect(),
        resources: host.resources.into(),
        free: host.free.into(),
        ports: rules.ports.iter().map(range).collect(),
        ports_in_use: host.ports_in_use.clone(),
        tenant_usage: wit::Usage { vms, resources: resources.into(), ports },
        extensions: vec![],
    }
}

pub(super) fn launch_out(launch: &Launch) -> wit::Launch {
    let port = |port: &PortMap| wit::PortMap {
        label: port.label.clone(),
        guest: port.guest,
        host: port.host,
        bind: port.bind.to_string(),
        protocol: port.protocol.into(),
    };
    wit::Launch {
        accelerator: launch.accelerator.into(),
        ports: launch.ports.iter().map(port).collect(),
        resources: launch.resources.into(),
        egress: launch.egress.into(),
        warnings: launch.warnings.clone(),
        extensions: launch.extensions.clone(),
    }
}

pub(super) fn launch_in(launch: wit::Launch) -> Result<Launch, Fault> {
    few("ports", launch.ports.len())?;
    few("warnings", launch.warnings.len())?;
    few("extensions", launch.extensions.len())?;
    let accelerator = match launch.accelerator {
        wit::Accelerator::Tcg => Accelerator::Tcg,
        wit::Accelerator::Kvm => Accelerator::Kvm,
        wit::Accelerator::Other(name) => return Err(unknown("accelerator", &name)),
    };
    let egress = match launch.egress {
        wit::Egress::Isolated => Egress::Isolated,
        wit::Egress::Internet => Egress::Internet,
        wit::Egress::Other(name) => return Err(unknown("egress", &name)),
    };
    let texts = launch.extensions.iter().flat_map(|(key, value)| [key, value]);
    if let Some(text) = texts.into_iter().find(|text| text.len() > limits::POLICY_TEXT_BYTES) {
        return Err(nonsense(format!("an extension of {} bytes", text.len())));
    }
    Ok(Launch {
        accelerator,
        ports: launch.ports.into_iter().map(port_in).collect::<Result<_, _>>()?,
        resources: Resources {
            cpus: launch.resources.cpus,
            memory_mib: launch.resources.memory_mib,
        },
        egress,
        warnings: launch.warnings.iter().map(|warning| text(warning)).collect(),
        extensions: launch.extensions,
    })
}

fn port_in(port: wit::PortMap) -> Result<PortMap, Fault> {
    let bind = port.bind.parse().map_err(|_: std::net::AddrParseError| {
        nonsense(format!(
            "the bind {:?} is no IPv4 address",
            printable::line(&port.bind, limits::SHOWN_CHARS).to_string()
        ))
    })?;
    let protocol = match port.protocol {
        wit::Protocol::Tcp => Protocol::Tcp,
        wit::Protocol::Udp => Protocol::Udp,
        wit::Protocol::Other(name) => return Err(unknown("protocol", &name)),
    };
    Ok(PortMap { label: name(&port.label), guest: port.guest, host: port.host, bind, protocol })
}

pub(super) fn violations_in(violations: Vec<wit::Violation>) -> Result<Vec<Violation>, Fault> {
    few("violations", violations.len())?;
    let one = |violation: wit::Violation| Violation {
        code: name(&violation.code),
        field: name(&violation.field),
        message: text(&violation.message),
        hint: violation.hint.as_deref().map(text),
    };
    Ok(violations.into_iter().map(one).collect())
}

/// A name of a policy's making: escaped, and cut where it is too long.
pub(super) fn name(text: &str) -> String {
    printable::line(text, limits::POLICY_NAME_BYTES).to_string()
}

/// A sentence of a policy's making: escaped, and cut where it is too long.
pub(super) fn text(text: &str) -> String {
    printable::line(text, limits::POLICY_TEXT_BYTES).to_string()
}

fn few(what: &str, count: usize) -> Result<(), Fault> {
    match count <= limits::POLICY_LIST {
        true => Ok(()),
        false => Err(nonsense(format!("{count} {what}, more than {}", limits::POLICY_LIST))),
    }
}

fn unknown(what: &str, found: &str) -> Fault {
    nonsense(format!("the {what} {:?} is not one that this host knows", name(found)))
}

fn nonsense(what: String) -> Fault {
    Fault::Nonsense(what)
}

impl From<Resources> for wit::Resources {
    fn from(resources: Resources) -> Self {
        Self { cpus: resources.cpus, memory_mib: resources.memory_mib }
    }
}

impl From<Accelerator> for wit::Accelerator {
    fn from(accelerator: Accelerator) -> Self {
        match accelerator {
            Accelerator::Tcg => Self::Tcg,
            Accelerator::Kvm => Self::Kvm,
        }
    }
}

impl From<Protocol> for wit::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<Egress> for wit::Egress {
    fn from(egress: Egress) -> Self {
        match egress {
            Egress::Isolated => Self::Isolated,
            Egress::Internet => Self::Internet,
        }
    }
}
