//! The key of a job that asks for Ignition's config, which sets up Fedora CoreOS, Flatcar and similar systems.

use serde_json::{Value, json};

use super::{AskedSeed, PartName, Seed, SeedKind, SeedTexts, part, text::fits};
use crate::{
    job::cursor::{Cursor, Object},
    launch::field::{Key, Place},
    limits,
};

/// The keys of cloud-init's seed, which a guest with Ignition does not read.
const OF_CLOUD_INIT: [&str; 7] = [
    "cloud_init",
    "user_data",
    "hostname",
    "default_user_authorized_ssh_key",
    "cmds",
    "task_env",
    "timezone",
];

pub(super) const KEY: Key = Key {
    place: Place::Config,
    name: "ignition",
    required: false,
    schema: || {
        json!({
            "description": "Ignition's config: an object, or its JSON as text. QEMU shows it to the guest as its fw_cfg file opt/com.coreos/config. No part of it is logged, recorded or shown but for its digest, size and keys at the top.",
            "type": ["string", "object", "null"],
            "maxLength": limits::SEED_PART_BYTES
        })
    },
};

/// Reads the seed of a config block that asks for Ignition's config.
pub(super) fn read(config: &Object<'_>, asked: &Cursor<'_>) -> Option<AskedSeed> {
    let besides = OF_CLOUD_INIT.iter().filter_map(|key| config.optional(key));
    let asks = |one: &Cursor<'_>| *one.value() != Value::Bool(false);
    if let Some(other) = besides.into_iter().find(asks) {
        return other.fault_with_hint(
            "a key of cloud-init's beside ignition",
            "keys of cloud-init's, or ignition, but not both",
            "say it in Ignition's config: SSH keys in passwd.users, the host name as the file /etc/hostname in storage.files",
        );
    }
    let text = match (asked.value().as_str(), asked.value().is_object()) {
        (Some(text), _) => text.to_owned(),
        (None, true) => asked.value().to_string(),
        // The value may be secret, so that the error shows nothing of it.
        (None, false) => {
            return asked.fault("a value of another kind", "an object, or its JSON as text");
        }
    };
    let text = fits(asked, text, "Ignition's config")?;
    let Some(map) = serde_json::from_str::<Value>(&text).ok().and_then(object) else {
        return asked.fault_with_hint(
            "text that is not a JSON object",
            "Ignition's config, a JSON object",
            "translate Butane's YAML first: butane config.bu > config.ign",
        );
    };
    let version = map.get("ignition").and_then(|ignition| ignition.get("version"));
    if !version.is_some_and(Value::is_string) {
        return asked.fault("no ignition.version", "Ignition's config, with ignition.version");
    }
    let mut names: Vec<String> = map.keys().cloned().collect();
    names.sort();
    if names.len() > limits::SEED_KEYS
        || names.iter().any(|name| name.len() > limits::SEED_KEY_BYTES)
    {
        let (most, bytes) = (limits::SEED_KEYS, limits::SEED_KEY_BYTES);
        let expected = format!("at most {most} keys at the top, of at most {bytes} bytes each");
        return asked.fault("too many keys at the top, or too long a key", expected);
    }
    let parts = vec![part(PartName::Ignition, "application/json", names, &text)];
    let seed = Seed { kind: SeedKind::Ignition, parts, hostname: None, ssh_keys: vec![] };
    let texts = SeedTexts { parts: [(PartName::Ignition, text)].into(), ..SeedTexts::default() };
    Some(AskedSeed { seed, texts })
}

fn object(value: Value) -> Option<serde_json::Map<String, Value>> {
    if let Value::Object(map) = value { Some(map) } else { None }
}
