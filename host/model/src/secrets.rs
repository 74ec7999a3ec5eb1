//! The secrets of a task, and how they are masked in texts. Nothing here does I/O.

use std::fmt;

use serde_json::Value;
use url::form_urlencoded;

use crate::{limits, printable};

/// The mark that stands in a secret's place.
pub const MASK: &str = "***";

/// The secrets of one task.
#[derive(Clone, Default)]
pub struct Secrets {
    texts: Vec<String>,
    /// The places in the task where secrets stood, as paths.
    places: Vec<String>,
}

/// Shows the places where secrets stood, and no secret.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Secrets {
    /// The places in the task where secrets stood, as paths.
    pub fn places(&self) -> &[String] {
        &self.places
    }

    pub(crate) fn take(&mut self, place: String, secret: String) {
        self.places.push(place);
        self.texts.push(secret);
    }

    /// Adds a further text of a place that was taken.
    pub(crate) fn also(&mut self, secret: &str) {
        self.texts.push(secret.to_owned());
        self.texts.push(printable::line(secret, usize::MAX).to_string());
    }

    /// Adds a query's value in each form in which a policy may repeat it.
    pub(crate) fn value(&mut self, raw: &str) {
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

    /// Sorts the longest first, since a secret may be a part of another, and drops the shortest, which much text has
    /// that is no secret.
    pub(crate) fn sort(&mut self) {
        self.texts.retain(|secret| secret.len() >= limits::MASKED_BYTES);
        self.texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.texts.dedup();
    }

    /// Drops the texts that are no secrets after all.
    pub(crate) fn retain(&mut self, is_secret: impl Fn(&str) -> bool) {
        self.texts.retain(|secret| is_secret(secret));
    }

    /// Masks secrets in a text of the task's own, and notes the text's place if it had any.
    pub(crate) fn mask_at(&mut self, place: String, text: &mut String) {
        let masked = self.without(text);
        if masked != *text {
            self.places.push(place);
            *text = masked;
        }
    }

    /// Gives a text with its secrets masked.
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

    /// Masks the beginning of a secret at the end of a text that was cut.
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

    /// Masks secrets in a text, in place.
    pub fn clean(&self, text: &mut String) {
        *text = self.without(text);
    }

    /// Masks secrets in every text of a value, in place.
    pub fn clean_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.clean(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean_value(item)),
            Value::Object(map) => map.values_mut().for_each(|item| self.clean_value(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The mark at the end of a text that was cut.
const CUT: &str = "…";
