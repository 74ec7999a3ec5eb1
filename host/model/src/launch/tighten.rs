//! A tenant's own policies come after the host's and can only tighten: this compares the launch that the host's chain
//! chose with one that a tenant's policy chose, field by field. Pure.

use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::Value;

use super::{Change, Launch, PortMap};
use crate::job::{Egress, Resources};

/// The first field that is wider than the host's chain allowed.
pub fn widened(host: &Launch, tenant: &Launch) -> Option<Change> {
    let wider = |field: &str, is: bool, from: Value, to: Value| {
        is.then(|| Change { field: field.into(), from, to })
    };
    // Whole, so that a new field does not compile until it is decided here what is wider of it.
    let Launch { accelerator, ports, resources, egress, warnings, extensions } = tenant;
    let Resources { cpus, memory_mib } = *resources;
    let fields = [
        wider(
            "accelerator",
            // Each has its own surface and its own speed: neither is the tighter one.
            host.accelerator != *accelerator,
            json(host.accelerator),
            json(accelerator),
        ),
        wider("resources.cpus", cpus > host.resources.cpus, json(host.resources.cpus), json(cpus)),
        wider(
            "resources.memory_mib",
            memory_mib > host.resources.memory_mib,
            json(host.resources.memory_mib),
            json(memory_mib),
        ),
        wider(
            "egress",
            (host.egress, *egress) == (Egress::Isolated, Egress::Internet),
            json(host.egress),
            json(egress),
        ),
        wider(
            "warnings",
            // What the host's policies had to say may be added to, not silenced.
            !warnings.starts_with(&host.warnings),
            json(&host.warnings),
            json(warnings),
        ),
        wider(
            "extensions",
            host.extensions != *extensions,
            json(&host.extensions),
            json(extensions),
        ),
    ];
    fields.into_iter().flatten().next().or_else(|| self::ports(&host.ports, ports))
}

/// Ports may be dropped; one that the host is to pick may be pinned; one for every address may be bound to one.
fn ports(host: &[PortMap], tenant: &[PortMap]) -> Option<Change> {
    let mut unused: Vec<&PortMap> = host.iter().collect();
    for port in tenant {
        let field = |name: &str| format!("ports.{}{name}", port.label);
        let Some(index) = unused.iter().position(|from| from.label == port.label) else {
            return Some(Change { field: field(""), from: Value::Null, to: json(port) });
        };
        let from = unused.swap_remove(index);
        let rebound = port.bind != from.bind && from.bind != Ipv4Addr::UNSPECIFIED;
        let moved = from.host.is_some() && port.host != from.host;
        let fields = [
            (".guest", port.guest != from.guest, json(from.guest), json(port.guest)),
            (".protocol", port.protocol != from.protocol, json(from.protocol), json(port.protocol)),
            (".host", moved, json(from.host), json(port.host)),
            (".bind", rebound, json(from.bind), json(port.bind)),
        ];
        if let Some((name, _, from, to)) = fields.into_iter().find(|(_, wider, _, _)| *wider) {
            return Some(Change { field: field(name), from, to });
        }
    }
    None
}

/// Plain data, which JSON can always hold.
fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Accelerator, Protocol};

    fn port(label: &str, host: Option<u16>, bind: [u8; 4]) -> PortMap {
        let (guest, bind) = (80, bind.into());
        PortMap { label: label.into(), guest, host, bind, protocol: Protocol::Tcp }
    }

    fn hosts() -> Launch {
        Launch {
            accelerator: Accelerator::Tcg,
            ports: vec![port("any", None, [0; 4]), port("pinned", Some(2000), [127, 0, 0, 1])],
            resources: Resources { cpus: 2, memory_mib: 512 },
            egress: Egress::Isolated,
            warnings: vec!["slow".into()],
            extensions: vec![("key".into(), "value".into())],
        }
    }

    /// What a tenant's policy does to the host's launch, and the field that is wider by it.
    type Row = (fn(&mut Launch), Option<&'static str>);

    #[test]
    fn each_field_may_be_tightened_and_not_widened() {
        let rows: [Row; 22] = [
            (|_| {}, None),
            (|launch| launch.accelerator = Accelerator::Kvm, Some("accelerator")),
            (|launch| launch.resources.cpus = 1, None),
            (|launch| launch.resources.cpus = 3, Some("resources.cpus")),
            (|launch| launch.resources.memory_mib = 511, None),
            (|launch| launch.resources.memory_mib = 513, Some("resources.memory_mib")),
            (|launch| launch.egress = Egress::Internet, Some("egress")),
            (|launch| launch.warnings.push("more".into()), None),
            (|launch| launch.warnings.clear(), Some("warnings")),
            (|launch| launch.warnings.insert(0, "first".into()), Some("warnings")),
            (|launch| launch.extensions.clear(), Some("extensions")),
            (|launch| launch.extensions.push(("more".into(), String::new())), Some("extensions")),
            (|launch| launch.ports.clear(), None),
            (|launch| launch.ports.push(port("new", None, [127, 0, 0, 1])), Some("ports.new")),
            (|launch| launch.ports.push(launch.ports[1].clone()), Some("ports.pinned")),
            (|launch| launch.ports[0].host = Some(3000), None),
            (|launch| launch.ports[1].host = Some(3000), Some("ports.pinned.host")),
            (|launch| launch.ports[1].host = None, Some("ports.pinned.host")),
            (|launch| launch.ports[0].bind = [127, 0, 0, 1].into(), None),
            (|launch| launch.ports[1].bind = [0; 4].into(), Some("ports.pinned.bind")),
            (|launch| launch.ports[0].guest = 81, Some("ports.any.guest")),
            (|launch| launch.ports[0].protocol = Protocol::Udp, Some("ports.any.protocol")),
        ];
        for (number, (change, wider)) in rows.into_iter().enumerate() {
            let mut tenants = hosts();
            change(&mut tenants);
            let found = widened(&hosts(), &tenants).map(|change| change.field);
            assert_eq!(found.as_deref(), wider, "row {number}");
        }
    }

    #[test]
    fn a_wider_egress_of_the_hosts_may_be_narrowed() {
        let host = Launch { egress: Egress::Internet, ..hosts() };
        assert_eq!(widened(&host, &hosts()), None);
    }
}
