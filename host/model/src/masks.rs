//! What is secret of a task, and masking it: where it stands, and wherever a policy or an error repeats it. The queries of URLs are
//! secret always, since signed URLs have their signatures there; the operator says what else is. Pure.

use std::fmt;

use serde_json::Value;
use url::{Url, form_urlencoded};
use wildmatch::WildMatch;

use crate::{
    job::{Checksum, ImageRequest, Task},
    launch::{Launch, Violation},
    limits, printable,
};

/// Patterns of what is secret in a task besides the queries of its URLs.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    /// Keys of `meta`.
    pub meta: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
}

/// What stands in a secret's place.
const MASK: &str = "***";

/// The secrets of one task.
#[derive(Clone, Default)]
pub struct Secrets {
    texts: Vec<String>,
    /// Where in the task they stood, as paths.
    places: Vec<String>,
}

/// Shows where secrets stood, and none of them.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Masks {
    /// Masks a task's secrets where they stand, and returns them.
    pub fn mask(&self, task: &mut Task) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.queries(&mut task.image);
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
        // A port's label is no secret, and masking it would change the launch.
        secrets.texts.retain(|secret| task.ports.iter().all(|port| port.label != *secret));
        secrets.sort();
        secrets.mask_repeated(task);
        secrets
    }
}

fn matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| WildMatch::new_case_insensitive(pattern).matches(text))
}

/// Whether a URL had a query that was masked, so that it leads nowhere any more.
pub fn is_masked(url: &Url) -> bool {
    url.query() == Some(MASK)
}

impl Secrets {
    /// Where in the task they stood.
    pub fn places(&self) -> &[String] {
        &self.places
    }

    fn take(&mut self, place: String, secret: String) {
        self.places.push(place);
        self.texts.push(secret);
    }

    fn queries(&mut self, image: &mut ImageRequest) {
        let mirrors = image.mirrors.iter_mut().enumerate();
        let mirrors = mirrors.map(|(index, url)| (format!("mirrors.{index}"), url));
        let sums = match &mut image.checksum {
            Checksum::List { sums, .. } => Some(("sums".to_owned(), sums)),
            Checksum::Image { .. } => None,
        };
        let source = ("source".to_owned(), &mut image.source);
        for (place, url) in std::iter::once(source).chain(mirrors).chain(sums) {
            let query = url.query().filter(|query| !query.is_empty() && *query != MASK);
            if let Some(query) = query.map(str::to_owned) {
                for pair in query.split('&') {
                    self.value(pair.split_once('=').map_or(pair, |(_, value)| value));
                }
                self.take(format!("task.image.{place}?query"), query);
                url.set_query(Some(MASK));
            }
        }
    }

    /// A query's value in each form that a policy may repeat it in.
    fn value(&mut self, raw: &str) {
        self.texts.push(raw.to_owned());
        for raw in [raw.to_owned(), raw.replace('+', "%2B")] {
            for (decoded, _) in form_urlencoded::parse(raw.as_bytes()) {
                self.texts.push(printable::line(&decoded, usize::MAX).to_string());
                self.texts.push(decoded.into_owned());
            }
        }
    }

    /// Whether there is nothing to mask.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The longest first: one may be a part of another. The shortest are in too much that is no secret.
    fn sort(&mut self) {
        self.texts.retain(|secret| secret.len() >= limits::MASKED_BYTES);
        self.texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.texts.dedup();
    }

    /// A tenant may have written a URL into its notes too.
    fn mask_repeated(&mut self, task: &mut Task) {
        let meta = task.meta.iter_mut().map(|(key, value)| (format!("task.meta.{key}"), value));
        let args = task.args.iter_mut().enumerate();
        let args = args.map(|(index, value)| (format!("task.args.{index}"), value));
        for (place, value) in meta.chain(args) {
            let masked = self.without(value);
            if masked != *value {
                self.places.push(place);
                *value = masked;
            }
        }
    }

    /// A text without them.
    pub fn without(&self, text: &str) -> String {
        let fold = |text: String, secret: &String| {
            if text.contains(secret) { text.replace(secret, MASK) } else { text }
        };
        let text = self.texts.iter().fold(text.to_owned(), fold);
        match text.strip_suffix(CUT) {
            Some(kept) => self.without_begun(kept) + CUT,
            None => text,
        }
    }

    /// A text that was cut may end in the middle of one.
    fn without_begun(&self, text: &str) -> String {
        let begun = |secret: &String| {
            let ends = secret.char_indices().map(|(at, _)| at).rev();
            let parts = ends.take_while(|at| *at >= limits::MASKED_BYTES);
            let mut parts = parts.filter_map(|at| secret.get(..at));
            parts.find_map(|part| text.strip_suffix(part)).map(|kept| format!("{kept}{MASK}"))
        };
        let shortest = self.texts.iter().filter_map(begun).min_by_key(String::len);
        shortest.unwrap_or_else(|| text.to_owned())
    }

    /// Masks them in a text.
    pub fn clean(&self, text: &mut String) {
        *text = self.without(text);
    }

    /// Masks them in every text of a value.
    pub fn clean_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.clean(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean_value(item)),
            Value::Object(map) => map.values_mut().for_each(|item| self.clean_value(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Masks them in violations.
    pub fn clean_violations(&self, violations: &mut [Violation]) {
        for Violation { code, field, message, hint } in violations {
            for text in [code, field, message].into_iter().chain(hint) {
                self.clean(text);
            }
        }
    }

    /// Masks them in what policies wrote into a launch.
    pub fn clean_launch(&self, launch: &mut Launch) {
        let Launch { accelerator: _, ports, resources: _, egress: _, warnings, extensions } =
            launch;
        warnings.iter_mut().for_each(|warning| self.clean(warning));
        ports.iter_mut().for_each(|port| self.clean(&mut port.label));
        for (key, value) in extensions {
            self.clean(key);
            self.clean(value);
        }
    }
}

/// The mark at the end of a text that was cut.
const CUT: &str = "…";

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
        secrets.queries(&mut request);
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

    /// What a policy says is cut at its limit, which may be inside of a secret.
    #[test]
    fn a_secret_that_was_cut_is_masked() {
        check("sig=0123456789abcdef", "the URL …?sig=0123456…", "the URL …?***…");
        check("sig=0123456789abcdef", "only 012…", "only 012…");
        check("sig=0123456789abcdef", "not cut: 0123456", "not cut: 0123456");
    }
}
