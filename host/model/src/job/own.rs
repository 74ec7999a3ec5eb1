//! qhost's own form of job file: one task.

use std::collections::BTreeMap;

use super::{
    Resources, Task, config,
    cursor::{Cursor, Object},
    lifecycle, ports,
};
use crate::limits;

const KEYS: &[&str] = &["name", "driver", "config", "resources", "meta"];

pub(super) fn read(root: Cursor<'_>, tenant: &str, select: Option<&str>) -> Option<Task> {
    let job = root.object(KEYS)?;
    let name = job
        .required("name", "the task's name")
        .and_then(|name| name.text(limits::NAME_BYTES, "a name"));
    let driver =
        job.required("driver", "\"qemu\"").and_then(|driver| driver.word(&["qemu"], |d| d));
    let config = job.required("config", "the task's config").and_then(|c| c.object(config::KEYS));
    let (config, ports, ready) = match &config {
        Some(block) => {
            let ports = ports::read(block, None);
            let ready = lifecycle::ready_of(block, ports.as_deref());
            (Some(config::read(block)), ports, ready)
        }
        None => (None, None, None),
    };
    let resources = job.required("resources", "the task's resources").and_then(resources);
    let meta = match job.optional("meta") {
        Some(meta) => meta.any_object("an object of strings").and_then(|meta| self::meta(&meta)),
        None => Some(BTreeMap::new()),
    };
    let name = name?.to_owned();
    if let Some(select) = select.filter(|select| *select != name) {
        let found = format!("the one task {}", super::cursor::quoted(&name));
        return job.here().fault(found, format!("the task {}", super::cursor::quoted(select)));
    }
    driver?;
    let config = config?;
    Some(Task {
        tenant: tenant.to_owned(),
        job: name.clone(),
        name,
        image: config.image?,
        resources: resources?,
        accelerator: config.accelerator,
        ports: ports?,
        egress: config.egress,
        persist: config.persist,
        restart: config.restart?,
        ready: ready?,
        args: config.args,
        meta: meta?,
    })
}

fn resources(cursor: Cursor<'_>) -> Option<Resources> {
    let object = cursor.object(&["cpus", "memory_mib"])?;
    let cpus = match object.optional("cpus") {
        Some(cpus) => cpus.number(limits::CPUS, "virtual CPUs"),
        None => Some(1),
    };
    let memory_mib = object
        .required("memory_mib", "the guest's memory in MiB")
        .and_then(|memory| memory.number(limits::MEMORY_MIB, "memory in MiB"));
    Some(Resources { cpus: cpus?, memory_mib: memory_mib? })
}

/// The pairs of a `meta` block, which both forms have.
pub(super) fn meta(object: &Object<'_>) -> Option<BTreeMap<String, String>> {
    if object.len() > limits::META_PAIRS {
        return object.here().refuse(format!("at most {} pairs", limits::META_PAIRS));
    }
    let pairs: Vec<_> = object
        .entries()
        .map(|(key, value)| {
            if key.len() > limits::META_KEY_BYTES || key.contains(char::is_control) {
                let most = limits::META_KEY_BYTES;
                let expected = format!("keys of at most {most} bytes, no control characters");
                return value.fault(format!("the key {}", super::cursor::quoted(key)), expected);
            }
            let value = value.free_text(limits::META_VALUE_BYTES, "a value")?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect();
    pairs.into_iter().collect()
}
