//! Turns what Nomad gives a task's process into files, for a guest that asks for them by `task_env`: environment variables, the job's
//! notes, and templates with embedded text. A value may be secret, so that no problem shows one.

use std::collections::BTreeMap;

use super::{
    super::{
        block::GuestFile,
        cursor::{Cursor, Object, asks_nothing},
    },
    ignored::Ignored,
    keys,
};
use crate::limits;

/// The file from which a login shell of the guest reads variables.
const PROFILE: &str = "/etc/profile.d/nomad.sh";
const ASK: &str =
    "config.task_env = true has cloud-init write it into the guest; without it, leave it out";
const RENDERED: &str = "only a Nomad agent knows what to put there; write the value itself";

/// The names from which a task's variables are made.
pub(super) struct Names<'a> {
    pub(super) job: &'a str,
    pub(super) group: &'a str,
    pub(super) task: &'a str,
}

/// Makes the files for a guest whose task asks for them, and none for others; absent after a problem was noted.
pub(super) fn files(
    task: &Object<'_>,
    config: &Object<'_>,
    names: &Names<'_>,
    meta: &BTreeMap<String, String>,
    ignored: &Ignored,
) -> Option<Vec<GuestFile>> {
    let is_asked = config.optional("task_env").is_some_and(|asked| asked.value() == true);
    let given = |key: &str| task.optional(key).filter(|given| !asks_nothing(given.value()));
    let (env, templates) = (given("Env"), given("Templates"));
    if !is_asked {
        let left = env.into_iter().chain(templates);
        let told: Vec<Option<()>> = left
            .map(|given| given.fault_with_hint("values for the guest", "nothing", ASK))
            .collect();
        return told.is_empty().then(Vec::new);
    }
    let variables = env.map_or_else(|| Some(BTreeMap::new()), variables);
    let templates = templates.map_or_else(|| Some(vec![]), |given| self::templates(given, ignored));
    let (mut all, mut files) = (nomads(names, meta), templates?);
    all.extend(variables?);
    let line = |(name, value): (&String, &String)| {
        format!("export {name}={}\n", shell_words::quote(value))
    };
    let text = all.iter().map(line).collect();
    files.insert(0, GuestFile { path: PROFILE.into(), permissions: "0644".into(), text });
    Some(files)
}

/// The variables that Nomad sets, as far as they are known without Nomad.
fn nomads(names: &Names<'_>, meta: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [
        ("NOMAD_JOB_NAME", names.job),
        ("NOMAD_GROUP_NAME", names.group),
        ("NOMAD_TASK_NAME", names.task),
        ("NOMAD_TASK_DIR", "/local"),
        ("NOMAD_SECRETS_DIR", "/secrets"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for (key, value) in meta {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let name: String = key.chars().map(letter).collect();
        all.insert(format!("NOMAD_META_{}", name.to_ascii_uppercase()), value.clone());
        all.insert(format!("NOMAD_META_{name}"), value.clone());
    }
    all
}

fn variables(env: Cursor<'_>) -> Option<BTreeMap<String, String>> {
    let object = env.any_object("an object of strings")?;
    if object.len() > limits::META_PAIRS {
        return object.here().fault(
            format!("{} variables", object.len()),
            format!("at most {}", limits::META_PAIRS),
        );
    }
    let variable = |(name, value): (&str, Cursor<'_>)| {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.len() <= limits::META_KEY_BYTES
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            let expected = "a variable's name: letters, digits and _, the first no digit";
            return value.fault("another name", expected);
        }
        Some((name.to_owned(), plain(&value)?))
    };
    let all: Vec<_> = object.entries().map(variable).collect();
    all.into_iter().collect()
}

/// Reads a text in which Nomad's agent, or a template, would fill in nothing.
fn plain(given: &Cursor<'_>) -> Option<String> {
    let Some(text) = given.value().as_str() else { return given.fault("no text", "a text") };
    if text.len() > limits::SEED_PART_BYTES {
        let found = format!("a text of {} bytes", text.len());
        return given.fault(found, format!("at most {} bytes", limits::SEED_PART_BYTES));
    }
    if text.contains("${") || text.contains("{{") {
        return given.fault_with_hint("a text with ${…} or {{…}}", "a text without", RENDERED);
    }
    // Python, in which cloud-init is written, takes some of these for blanks and line breaks.
    if text.contains(|c: char| c.is_control() && !"\t\r\n".contains(c)) {
        return given.fault("a control character", "tabs and line breaks alone");
    }
    Some(text.to_owned())
}

fn templates(given: Cursor<'_>, ignored: &Ignored) -> Option<Vec<GuestFile>> {
    let items = given.array(limits::NOMAD_ITEMS, "templates")?;
    let all: Vec<_> = items.into_iter().map(|item| template(item, ignored)).collect();
    all.into_iter().collect()
}

fn template(given: Cursor<'_>, ignored: &Ignored) -> Option<GuestFile> {
    let object = given.object(&keys::TEMPLATE.names())?;
    keys::TEMPLATE.refuse(&object);
    ignored.keys(&object, &keys::TEMPLATE);
    let text = object.required("EmbeddedTmpl", "the template's text").and_then(|it| plain(&it));
    let path = object.required("DestPath", "where it goes").and_then(|it| path(&it));
    let permissions = match object.optional("Perms") {
        Some(perms) => permissions(&perms),
        None => Some("0644".into()),
    };
    Some(GuestFile { path: path?, permissions: permissions?, text: text? })
}

/// Reads a path below the task's folder. The guest's root stands for that folder, so that `/local` and `/secrets` are where containers
/// have them.
fn path(given: &Cursor<'_>) -> Option<String> {
    let fits = |text: &&str| {
        (1..=limits::NAME_BYTES).contains(&text.len())
            && !text.contains(char::is_control)
            && text.split('/').all(|part| !["", ".", ".."].contains(&part))
    };
    match given.value().as_str().filter(fits) {
        Some(text) => Some(format!("/{text}")),
        None => given.refuse("a path without .. and not from the root, as in local/app.conf"),
    }
}

fn permissions(given: &Cursor<'_>) -> Option<String> {
    let fits = |text: &&str| {
        [3, 4].contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
    };
    match given.value().as_str().filter(fits) {
        Some(text) => Some(text.to_owned()),
        None => given.refuse("permissions in octal digits, as in 0644"),
    }
}
