//! Reads the ports that the networks of a task and of its group declare.

use super::{
    super::{
        block::Declared,
        cursor::{Cursor, Object},
    },
    ignored::Ignored,
    keys,
};
use crate::{launch::ports::keys as ports, limits};

/// Reads the ports of the group's networks and of the task's own.
pub(super) fn declared<'a>(
    task: &Object<'a>,
    group: &Object<'a>,
    resources: Option<&Object<'a>>,
    ignored: &Ignored,
) -> Option<Vec<Declared<'a>>> {
    let mut ports = Some(vec![]);
    let task_networks = resources.and_then(|resources| resources.optional("Networks"));
    for networks in group.optional("Networks").into_iter().chain(task_networks) {
        for network in networks.array(limits::NOMAD_ITEMS, "networks")? {
            let network = network.object(&keys::NETWORK.names())?;
            keys::NETWORK.refuse(&network);
            ignored.keys(&network, &keys::NETWORK);
            check_mode(&network, ignored);
            // An agent writes "" for an address that it does not know.
            let address = network.optional("IP").filter(|ip| ip.value().as_str() != Some(""));
            let bind = match address {
                Some(address) => ports::address(&address).map(Some),
                None => Some(None),
            };
            for (key, reserved) in [("ReservedPorts", true), ("DynamicPorts", false)] {
                let Some(list) = network.optional(key) else { continue };
                for port in list.array(limits::PORTS, "ports")? {
                    let port = declared_port(port, reserved, ignored);
                    ports = ports.zip(port).zip(bind).map(|((mut ports, port), bind)| {
                        ports.push(Declared { bind, ..port });
                        ports
                    });
                }
            }
        }
    }
    ports.filter(|ports| {
        let few = ports.len() <= limits::PORTS;
        if !few {
            let found = format!("{} declared ports", ports.len());
            task.here().fault::<()>(found, format!("at most {} ports", limits::PORTS));
        }
        few
    })
}

/// Checks a network's mode. A guest is always behind QEMU's user-mode network, and its ports are forwarded like those of a
/// group behind a bridge.
fn check_mode(network: &Object<'_>, ignored: &Ignored) {
    let Some(mode) = network.optional("Mode") else { return };
    match mode.value().as_str() {
        Some("" | "host") => {}
        Some("bridge" | "none") => ignored.note(&mode),
        Some(_) | None => {
            mode.refuse_with_hint::<()>(
                "one of host, bridge, none",
                "a guest's network is QEMU's user-mode network; its ports are forwarded to it",
            );
        }
    }
}

fn declared_port<'a>(
    cursor: Cursor<'a>,
    reserved: bool,
    ignored: &Ignored,
) -> Option<Declared<'a>> {
    let here = cursor.clone();
    let port = cursor.object(&keys::PORT.names())?;
    ignored.keys(&port, &keys::PORT);
    let label = port.required("Label", "the port's label");
    let label = label.and_then(|label| {
        ports::checked_label(label.text(limits::LABEL_BYTES, "a label")?, &label)
    });
    // Nomad writes 0 for a value that was not given.
    let given = |key| port.optional(key).filter(|port| port.value().as_u64() != Some(0));
    let host = match (given("Value"), reserved) {
        (Some(value), _) => ports::port(&value).map(Some),
        (None, true) => {
            let value = port.required("Value", "the reserved port");
            value.and_then(|value| ports::port(&value)).map(Some)
        }
        (None, false) => Some(None),
    };
    let to = match given("To") {
        // -1 stands for the host's port, which is not known yet for a dynamic port.
        Some(to) if to.value().as_i64() == Some(-1) => host,
        Some(to) => ports::port(&to).map(Some),
        None => Some(None),
    };
    Some(Declared { label: label?, host: host?, bind: None, to: to?, reserved, here })
}
