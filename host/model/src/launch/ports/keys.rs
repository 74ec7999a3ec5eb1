//! Reads the several ways of asking for ports into one list:
//!
//! - `guest_ports` with one port, and `host_port`;
//! - `guest_ports`, matched in order with the reserved ports of a Nomad task's network;
//! - `port_map`, from a label to a guest port: in qhost's own form also to `{guest, host, bind, protocol}`, in Nomad's form
//!   for labels that a network of the task or its group declares;
//! - nothing in `config`, and Nomad ports that have `To`.

use std::net::Ipv4Addr;

use super::{PortRequest, Protocol};
use crate::{
    job::{
        block::Declared,
        cursor::{Cursor, Object, quoted},
    },
    limits,
};

/// Reads the ports of a `config` block. `declared` is absent in qhost's own form.
pub(crate) fn read(
    config: &Object<'_>,
    declared: Option<&[Declared<'_>]>,
) -> Option<Vec<PortRequest>> {
    let host_port = config.optional("host_port");
    let guest_ports = config.optional("guest_ports");
    let ports = match (config.optional("port_map"), guest_ports) {
        (Some(_), Some(guest_ports)) => {
            guest_ports.fault("both guest_ports and port_map", "one of them")
        }
        (Some(port_map), None) => {
            let alone = refuse_host_port(host_port, "port_map gives host ports by itself");
            let ports = match declared {
                Some(declared) => mapped_by_label(port_map, declared),
                None => mapped(port_map),
            };
            alone.and(ports)
        }
        (None, Some(guest_ports)) => match declared.unwrap_or_default() {
            [] => one_port(host_port, guest_ports),
            declared => {
                let alone = refuse_host_port(host_port, "the reserved ports give the host ports");
                alone.and(in_order(guest_ports, declared))
            }
        },
        (None, None) => {
            let why = "it needs guest_ports, the port that listens in the guest";
            let alone = refuse_host_port(host_port, why);
            alone.and(by_declaration(declared.unwrap_or_default()))
        }
    }?;
    distinct(config, ports)
}

fn refuse_host_port(host_port: Option<Cursor<'_>>, why: &str) -> Option<()> {
    match host_port {
        Some(host_port) => host_port.refuse_with_hint("no host_port here", why),
        None => Some(()),
    }
}

fn one_port(host_port: Option<Cursor<'_>>, guest_ports: Cursor<'_>) -> Option<Vec<PortRequest>> {
    let guests = numbers(&guest_ports)?;
    match (guests.as_slice(), host_port) {
        ([], None) => Some(vec![]),
        ([guest], Some(host)) => {
            let host = port(&host)?;
            let label = format!("port-{guest}");
            Some(vec![PortRequest { host: Some(host), ..guest_port(label, *guest) }])
        }
        ([_], None) => guest_ports.refuse_with_hint(
            "a host_port beside it",
            "add host_port, the port on the host; or use port_map, and the host picks one",
        ),
        (_, _) => guest_ports.refuse_with_hint(
            "one guest port, for host_port",
            "use port_map for several, for example {\"http\": 8080, \"ssh\": {\"guest\": 22, \"host\": 2222}}",
        ),
    }
}

fn in_order(guest_ports: Cursor<'_>, declared: &[Declared<'_>]) -> Option<Vec<PortRequest>> {
    let guests = numbers(&guest_ports)?;
    let reserved: Vec<_> = declared.iter().filter(|port| port.reserved).collect();
    if guests.len() != reserved.len() {
        return guest_ports.refuse(format!(
            "{} guest ports, as many as there are reserved ports: they are matched in order",
            reserved.len()
        ));
    }
    let pairs = reserved.into_iter().zip(guests);
    Some(pairs.map(|(declared, guest)| request(declared, guest)).collect())
}

fn mapped_by_label(port_map: Cursor<'_>, declared: &[Declared<'_>]) -> Option<Vec<PortRequest>> {
    let labels: Vec<&str> = declared.iter().map(|port| port.label.as_str()).collect();
    let mut ports = vec![];
    let mut sound = true;
    for block in port_map_blocks(port_map)? {
        if block.len() > limits::PORTS {
            return block.here().refuse(format!("at most {} ports", limits::PORTS));
        }
        for (label, cursor) in block.entries() {
            let known = declared.iter().find(|port| port.label == label);
            match known {
                Some(declared) => match mapped_request(declared, cursor) {
                    Some(port) => ports.push(port),
                    None => sound = false,
                },
                None => {
                    sound = false;
                    let expected = match labels.as_slice() {
                        [] => {
                            "no label: no network of this task or its group declares a port".into()
                        }
                        labels => {
                            format!("a port label of the task's networks: {}", labels.join(", "))
                        }
                    };
                    cursor.refuse_with_nearest::<()>(expected, label, &labels);
                }
            }
        }
    }
    // A declared port that the map leaves out is still forwarded, if it has a guest port of its own.
    let mapped = |label: &str| ports.iter().any(|port: &PortRequest| port.label == label);
    let rest = declared.iter().filter(|port| !mapped(&port.label));
    let rest: Vec<_> = rest.filter_map(|port| Some(request(port, port.to?))).collect();
    ports.extend(rest);
    sound.then_some(ports)
}

/// Reads a guest port, or an object that also has its transport: Nomad has no key for a transport, and its driver forwards
/// both.
fn mapped_request(declared: &Declared<'_>, cursor: Cursor<'_>) -> Option<PortRequest> {
    if !cursor.value().is_object() {
        return Some(request(declared, port(&cursor)?));
    }
    let object = cursor.object(&["guest", "protocol"])?;
    let guest = object.required("guest", "the port that listens in the guest");
    let guest = guest.and_then(|guest| port(&guest));
    let protocol = protocol(&object);
    Some(PortRequest { protocol: protocol?, ..request(declared, guest?) })
}

fn protocol(object: &Object<'_>) -> Option<Protocol> {
    match object.optional("protocol") {
        Some(protocol) => protocol.word(Protocol::ALL, Protocol::name),
        None => Some(Protocol::Tcp),
    }
}

/// The maps of `port_map`: HCL's blocks arrive as a list of maps, JSON as one map.
fn port_map_blocks(port_map: Cursor<'_>) -> Option<Vec<Object<'_>>> {
    let expected = "an object from port label to guest port";
    if port_map.value().is_array() {
        port_map
            .array(limits::PORTS, "objects")?
            .into_iter()
            .map(|block| block.any_object(expected))
            .collect()
    } else {
        Some(vec![port_map.any_object(expected)?])
    }
}

fn mapped(port_map: Cursor<'_>) -> Option<Vec<PortRequest>> {
    let map = port_map.any_object("an object from port label to guest port")?;
    if map.len() > limits::PORTS {
        return map.here().refuse(format!("at most {} ports", limits::PORTS));
    }
    let requests: Vec<_> =
        map.entries().map(|(label, cursor)| own_request(label, cursor)).collect();
    requests.into_iter().collect()
}

fn own_request(label: &str, cursor: Cursor<'_>) -> Option<PortRequest> {
    let label = checked_label(label, &cursor);
    if cursor.value().is_u64() || digits(&cursor).is_some() {
        let guest = port(&cursor)?;
        return Some(guest_port(label?, guest));
    }
    if !cursor.value().is_object() {
        return cursor
            .refuse("a guest port from 1 to 65535, or an object {guest, host, bind, protocol}");
    }
    let object = cursor.object(&["guest", "host", "bind", "protocol"])?;
    let guest = object.required("guest", "the port that listens in the guest");
    let guest = guest.and_then(|guest| port(&guest));
    let host = optional(object.optional("host"), |host| port(&host));
    let bind = optional(object.optional("bind"), |bind| address(&bind));
    let protocol = protocol(&object);
    Some(PortRequest {
        label: label?,
        guest: guest?,
        host: host?,
        bind: bind?,
        protocol: protocol?,
    })
}

/// Reads a value that may be absent. The outer option is absent after a problem was noted, the inner one where there is no
/// value.
fn optional<'a, T>(
    cursor: Option<Cursor<'a>>,
    read: impl FnOnce(Cursor<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match cursor {
        Some(cursor) => read(cursor).map(Some),
        None => Some(None),
    }
}

fn by_declaration(declared: &[Declared<'_>]) -> Option<Vec<PortRequest>> {
    let each = declared.iter().map(|port| match port.to {
        Some(guest) => Some(request(port, guest)),
        None => port.here.fault(
            format!("the port {} without a guest port", port.label),
            "To, the port that listens in the guest; or the label in config's port_map; -1 says it where the host's port is reserved",
        ),
    });
    let ports: Vec<_> = each.collect();
    ports.into_iter().collect()
}

fn request(declared: &Declared<'_>, guest: u16) -> PortRequest {
    PortRequest {
        host: declared.host,
        bind: declared.bind,
        ..guest_port(declared.label.clone(), guest)
    }
}

/// A request for a guest's port, on any port of the host.
fn guest_port(label: String, guest: u16) -> PortRequest {
    PortRequest { label, guest, host: None, bind: None, protocol: Protocol::Tcp }
}

/// Reads an address of the host.
pub(crate) fn address(cursor: &Cursor<'_>) -> Option<Ipv4Addr> {
    let text = cursor.text(limits::ADDRESS_BYTES, "an IPv4 address")?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => cursor.refuse("an IPv4 address of the host, as in 192.0.2.7"),
    }
}

fn distinct(config: &Object<'_>, ports: Vec<PortRequest>) -> Option<Vec<PortRequest>> {
    for (index, port) in ports.iter().enumerate() {
        for earlier in ports.iter().take(index) {
            if earlier.label == port.label {
                let found = format!("the port label {} twice", port.label);
                return config.here().fault(found, "each label once");
            }
            let bind = |port: &PortRequest| port.bind.unwrap_or(Ipv4Addr::LOCALHOST);
            if port.host.is_some()
                && (earlier.host, earlier.protocol) == (port.host, port.protocol)
                && super::overlap(bind(earlier), bind(port))
            {
                let host = port.host.unwrap_or_default();
                let found =
                    format!("host port {host} for both {} and {}", earlier.label, port.label);
                return config.here().fault(found, "each host port once");
            }
        }
    }
    Some(ports)
}

/// Reads a port label, of characters that Nomad allows and that need no quoting anywhere.
pub(crate) fn checked_label(label: &str, cursor: &Cursor<'_>) -> Option<String> {
    let fits = (1..=limits::LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits {
        Some(label.to_owned())
    } else {
        cursor.fault(
            format!("the port label {}", quoted(label)),
            format!("1 to {} letters, digits, - and _", limits::LABEL_BYTES),
        )
    }
}

/// Reads a port, which HCL's variables and Nomad's driver also give as a text.
pub(crate) fn port(cursor: &Cursor<'_>) -> Option<u16> {
    let text = digits(cursor).and_then(|text| text.parse().ok());
    match text.filter(|port| *port != 0) {
        Some(port) => Some(port),
        None => cursor.number(1..=u16::MAX, "a port"),
    }
}

fn digits<'a>(cursor: &Cursor<'a>) -> Option<&'a str> {
    let text = cursor.value().as_str()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)
}

fn numbers(cursor: &Cursor<'_>) -> Option<Vec<u16>> {
    // All items are read before the result is made, so that the problems of all are reported.
    let ports: Vec<_> = cursor.clone().array(limits::PORTS, "ports")?.iter().map(port).collect();
    ports.into_iter().collect()
}
