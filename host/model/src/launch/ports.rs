//! The forwarded ports.

pub(crate) mod keys;

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Change, Findings, PortRange, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{
    host_facts::HostFacts,
    job::block::{Form, TaskBlock},
    named::named,
    quota::Usage,
    secrets::Secrets,
};

/// A port that a task asks to have forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// The port's name, unique within the task: letters, digits, `-` and `_`.
    pub label: String,
    /// The port in the guest.
    pub guest: u16,
    /// The port wanted on the host; absent for any.
    pub host: Option<u16>,
    /// The host address wanted; absent for 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Ipv4Addr>,
    /// The transport.
    pub protocol: Protocol,
}

/// A port that will be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// The request's label.
    pub label: String,
    /// The port in the guest.
    pub guest: u16,
    /// The port on the host; absent where the host picks one.
    pub host: Option<u16>,
    /// The host address to listen on.
    pub bind: Ipv4Addr,
    /// The transport.
    pub protocol: Protocol,
}

/// The transport of a forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}
named!(Protocol, Tcp = "tcp", Udp = "udp");

/// The field for the forwarded ports.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Vec<PortRequest>;
    type Value = Vec<PortMap>;

    const NAME: &'static str = "ports";
    const CONTRACT: &'static str = "`ports`";
    const TIGHTER: &'static str =
        "drop some, pin one that the host is to pick, bind one for every address to one address";

    fn default_for(asked: &Vec<PortRequest>) -> Vec<PortMap> {
        let map = |port: &PortRequest| PortMap {
            label: port.label.clone(),
            guest: port.guest,
            host: port.host,
            bind: port.bind.unwrap_or(Ipv4Addr::LOCALHOST),
            protocol: port.protocol,
        };
        asked.iter().map(map).collect()
    }

    fn compare(before: &Vec<PortMap>, after: &Vec<PortMap>, changes: &mut Changes) {
        if labels_differ(before) && labels_differ(after) {
            compare_by_label(before, after, changes);
        } else {
            changes.note(Self::NAME, before, after);
        }
    }

    fn widened(host: &Vec<PortMap>, tenant: &Vec<PortMap>) -> Option<Change> {
        let mut unused: Vec<&PortMap> = host.iter().collect();
        for port in tenant {
            let field = |name: &str| format!("ports.{}{name}", port.label);
            let Some(index) = unused.iter().position(|from| from.label == port.label) else {
                return Some(Change::new(field(""), &None::<PortMap>, port));
            };
            let from = unused.swap_remove(index);
            if port.guest != from.guest {
                return Some(Change::new(field(".guest"), &from.guest, &port.guest));
            }
            if port.protocol != from.protocol {
                return Some(Change::new(field(".protocol"), &from.protocol, &port.protocol));
            }
            if from.host.is_some() && port.host != from.host {
                return Some(Change::new(field(".host"), &from.host, &port.host));
            }
            if port.bind != from.bind && from.bind != Ipv4Addr::UNSPECIFIED {
                return Some(Change::new(field(".bind"), &from.bind, &port.bind));
            }
        }
        None
    }

    fn check(
        asked: &Vec<PortRequest>,
        ports: &Vec<PortMap>,
        rules: &Rules,
        _: &HostFacts,
        findings: &mut Findings,
    ) {
        for (index, port) in ports.iter().enumerate() {
            let earlier = ports.get(..index).unwrap_or_default();
            if !is_asked(asked, port) || earlier.iter().any(|earlier| collide(earlier, port)) {
                findings.refused.push(not_requested(port));
            }
            check_host_side(port, rules, findings);
        }
    }

    // A label of the task's own is never among its secrets, so that this leaves it as it is.
    fn mask(ports: &mut Vec<PortMap>, secrets: &Secrets) {
        ports.iter_mut().for_each(|port| secrets.clean(&mut port.label));
    }

    fn add_to(ports: &Vec<PortMap>, usage: &mut Usage) {
        usage.ports += ports.len() as u64;
    }

    fn shown(_: &Vec<PortMap>) -> Option<String> {
        None
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[
        Key {
            place: Place::Config,
            name: "host_port",
            required: false,
            schema: || {
                json!({
                    "description": "The host port that is forwarded to the one port in guest_ports.",
                    "anyOf": [{ "$ref": "#/$defs/port" }, { "type": "null" }]
                })
            },
        },
        Key {
            place: Place::Config,
            name: "guest_ports",
            required: false,
            schema: || {
                json!({
                    "description": "Guest ports: one, with host_port; or as many as a Nomad task has reserved ports, in order.",
                    "anyOf": [
                        { "type": "array", "maxItems": 64, "items": { "$ref": "#/$defs/port" } },
                        { "type": "null" }
                    ]
                })
            },
        },
        Key {
            place: Place::Config,
            name: "port_map",
            required: false,
            schema: || {
                json!({
                    "description": "Guest ports by label, or objects with guest and protocol, tcp unless it is udp. In qhost's own form the host picks host ports that are not given, and bind is the host's address, 127.0.0.1 unless given."
                })
            },
        },
        Key { place: Place::OwnConfig, name: "port_map", required: false, schema: own_port_map },
    ];

    fn read(task: &TaskBlock<'_>) -> Option<Vec<PortRequest>> {
        let config = task.config.as_ref()?;
        match task.form {
            Form::Own => keys::read(config, None),
            Form::Nomad => keys::read(config, Some(task.declared.as_ref()?)),
        }
    }

    fn asking_for(value: &Vec<PortMap>) -> Vec<PortRequest> {
        let request = |port: &PortMap| PortRequest {
            label: port.label.clone(),
            guest: port.guest,
            host: port.host,
            bind: Some(port.bind).filter(|bind| *bind != Ipv4Addr::LOCALHOST),
            protocol: port.protocol,
        };
        value.iter().map(request).collect()
    }
}

fn own_port_map() -> serde_json::Value {
    json!({
        "anyOf": [
            {
                "type": "object",
                "maxProperties": 64,
                "propertyNames": { "$ref": "#/$defs/label" },
                "additionalProperties": {
                    "anyOf": [
                        { "$ref": "#/$defs/port" },
                        {
                            "type": "object",
                            "required": ["guest"],
                            "additionalProperties": false,
                            "properties": {
                                "guest": { "$ref": "#/$defs/port" },
                                "host": { "anyOf": [{ "$ref": "#/$defs/port" }, { "type": "null" }] },
                                "bind": { "type": ["string", "null"], "format": "ipv4" },
                                "protocol": { "enum": ["tcp", "udp", null] }
                            }
                        }
                    ]
                }
            },
            { "type": "null" }
        ]
    })
}

/// Whether no two ports have the same label.
fn labels_differ(ports: &[PortMap]) -> bool {
    let twice = |(index, port): (usize, &PortMap)| {
        ports.iter().take(index).any(|earlier| earlier.label == port.label)
    };
    !ports.iter().enumerate().any(twice)
}

fn compare_by_label(before: &[PortMap], after: &[PortMap], changes: &mut Changes) {
    for old in before {
        let PortMap { label, guest, host, bind, protocol } = old;
        let Some(new) = after.iter().find(|new| new.label == *label) else {
            changes.note(format_args!("ports.{label}"), &Some(old), &None);
            continue;
        };
        changes.note(format_args!("ports.{label}.guest"), guest, &new.guest);
        changes.note(format_args!("ports.{label}.host"), host, &new.host);
        changes.note(format_args!("ports.{label}.bind"), bind, &new.bind);
        changes.note(format_args!("ports.{label}.protocol"), protocol, &new.protocol);
    }
    for new in after.iter().filter(|new| !before.iter().any(|old| old.label == new.label)) {
        changes.note(format_args!("ports.{}", new.label), &None, &Some(new));
    }
}

fn is_asked(asked: &[PortRequest], port: &PortMap) -> bool {
    asked.iter().any(|asked| {
        (&asked.label, asked.guest, asked.protocol) == (&port.label, port.guest, port.protocol)
    })
}

/// Whether two ports have the same label, or the same port of the host.
fn collide(one: &PortMap, other: &PortMap) -> bool {
    let same_port =
        other.host.is_some() && (one.host, one.protocol) == (other.host, other.protocol);
    one.label == other.label || (same_port && overlap(one.bind, other.bind))
}

/// Whether two listeners on the same port would be in each other's way; at different addresses of the host, the same port can
/// be two guests'.
pub(crate) fn overlap(one: Ipv4Addr, other: Ipv4Addr) -> bool {
    one == other || one.is_unspecified() || other.is_unspecified()
}

fn not_requested(port: &PortMap) -> super::Violation {
    violation(
        "port-not-requested",
        format!("ports.{}", port.label),
        format!("{} to guest port {} is not what the task asked for, once", port.label, port.guest),
        "a policy may drop requested ports and choose their host side, nothing else".into(),
    )
}

fn check_host_side(port: &PortMap, rules: &Rules, findings: &mut Findings) {
    let is_allowed = |host: u16| rules.ports.iter().any(|range| range.contains(host));
    if let Some(host) = port.host.filter(|host| !is_allowed(*host)) {
        let ranges: Vec<_> = rules.ports.iter().map(PortRange::to_string).collect();
        findings.refused.push(violation(
            "port-not-allowed",
            format!("ports.{}.host", port.label),
            format!("host port {host} is not one that tasks may use"),
            format!("allowed here: {}", ranges.join(", ")),
        ));
    }
    if !rules.binds.contains(&port.bind) {
        let binds: Vec<_> = rules.binds.iter().map(Ipv4Addr::to_string).collect();
        findings.refused.push(violation(
            "bind-not-allowed",
            format!("ports.{}.bind", port.label),
            format!("{} is not an address that tasks may listen on", port.bind),
            format!("allowed here: {}", binds.join(", ")),
        ));
    }
}
