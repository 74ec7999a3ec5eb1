//! The example job and the example host that a case is laid over.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use qhost_model::launch::{Machine, PortRange, Rules};

/// The example job, in qhost's own form.
pub fn job() -> Value {
    json!({
        "name": "example",
        "driver": "qemu",
        "config": {
            "image_source": "https://images.example/web.qcow2",
            "checksum": "0".repeat(64),
        },
        "resources": {"cpus": 1, "memory_mib": 256},
    })
}

/// The facts of an example host with room.
pub fn host() -> Value {
    json!({
        "name": "host-1",
        "qemu_version": "10.0.2",
        "accelerators": ["tcg", "kvm"],
        "architectures": ["x86_64"],
        "firmware": [{"kind": "bios", "secure_boot": "off"}],
        "resources": {"cpus": 16, "memory_mib": 65536},
        "free": {"cpus": 8, "memory_mib": 32768},
        "ports_in_use": [],
        "tenant_usage": {"vms": 0, "resources": {"cpus": 0, "memory_mib": 0}, "ports": 0},
    })
}

/// The rules of an example host that allows everything but other ports than these, since a case is about the policy.
pub(super) fn rules(ports: Vec<PortRange>, args: &[String], machine: &Machine) -> Rules {
    Rules {
        ports,
        binds: vec![Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED],
        internet: true,
        args: vec![args.to_vec()],
        persist: true,
        disk_bytes: u64::MAX,
        data_bytes: u64::MAX,
        seed_bytes: u64::MAX,
        cpus: vec![machine.cpu.clone()],
        nested: true,
    }
}

/// The time at which cases are decided unless they name another.
pub(super) fn time() -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap_or_default()
}

/// Lays keys over an example. If `known` says that there can be no other keys, a key that the example lacks is an error, which gives its
/// path.
pub(super) fn lay_over(under: &mut Value, over: &Value, known: bool) -> Result<(), String> {
    let (Value::Object(under), Value::Object(over)) = (&mut *under, over) else {
        *under = over.clone();
        return Ok(());
    };
    for (key, value) in over {
        match under.get_mut(key) {
            Some(under) if value.is_object() => {
                lay_over(under, value, known).map_err(|inner| format!("{key}.{inner}"))?;
            }
            Some(under) => *under = value.clone(),
            None if known => return Err(key.clone()),
            None => insert(under, key, value),
        }
    }
    Ok(())
}

fn insert(map: &mut Map<String, Value>, key: &str, value: &Value) {
    map.insert(key.into(), value.clone());
}
