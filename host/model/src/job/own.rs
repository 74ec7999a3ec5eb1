//! qhost's own form of job file: one task.

use std::collections::BTreeMap;

use super::{
    Task,
    block::{Form, TaskBlock},
    config,
    cursor::{Cursor, Object},
};
use crate::{
    launch::{
        self, Asked,
        field::{Place, names_in},
    },
    limits,
};

/// The name of Nomad's driver for libvirt, whose jobs are much like qhost's.
pub(super) const VIRT: &str = "virt";
pub(super) const VIRT_HINT: &str = "the driver is \"qemu\" here: most keys of virt's are the same, and each of the others gets an error that says what to use instead";

const KEYS: &[&str] = &["name", "driver", "config", "resources", "meta"];

pub(super) fn read(root: Cursor<'_>, tenant: &str, select: Option<&str>) -> Option<Task> {
    if root.value().get("job").is_some() && root.value().get("driver").is_none() {
        let found = "a job specification of Nomad's in JSON, whose keys are HCL's";
        let expected =
            "the JSON of Nomad's API, which begins with {\"Job\"; or the specification in HCL";
        let hint = "have it made by: nomad job run -output FILE > job.json";
        return root.fault_with_hint(found, expected, hint);
    }
    let job = root.object(KEYS)?;
    let name = job
        .required("name", "the task's name")
        .and_then(|name| name.text(limits::NAME_BYTES, "a name"));
    let driver =
        job.required("driver", "\"qemu\"").and_then(|driver| match driver.value().as_str() {
            Some(VIRT) => driver.refuse_with_hint("\"qemu\"", VIRT_HINT),
            Some(_) | None => driver.word(&["qemu"], |d| d),
        });
    let config = job.required("config", "the task's config");
    let config = config.and_then(config::of_own);
    let keys: Vec<_> = names_in(launch::keys(), Place::OwnResources).collect();
    let resources = job.required("resources", "the task's resources");
    let resources = resources.and_then(|resources| resources.object(&keys));
    let block = TaskBlock {
        form: Form::Own,
        config,
        resources,
        declared: None,
        grace_s: Some(None),
        files: Some(vec![]),
    };
    let asked = Asked::read(&block);
    let options = block
        .config
        .as_ref()
        .map(|config| config::read(config, config::ImageKeys::InConfig, asked.as_ref()));
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
    let config = options?;
    Some(Task {
        tenant: tenant.to_owned(),
        job: name.clone(),
        name,
        image: config.image?,
        asked: asked?,
        restart: config.restart?.unwrap_or_default(),
        ready: config.ready?,
        args: config.args,
        meta: meta?,
        not_looked_at: vec![],
    })
}

/// Reads the pairs of a `meta` block, which both forms have.
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
