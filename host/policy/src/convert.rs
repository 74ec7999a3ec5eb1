//! Between the contract's types and qhost's own. What comes from a policy is checked here: lengths, names, addresses.

use std::{borrow::Cow, net::Ipv4Addr};

use qhost_model::{
    host_facts::{Accelerator, Resources, TenantUsage},
    job::Checksum,
    launch::{Egress, Launch, PortMap, PortRange, PortRequest, Protocol, Violation, disk_bytes},
    printable,
};

use super::{Request, bindings::qhost::policy::types as wit, error::Fault};
use crate::limits;

/// What the contract has as text, and qhost has not.
pub(super) struct Texts {
    sha256: String,
    sha512: Option<String>,
    disk_bytes: Option<String>,
    time: String,
}

impl Texts {
    pub(super) fn of(Request { task, time, .. }: &Request) -> Self {
        Self {
            time: format!("{time:.0}"),
            // The contract has no image without a SHA-256. No file has this one, so that no list of allowed images has it.
            sha256: task.image.checksum.pin().map_or("0".repeat(64), |sha256| sha256.to_string()),
            sha512: match &task.image.checksum {
                Checksum::Sha512 { sha512 } => Some(sha512.to_string()),
                Checksum::List { .. } | Checksum::Image { .. } => None,
            },
            disk_bytes: task.asked.disk_bytes.map(|bytes| bytes.to_string()),
        }
    }
}

/// A request in the contract's form. Texts and lists are lent to the sandbox from where they are; what has another form
/// there is kept here.
pub(super) struct RequestView<'a> {
    of: &'a Request,
    sha256: &'a str,
    extensions: Vec<(&'a str, &'a str)>,
    /// Of the request itself: when it is decided.
    time: [(&'a str, &'a str); 1],
    ports: Vec<wit::PortRequest<'a>>,
    args: Vec<&'a str>,
    meta: Vec<(&'a str, &'a str)>,
    accelerators: Vec<wit::AcceleratorParam<'a>>,
    allowed: Vec<wit::PortRange>,
}

impl<'a> RequestView<'a> {
    pub(super) fn of(of: &'a Request, texts: &'a Texts) -> Self {
        let Request { task, host, rules, time: _ } = of;
        let port = |port: &'a PortRequest| wit::PortRequest {
            label: &port.label,
            guest: port.guest,
            host: port.host,
            protocol: port.protocol.into(),
        };
        let range = |range: &PortRange| wit::PortRange { first: range.first(), last: range.last() };
        let sums = task.image.checksum.sums().map(|sums| ("image.sums", sums.as_str()));
        let sha512 = texts.sha512.as_deref().map(|text| ("image.sha512", text));
        let persist = task.persist.then_some(("persist", "true"));
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

    /// The request as every policy is shown it, but for the settings, which are each one's own.
    pub(super) fn request(&self) -> wit::Request<'_> {
        wit::Request { task: self.task(), host: self.host(), settings: "", extensions: &self.time }
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

fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<(&'a str, &'a str)> {
    pairs.into_iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Lends a launch in the contract's form to the call that hands it to a sandbox.
pub(super) fn lend<R>(launch: &Launch, to: impl FnOnce(&wit::LaunchParam<'_>) -> R) -> R {
    let binds: Vec<_> = launch.ports.iter().map(|port| address(port.bind)).collect();
    let ports: Vec<_> = launch.ports.iter().zip(&binds).map(lent_port).collect();
    let warnings: Vec<_> = launch.warnings.iter().map(String::as_str).collect();
    let disk_bytes = launch.disk_bytes.map(|bytes| bytes.to_string());
    let disk_bytes = disk_bytes.as_deref().map(|text| (disk_bytes::EXTENSION, text));
    let mut extensions = pairs(launch.extensions.iter().map(|(key, value)| (key, value)));
    extensions.extend(disk_bytes);
    to(&wit::LaunchParam {
        accelerator: launch.accelerator.into(),
        ports: &ports,
        resources: launch.resources.into(),
        egress: launch.egress.into(),
        warnings: &warnings,
        extensions: &extensions,
    })
}

/// Nearly every bind is this one, and a decision is made in microseconds.
fn address(bind: Ipv4Addr) -> Cow<'static, str> {
    match bind {
        Ipv4Addr::LOCALHOST => "127.0.0.1".into(),
        other => other.to_string().into(),
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

/// What of an answer the contract does not allow, where the answer can be used all the same: texts that are empty, or are cut.
#[derive(Default)]
pub(super) struct ContractBreaches(pub(super) Vec<String>);

impl ContractBreaches {
    /// A text that must not be longer than so many bytes.
    fn cut(&mut self, what: &str, text: &str, most: usize) {
        if text.len() > most {
            self.0.push(format!("{what} has {} bytes, and the contract allows {most}", text.len()));
        } else if printable::line(text, most).to_string().ends_with('…') && !text.ends_with('…')
        {
            self.0.push(format!(
                "{what} is longer than {most} once its control characters are escaped"
            ));
        }
    }

    fn empty(&mut self, what: &str, text: &str) {
        if text.trim().is_empty() {
            self.0.push(format!("{what} is empty"));
        }
    }

    fn violation(&mut self, violation: &wit::Violation) {
        let wit::Violation { code, field, message, hint, extensions: _ } = violation;
        let most = limits::POLICY_TEXT_BYTES;
        self.empty("the code of a violation", code);
        self.cut("the field of a violation", field, qhost_model::limits::POLICY_NAME_BYTES);
        self.empty("the message of a violation", message);
        self.cut("the message of a violation", message, most);
        self.cut("the hint of a violation", hint.as_deref().unwrap_or_default(), most);
    }
}

pub(super) fn launch_in(
    mut launch: wit::LaunchResult,
    contract_breaches: &mut ContractBreaches,
) -> Result<Launch, Fault> {
    few("ports", launch.ports.len())?;
    few("warnings", launch.warnings.len())?;
    few("extensions", launch.extensions.len())?;
    for warning in &launch.warnings {
        contract_breaches.cut("a warning", warning, limits::POLICY_TEXT_BYTES);
    }
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
    let texts = launch.extensions.iter().flat_map(|(key, value)| [key, value]);
    if let Some(text) = texts.into_iter().find(|text| text.len() > limits::POLICY_TEXT_BYTES) {
        return Err(nonsense(format!("an extension of {} bytes", text.len())));
    }
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
        warnings: launch.warnings.iter().map(|warning| text(warning)).collect(),
        extensions: launch.extensions,
    })
}

/// Takes a field that the contract has no member for out of the extensions.
fn taken(extensions: &mut Vec<(String, String)>, key: &str) -> Result<Option<u64>, Fault> {
    let (mut found, rest): (Vec<_>, Vec<_>) =
        std::mem::take(extensions).into_iter().partition(|(name, _)| name == key);
    *extensions = rest;
    let Some((_, value)) = found.pop() else { return Ok(None) };
    match value.parse::<u64>() {
        // Another spelling of the number would come back changed.
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
    let bind = port.bind.parse().map_err(|_: std::net::AddrParseError| {
        nonsense(format!(
            "the bind {:?} is no IPv4 address",
            printable::line(&port.bind, qhost_model::limits::SHOWN_CHARS).to_string()
        ))
    })?;
    let protocol = match port.protocol {
        wit::ProtocolResult::Tcp => Protocol::Tcp,
        wit::ProtocolResult::Udp => Protocol::Udp,
        wit::ProtocolResult::Other(name) => return Err(unknown("protocol", &name)),
    };
    Ok(PortMap { label: word(&port.label), guest: port.guest, host: port.host, bind, protocol })
}

pub(super) fn violations_in(
    violations: Vec<wit::Violation>,
    contract_breaches: &mut ContractBreaches,
) -> Result<Vec<Violation>, Fault> {
    few("violations", violations.len())?;
    violations.iter().for_each(|violation| contract_breaches.violation(violation));
    let one = |violation: wit::Violation| {
        Ok(Violation {
            code: name("code of a violation", &violation.code)?,
            field: printable::line(&violation.field, qhost_model::limits::POLICY_NAME_BYTES)
                .to_string(),
            message: text(&violation.message),
            hint: violation.hint.as_deref().map(text),
        })
    };
    violations.into_iter().map(one).collect()
}

/// A name, version or code of a policy's making, of the contract's length: cut, two could be taken for the same. On its line it looks like
/// nothing else that stands there.
pub(super) fn name(what: &str, name: &str) -> Result<String, Fault> {
    let (count, most) = (name.chars().count(), qhost_model::limits::POLICY_NAME_BYTES);
    if count > most {
        return Err(nonsense(format!("a {what} of {count} characters, more than {most}")));
    }
    Ok(printable::word(name, usize::MAX))
}

/// A word of a policy's making, of whatever length.
fn word(text: &str) -> String {
    printable::word(text, qhost_model::limits::POLICY_NAME_BYTES)
}

/// A sentence of a policy's making: escaped, and cut where it is too long.
pub(super) fn text(text: &str) -> String {
    printable::line(text, limits::POLICY_TEXT_BYTES).to_string()
}

fn few(what: &str, count: usize) -> Result<(), Fault> {
    if count <= limits::POLICY_LIST {
        Ok(())
    } else {
        Err(nonsense(format!("{count} {what}, more than {}", limits::POLICY_LIST)))
    }
}

fn unknown(what: &str, found: &str) -> Fault {
    nonsense(format!("the {what} {:?} is not one that this host knows", word(found)))
}

fn nonsense(what: String) -> Fault {
    Fault::Nonsense(what)
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
