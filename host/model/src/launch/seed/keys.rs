//! The keys of a job that ask for a seed: `cloud_init`, and short keys as Nomad's `virt` driver has them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    AskedSeed, PartName, Seed, SeedKind, SeedPart, SeedTexts, ignition, is_hostname, media_type,
    part, ssh_key, text::fits, yaml,
};
use crate::{
    job::{
        block::{Form, GuestFile},
        cursor::{Cursor, Object},
    },
    launch::field::{Key, Place},
    limits,
};

const TEXT_OR_OBJECT: &str =
    "Text; or an object, which is written as JSON, a form of YAML: #cloud-config stands before it.";

pub(super) const KEYS: &[Key] = &[
    ignition::KEY,
    Key {
        place: Place::Config,
        name: "cloud_init",
        required: false,
        schema: || {
            json!({
                "description": "What cloud-init sets the guest up with, on a NoCloud disk. No part of it is logged, recorded or shown but for its digest, size and keys at the top.",
                "type": ["object", "null"],
                "additionalProperties": false,
                "properties": {
                    "user_data": {"description": TEXT_OR_OBJECT, "type": ["string", "object", "null"], "maxLength": limits::SEED_PART_BYTES},
                    "meta_data": {"description": "What is added to the host's own, which has the instance's id and the host name.", "type": ["object", "null"]},
                    "network_config": {"description": "How the guest sets up its network: YAML text, or an object.", "type": ["string", "object", "null"], "maxLength": limits::SEED_PART_BYTES}
                }
            })
        },
    },
    Key {
        place: Place::Config,
        name: "user_data",
        required: false,
        schema: || {
            json!({
                "description": "The same as cloud_init.user_data. The text itself, not a path.",
                "type": ["string", "object", "null"],
                "maxLength": limits::SEED_PART_BYTES
            })
        },
    },
    Key {
        place: Place::Config,
        name: "hostname",
        required: false,
        schema: || {
            json!({
                "description": "The guest's host name, by cloud-init; the task's name when absent.",
                "type": ["string", "null"],
                "pattern": "^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$",
                "maxLength": limits::HOSTNAME_BYTES
            })
        },
    },
    Key {
        place: Place::Config,
        name: "default_user_authorized_ssh_key",
        required: false,
        schema: || {
            json!({
                "description": "A public SSH key, or several, one a line, with which the default user of the guest's image can be logged in to, by cloud-init.",
                "type": ["string", "null"]
            })
        },
    },
    Key {
        place: Place::Config,
        name: "cmds",
        required: false,
        schema: || {
            json!({
                "description": "Commands of a shell that the guest runs once it has booted for the first time, by cloud-init.",
                "type": ["array", "null"],
                "maxItems": limits::SEED_COMMANDS,
                "items": {"type": "string", "minLength": 1}
            })
        },
    },
    Key {
        place: Place::Config,
        name: "task_env",
        required: false,
        schema: || {
            json!({
                "description": "Of a Nomad job: whether cloud-init writes the task's env, its templates' texts and the variables that Nomad sets into the guest; false when absent.",
                "type": ["boolean", "null"],
                "default": false
            })
        },
    },
    Key {
        place: Place::Config,
        name: "timezone",
        required: false,
        schema: || {
            json!({
                "description": "The guest's time zone by its name in the zone database, by cloud-init: Europe/Vienna.",
                "type": ["string", "null"],
                "pattern": "^[A-Za-z0-9_+/-]{1,64}$"
            })
        },
    },
];

/// Reads the seed of a config block; the outer option is absent after a problem was noted.
pub(super) fn read(
    config: &Object<'_>,
    form: Form,
    files: &[GuestFile],
) -> Option<Option<AskedSeed>> {
    if let Some(asked) = config.optional("ignition") {
        return ignition::read(config, &asked).map(Some);
    }
    if let Some(task_env) = config.optional("task_env")
        && task_env.boolean()?
        && form == Form::Own
    {
        let hint =
            "env and templates are of Nomad's jobs: put files into user_data, as write_files";
        return task_env.refuse_with_hint("false, or nothing", hint);
    }
    let block = match config.optional("cloud_init") {
        Some(block) => {
            let block = only(block);
            is_object(&block)?;
            Some(block.object(&["user_data", "meta_data", "network_config"])?)
        }
        None => None,
    };
    let in_block = |key: &str| block.as_ref().and_then(|block| block.optional(key));
    let user_data = match (in_block("user_data"), config.optional("user_data")) {
        (Some(_), Some(short)) => {
            return short.fault("user_data here and in cloud_init", "one of the two");
        }
        (given, short) => given.or(short),
    };
    let mut parts = Parts::default();
    // All keys are read before the result is made, so that the problems of all are reported.
    let read = [
        user_data.map(|given| parts.user_data(&given)),
        in_block("meta_data").map(|given| parts.meta_data(&given)),
        in_block("network_config").map(|given| parts.network_config(&given)),
    ];
    let composed = composed(config, &parts, files);
    let hostname = config.optional("hostname").map(|name| hostname(&name));
    let ssh_keys = config.optional("default_user_authorized_ssh_key").map(|keys| ssh_keys(&keys));
    let has_nothing = block.is_none() && read.iter().all(Option::is_none);
    if read.into_iter().flatten().any(|read| read.is_none()) {
        return None;
    }
    let (composed, hostname, ssh_keys) =
        (composed?, transposed(hostname)?, transposed(ssh_keys)?.unwrap_or_default());
    if has_nothing && composed.is_none() && hostname.is_none() && ssh_keys.is_empty() {
        return Some(None);
    }
    if let Some(text) = composed {
        let keys = yaml::keys(&text).unwrap_or_default();
        parts.add(PartName::CloudConfig, media_type::CLOUD_CONFIG, keys, text);
    }
    let seed = Seed {
        kind: SeedKind::CloudInit,
        parts: parts.known,
        hostname,
        ssh_keys: ssh_keys.keys().cloned().collect(),
    };
    Some(Some(AskedSeed { seed, texts: SeedTexts { parts: parts.texts, ssh_keys } }))
}

fn transposed<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(read) => read.map(Some),
        None => Some(None),
    }
}

#[derive(Default)]
struct Parts {
    known: Vec<SeedPart>,
    texts: BTreeMap<PartName, String>,
}

impl Parts {
    fn add(&mut self, name: PartName, media_type: &str, keys: Vec<String>, text: String) {
        self.known.push(part(name, media_type, keys, &text));
        self.texts.insert(name, text);
    }

    fn user_data(&mut self, given: &Cursor<'_>) -> Option<()> {
        let text = match given.value().as_object() {
            Some(map) => format!("#cloud-config\n{}\n", as_yaml(map)),
            None => text(given, "user-data")?,
        };
        if is_path(&text) {
            return given.fault_with_hint(
                "a path",
                "the user-data itself",
                "qhost reads no file of this host for a job; in a Nomad job, file(\"NAME\") has the text put in",
            );
        }
        let media_type = media_type::of(&text);
        let keys =
            if media_type == media_type::CLOUD_CONFIG { keys(given, &text)? } else { vec![] };
        self.add(PartName::UserData, media_type, keys, text);
        Some(())
    }

    fn meta_data(&mut self, given: &Cursor<'_>) -> Option<()> {
        is_object(given)?;
        let object = given.clone().any_object("an object")?;
        for (key, instead) in [
            ("instance-id", "leave it out: each VM has an id of its own, which a restart keeps"),
            ("local-hostname", "config.hostname"),
            ("public-keys", "config.default_user_authorized_ssh_key"),
            ("seedfrom", "leave it out: what it names would take the place of the whole seed"),
        ] {
            if let Some(found) = object.optional(key) {
                return found.fault_with_hint("a key of the host's own", "other keys", instead);
            }
        }
        let map = given.value().as_object()?;
        let text = fits(given, as_yaml(map), "meta-data")?;
        let keys = keys(given, &text)?;
        self.add(PartName::MetaData, "application/json", keys, text);
        Some(())
    }

    fn network_config(&mut self, given: &Cursor<'_>) -> Option<()> {
        let text = match given.value().as_object() {
            Some(map) => as_yaml(map),
            None => text(given, "network-config")?,
        };
        let keys = keys(given, &text)?;
        self.add(PartName::NetworkConfig, "application/yaml", keys, text);
        Some(())
    }
}

/// The one block of an array: Nomad's JSON has an array for a block of HCL.
fn only(block: Cursor<'_>) -> Cursor<'_> {
    if block.value().as_array().is_some_and(|items| items.len() == 1) {
        let items = block.clone().array(1, "blocks").unwrap_or_default();
        items.into_iter().next().unwrap_or(block)
    } else {
        block
    }
}

/// Checks that a value is an object. The value may be secret, so that the error does not show it, as other errors do.
fn is_object(given: &Cursor<'_>) -> Option<()> {
    if given.value().is_object() { Some(()) } else { given.fault("no object", "an object") }
}

/// A map as JSON that YAML 1.1 reads too: YAML 1.1 takes U+0085, U+2028 and U+2029 for line breaks, so that these are
/// escaped.
fn as_yaml(map: &Map<String, Value>) -> String {
    let json = Value::Object(map.clone()).to_string();
    json.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn text(given: &Cursor<'_>, what: &str) -> Option<String> {
    match given.value().as_str() {
        Some("") => given.refuse(format!("{what}: text that is not empty")),
        Some(text) => fits(given, text.to_owned(), what),
        None => given.fault("a value of another kind", format!("{what}: text, or an object")),
    }
}

fn keys(given: &Cursor<'_>, text: &str) -> Option<Vec<String>> {
    yaml::keys(text).map_or_else(
        |wrong| {
            let line =
                if wrong.line == 0 { String::new() } else { format!(", line {}", wrong.line) };
            given.fault(format!("{}{line}", wrong.why), "a mapping in YAML")
        },
        Some,
    )
}

/// Whether a text is a path, which Nomad's `virt` driver takes for this key too.
fn is_path(text: &str) -> bool {
    let first = text.trim();
    !first.contains(char::is_whitespace)
        && (first.starts_with('/') || first.starts_with("./") || first.starts_with("local/"))
}

/// Makes the cloud-config of the short keys; the outer option is absent after a problem was noted.
fn composed(config: &Object<'_>, parts: &Parts, files: &[GuestFile]) -> Option<Option<String>> {
    let mut map = Map::new();
    let commands = config.optional("cmds").map(|given| commands(&given));
    let timezone = config.optional("timezone").map(|given| timezone(&given));
    if let Some(commands) = transposed(commands)? {
        map.insert("runcmd".into(), commands);
    }
    if let Some(timezone) = transposed(timezone)? {
        map.insert("timezone".into(), timezone.into());
    }
    if !files.is_empty() {
        let file = |GuestFile { path, permissions, text }: &GuestFile| json!({"path": path, "permissions": permissions, "content": text});
        map.insert("write_files".into(), files.iter().map(file).collect());
    }
    if map.is_empty() {
        return Some(None);
    }
    // Two parts with the same key would be merged by rules that few people know.
    let users = parts.known.iter().find(|part| part.name == PartName::UserData);
    let shorts = [("cmds", "runcmd"), ("timezone", "timezone"), ("task_env", "write_files")];
    for (short, key) in shorts {
        let Some(given) = config.optional(short).filter(|_| map.contains_key(key)) else {
            continue;
        };
        let (found, is_clear) = match users {
            Some(part) if part.media_type == media_type::MULTIPART => {
                ("user-data of several parts besides".to_owned(), false)
            }
            Some(part) if part.keys.iter().any(|one| one == key) => {
                (format!("{short} besides {key} in the user-data"), false)
            }
            Some(_) | None => (String::new(), true),
        };
        if !is_clear {
            return given.fault_with_hint(found, "one of the two", "put it into the user-data");
        }
    }
    let text = format!("#cloud-config\n{}\n", as_yaml(&map));
    match config.optional("task_env") {
        Some(given) => fits(&given, text, "what the task gives its guest").map(Some),
        None => Some(Some(text)),
    }
}

fn commands(given: &Cursor<'_>) -> Option<Value> {
    if !given.value().is_array() {
        return given.fault("no array", "an array of commands");
    }
    let items = given.clone().array(limits::SEED_COMMANDS, "commands")?;
    let command = |item: &Cursor<'_>| match item.value().as_str() {
        Some(text) if !text.is_empty() => fits(item, text.to_owned(), "a command").map(Value::from),
        Some(_) | None => item.refuse("a command of a shell, as text"),
    };
    let commands: Vec<_> = items.iter().map(command).collect();
    commands.into_iter().collect::<Option<Vec<_>>>().map(Value::from)
}

fn timezone(given: &Cursor<'_>) -> Option<String> {
    let is_name = |name: &&str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+/-".contains(&byte))
    };
    match given.value().as_str().filter(is_name) {
        Some(name) => Some(name.to_owned()),
        None => given.refuse("the name of a time zone, as in Europe/Vienna"),
    }
}

fn hostname(given: &Cursor<'_>) -> Option<String> {
    match given.value().as_str().filter(|name| is_hostname(name)) {
        Some(name) => Some(name.to_owned()),
        None => given.refuse("a host name: labels of 1 to 63 letters, digits and -, dots between"),
    }
}

/// Reads SSH keys, by their fingerprints.
fn ssh_keys(given: &Cursor<'_>) -> Option<BTreeMap<String, String>> {
    let expected = "public SSH keys, one a line, as in a .pub file: TYPE BASE64 COMMENT";
    let Some(text) = given.value().as_str() else { return given.refuse(expected) };
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() || lines.len() > limits::SEED_SSH_KEYS {
        let found = format!("{} keys", lines.len());
        return given.fault(found, format!("1 to {} {expected}", limits::SEED_SSH_KEYS));
    }
    let mut keys = BTreeMap::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(fingerprint) = ssh_key::fingerprint(line) else {
            let found = format!("no SSH key in line {}", index + 1);
            return given.fault(found, expected);
        };
        keys.insert(fingerprint, (*line).to_owned());
    }
    Some(keys)
}
