//! A tenant's own policies come after the host's and can only tighten: this compares the launch that the host's chain
//! chose with one that a tenant's policy chose, field by field. Pure.

use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::Value;

use super::{Change, Launch, PortMap};
use crate::job::Egress;

/// The first field that is wider than the host's chain allowed.
pub fn widened(host: &Launch, tenant: &Launch) -> Option<Change> {
    let wider = |field: &str, is: bool, from: Value, to: Value| {
        is.then(|| Change { field: field.into(), from, to })
    };
    let (before, after) = (host.resources, tenant.resources);
    let fields = [
        wider(
            "accelerator",
            // Each has its own surface and its own speed: neither is the tighter one.
            host.accelerator != tenant.accelerator,
            json(host.accelerator),
            json(tenant.accelerator),
        ),
        wider("resources.cpus", after.cpus > before.cpus, json(before.cpus), json(after.cpus)),
        wider(
            "resources.memory_mib",
            after.memory_mib > before.memory_mib,
            json(before.memory_mib),
            json(after.memory_mib),
        ),
        wider(
            "egress",
            (host.egress, tenant.egress) == (Egress::Isolated, Egress::Internet),
            json(host.egress),
            json(tenant.egress),
        ),
        wider(
            "warnings",
            // What the host's policies had to say may be added to, not silenced.
            !tenant.warnings.starts_with(&host.warnings),
            json(&host.warnings),
            json(&tenant.warnings),
        ),
        wider(
            "extensions",
            host.extensions != tenant.extensions,
            json(&host.extensions),
            json(&tenant.extensions),
        ),
    ];
    fields.into_iter().flatten().next().or_else(|| ports(&host.ports, &tenant.ports))
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
