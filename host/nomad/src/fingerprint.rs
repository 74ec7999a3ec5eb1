//! The attributes of this host that a job's constraints can use, and whether tasks are to be sent here.

use std::collections::HashMap;

use qhost_engine::fingerprint::Fingerprint;
use qhost_model::{launch::Architecture, printable};

use crate::{
    NAME,
    error::in_a_line,
    limits,
    plugin::Plugin,
    proto::{
        driver::{FingerprintResponse, fingerprint_response::HealthState},
        structs::{Attribute, attribute::Value},
    },
};

/// Attributes that Nomad's own driver has too, so that a job's constraints hold with either driver.
const QEMU: &str = "driver.qemu";
const QEMUS: &str = "driver.qemu.";

/// Finds the host's attributes and health.
pub(crate) async fn look(plugin: &Plugin) -> FingerprintResponse {
    let broken = plugin.look().await;
    let taken = match plugin.engine() {
        Ok(engine) => engine.host().await.map_err(|error| in_a_line(&error)),
        Err(status) => Err(status.message().to_owned()),
    };
    let fingerprint = match taken {
        Ok(fingerprint) => fingerprint,
        Err(why) => return without(HealthState::Undetected, &why, HashMap::new()),
    };
    let mut attributes = attributes(&fingerprint);
    if let Some(why) = broken {
        return without(HealthState::Unhealthy, &why, attributes);
    }
    let Ok(engine) = plugin.engine() else {
        return without(HealthState::Unhealthy, "the engine is not there", attributes);
    };
    match engine.policies().await {
        Ok(policies) => {
            for (name, policy) in policies {
                attributes.insert(format!("policy.{name}"), text(policy.sha256.to_string()));
            }
        }
        Err(error) => return without(HealthState::Unhealthy, &in_a_line(&error), attributes),
    }
    attributes.insert("cage".into(), text(engine.config().cage.level.name().into()));
    if engine.free_bytes().is_some_and(|free| free < limits::DISK_LEAST) {
        // The text has no number of bytes that are left, since each new text would be an update of the node.
        let why = format!(
            "the disk of {} has less than {} MiB left",
            engine.state().path().display(),
            limits::DISK_LEAST >> 20
        );
        return without(HealthState::Unhealthy, &why, attributes);
    }
    without(HealthState::Healthy, "Healthy", attributes)
}

fn without(
    health: HealthState,
    why: &str,
    attributes: HashMap<String, Attribute>,
) -> FingerprintResponse {
    let named = |(name, value): (String, Attribute)| {
        let is_qemus = name.starts_with(QEMUS);
        (if is_qemus { name } else { format!("driver.{NAME}.{name}") }, value)
    };
    let mut attributes: HashMap<_, _> = attributes.into_iter().map(named).collect();
    if health != HealthState::Undetected {
        let yes = Attribute { value: Some(Value::BoolVal(true)), unit: String::new() };
        attributes.insert(format!("driver.{NAME}"), yes);
    }
    FingerprintResponse {
        attributes,
        health: health.into(),
        health_description: printable::line(why, limits::TEXT_CHARS).to_string(),
        err: String::new(),
    }
}

fn attributes(found: &Fingerprint) -> HashMap<String, Attribute> {
    let working = found.accelerators.iter().filter(|accelerator| accelerator.works);
    let working: Vec<_> = working.map(|accelerator| accelerator.name.as_str()).collect();
    let architectures: Vec<_> = Architecture::ALL
        .iter()
        .filter(|architecture| found.program(**architecture).is_ok())
        .map(|architecture| architecture.name())
        .collect();
    // The bare name would have Nomad place jobs for a driver qemu here.
    let of_qemu = found.attributes().into_iter().filter(|(name, _)| *name != QEMU);
    let of_qemu = of_qemu.map(|(name, value)| (name.to_owned(), text(value)));
    let own = [
        ("version".to_owned(), text(found.version.clone())),
        ("architectures".to_owned(), text(architectures.join(","))),
        ("emulators".to_owned(), text(found.emulators().join(","))),
        ("accelerators".to_owned(), text(working.join(","))),
        ("machine_types".to_owned(), text(found.machine_types.join(","))),
    ];
    of_qemu.chain(own).collect()
}

fn text(value: String) -> Attribute {
    Attribute { value: Some(Value::StringVal(value)), unit: String::new() }
}
