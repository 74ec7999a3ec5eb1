//! Masks the secrets of a task: the queries of URLs always, since signed URLs have their signatures there, and whatever else the
//! operator names. Nothing here does I/O.

use serde_json::Value;
use url::Url;
use wildmatch::WildMatch;

use crate::{
    job::{Checksum, ImageRequest, Task},
    limits,
    secrets::{MASK, Secrets},
};

/// Patterns of a task's secrets besides the queries of its URLs.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    /// Patterns of the keys of `meta` whose values are secret.
    pub meta: Vec<String>,
    /// Patterns of secret arguments.
    pub args: Vec<String>,
}

impl Masks {
    /// Masks a task's secrets in place, and returns them.
    pub fn mask(&self, task: &mut Task) -> Secrets {
        let mut secrets = Secrets::default();
        queries(&mut task.image, &mut secrets);
        for disk in &mut task.asked.disks {
            let place = format!("disks.{}.source", disk.name);
            if let Some(image) = &mut disk.image {
                query(place, &mut image.source, &mut secrets);
            }
        }
        for (key, value) in &mut task.meta {
            if matches(&self.meta, key) {
                secrets.take(format!("task.meta.{key}"), std::mem::replace(value, MASK.into()));
            }
        }
        for (index, argument) in task.args.iter_mut().enumerate() {
            if matches(&self.args, argument) {
                secrets
                    .take(format!("task.args.{index}"), std::mem::replace(argument, MASK.into()));
            }
        }
        if let Some(asked) = &task.asked.seed {
            // A policy that was granted the text may repeat a line of it.
            for (name, text) in asked.texts.parts() {
                let lines = text.lines().map(str::trim);
                let long = lines.filter(|line| line.len() >= limits::SEED_LINE_BYTES);
                secrets.take(format!("task.seed.{}", name.name()), text.to_owned());
                long.for_each(|line| secrets.also(line));
                // JSON may be one line, so that its texts are taken one by one.
                if let Ok(value) = serde_json::from_str(text) {
                    also_texts(&value, &mut secrets);
                }
            }
        }
        // A port's label is no secret, and masking it would change the launch.
        secrets.retain(|secret| task.asked.ports.iter().all(|port| port.label != secret));
        secrets.sort();
        mask_repeated(task, &mut secrets);
        secrets
    }

    /// Masks a command's arguments: those that match the patterns, whole, and the secrets of its task in the others. Returns the
    /// arguments that were masked whole.
    pub fn mask_command(&self, task: &Task, command: &mut [String]) -> Secrets {
        let of_task = self.mask(&mut task.clone());
        let mut secrets = Secrets::default();
        for (index, argument) in command.iter_mut().enumerate() {
            let place = format!("operation.exec.{index}");
            if matches(&self.args, argument) {
                secrets.take(place, std::mem::replace(argument, MASK.into()));
            } else {
                of_task.clean(argument);
            }
        }
        secrets.sort();
        secrets
    }
}

/// Takes the long texts of a value for secrets.
fn also_texts(value: &Value, secrets: &mut Secrets) {
    match value {
        Value::String(text) if text.len() >= limits::SEED_LINE_BYTES => secrets.also(text),
        Value::Array(items) => items.iter().for_each(|item| also_texts(item, secrets)),
        Value::Object(map) => map.values().for_each(|item| also_texts(item, secrets)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| WildMatch::new_case_insensitive(pattern).matches(text))
}

/// Whether a URL had a query that was masked, so that it leads nowhere any more.
pub fn is_masked(url: &Url) -> bool {
    url.query() == Some(MASK)
}

fn queries(image: &mut ImageRequest, secrets: &mut Secrets) {
    let mirrors = image.mirrors.iter_mut().enumerate();
    let mirrors = mirrors.map(|(index, url)| (format!("mirrors.{index}"), url));
    let sums = match &mut image.checksum {
        Checksum::List { sums, .. } => Some(("sums".to_owned(), sums)),
        Checksum::Image { .. } | Checksum::Sha512 { .. } => None,
    };
    let source = ("source".to_owned(), &mut image.source);
    for (place, url) in std::iter::once(source).chain(mirrors).chain(sums) {
        query(format!("image.{place}"), url, secrets);
    }
}

/// Masks the query of one of the task's URLs.
fn query(place: String, url: &mut Url, secrets: &mut Secrets) {
    let query = url.query().filter(|query| !query.is_empty() && *query != MASK);
    if let Some(query) = query.map(str::to_owned) {
        for pair in query.split('&') {
            secrets.value(pair.split_once('=').map_or(pair, |(_, value)| value));
        }
        secrets.take(format!("task.{place}?query"), query);
        url.set_query(Some(MASK));
    }
}

/// Masks secrets that a tenant repeated in its notes and arguments, such as a whole URL.
fn mask_repeated(task: &mut Task, secrets: &mut Secrets) {
    for (key, value) in &mut task.meta {
        secrets.mask_at(format!("task.meta.{key}"), value);
    }
    for (index, value) in task.args.iter_mut().enumerate() {
        secrets.mask_at(format!("task.args.{index}"), value);
    }
}

/// Masks the query of a URL.
pub fn mask_query(url: &mut Url) {
    if url.query().is_some_and(|query| !query.is_empty()) {
        url.set_query(Some(MASK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(query: &str) -> Secrets {
        let image = format!("https://images.example/x?{query}");
        let mut request = crate::job::image_request(&[image], &"0".repeat(64)).unwrap();
        let mut secrets = Secrets::default();
        queries(&mut request, &mut secrets);
        secrets.sort();
        assert_eq!(request.source.as_str(), "https://images.example/x?***");
        assert!(is_masked(&request.source));
        assert_eq!(secrets.places(), ["task.image.source?query"]);
        secrets
    }

    #[track_caller]
    fn check(query: &str, text: &str, expected: &str) {
        assert_eq!(secrets(query).without(text), expected);
    }

    #[test]
    fn a_query_is_masked_whole_and_by_its_values() {
        let signed = "X-Id=AKIA%2F1&X-Sig=abc+def%3D&ttl=60&token";
        check(
            signed,
            &format!("from https://images.example/x?{signed}"),
            "from https://images.example/x?***",
        );
        check(signed, "AKIA%2F1, AKIA/1; ttl=60", "***, ***; ttl=60");
        check(signed, "abc+def%3D, abc def=, abc+def=", "***, ***, ***");
        check(signed, "tokens", "***s");
    }

    /// A policy's text is cut at its limit, which may be inside of a secret.
    #[test]
    fn a_secret_that_was_cut_is_masked() {
        check("sig=0123456789abcdef", "the URL …?sig=0123456…", "the URL …?***…");
        check("sig=0123456789abcdef", "only 012…", "only 012…");
        check("sig=0123456789abcdef", "not cut: 0123456", "not cut: 0123456");
    }
}
