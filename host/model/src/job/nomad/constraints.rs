//! Checks constraints. Those on an operating system, a processor or a driver are checked without looking at the host; the rest need a
//! Nomad client and are ignored, which a run says.

use super::{
    super::cursor::{Cursor, Object, quoted},
    ignored::Ignored,
};
use crate::limits;

/// Notes a problem for each constraint of a job, a group or a task that this host does not meet.
pub(super) fn check(object: &Object<'_>, ignored: &Ignored) {
    let Some(list) = object.optional("Constraints") else { return };
    for constraint in list.array(limits::NOMAD_ITEMS, "constraints").into_iter().flatten() {
        check_one(constraint, ignored);
    }
}

fn check_one(cursor: Cursor<'_>, ignored: &Ignored) {
    let here = cursor.clone();
    let Some(constraint) = cursor.object(&["LTarget", "RTarget", "Operand"]) else { return };
    let text = |key: &str| match constraint.optional(key) {
        Some(value) => value.free_text(limits::META_VALUE_BYTES, "a constraint's text"),
        None => Some(""),
    };
    let (Some(left), Some(right), Some(operand)) =
        (text("LTarget"), text("RTarget"), text("Operand"))
    else {
        return;
    };
    if operand == "distinct_hosts" {
        // A run starts one VM, which is on one host.
        return;
    }
    let Some(has) = attribute(left) else { return ignored.note(&here) };
    let is = |wanted: &str| wanted.trim() == has || (has == "1" && wanted.trim() == "true");
    let holds = match operand {
        "" | "=" | "==" | "is" => is(right),
        "!=" | "not" => !is(right),
        "is_set" => true,
        "is_not_set" => false,
        "set_contains" => right.split(',').all(is),
        "set_contains_any" => right.split(',').any(is),
        _ => return ignored.note(&here),
    };
    if !holds {
        let operand = if operand.is_empty() { "=" } else { operand };
        let found = format!("the constraint {}", quoted(&format!("{left} {operand} {right}")));
        here.fault_with_hint::<()>(
            found,
            format!("a constraint that this host meets: here it is {}", quoted(has)),
            "run the job on a host that meets it, or leave the constraint out",
        );
    }
}

/// The value of a Nomad attribute that is the same on every host that this program runs on.
fn attribute(name: &str) -> Option<&'static str> {
    match name {
        "${attr.kernel.name}" => Some("linux"),
        "${attr.cpu.arch}" | "${attr.arch}" => Some(match std::env::consts::ARCH {
            // Nomad uses Go's names.
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
        "${attr.driver.qemu}" => Some("1"),
        _ => None,
    }
}
