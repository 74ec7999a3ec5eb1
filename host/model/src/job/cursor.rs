//! Reads JSON values and keeps their places. Each reader returns `None` after it has noted a problem, so that reading
//! goes on and finds other problems too.

use std::{fmt::Display, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::error::{Problem, Problems};
use crate::{limits, printable};

/// A value and its place in the file.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    value: &'a Value,
    pointer: String,
    problems: &'a Problems,
}

/// A JSON pointer one step further (RFC 6901). A step that is longer than any known key is cut, with a mark.
pub(crate) fn child(pointer: &str, key: &str) -> String {
    let cut = match key.char_indices().nth(limits::SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", key.get(..end).unwrap_or_default()),
        None => key.to_owned(),
    };
    format!("{pointer}/{}", cut.replace('~', "~0").replace('/', "~1"))
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Self { value, pointer: String::new(), problems }
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Notes the problem that something else was expected here.
    pub(crate) fn refuse<T>(&self, expected: impl Into<String>) -> Option<T> {
        self.problem(Problem::new(&self.pointer, describe(self.value), expected))
    }

    pub(crate) fn refuse_with_hint<T>(
        &self,
        expected: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.problem(Problem::new(&self.pointer, describe(self.value), expected).hint(hint))
    }

    /// Notes a problem in words of its own, with a hint.
    pub(crate) fn fault_with_hint<T>(
        &self,
        found: impl Into<String>,
        expected: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.problem(Problem::new(&self.pointer, found, expected).hint(hint))
    }

    /// Notes that something else was expected here, and hints at the known word that is most like what was found.
    pub(crate) fn refuse_with_nearest<T>(
        &self,
        expected: impl Into<String>,
        found: &str,
        known: &[&str],
    ) -> Option<T> {
        match nearest(found, known).filter(|_| !self.problems.are_many()) {
            Some(near) => self.refuse_with_hint(expected, format!("did you mean {near}?")),
            None => self.refuse(expected),
        }
    }

    /// Notes a problem in words of its own.
    pub(crate) fn fault<T>(
        &self,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Option<T> {
        self.problem(Problem::new(&self.pointer, found, expected))
    }

    fn problem<T>(&self, problem: Problem) -> Option<T> {
        self.problems.push(problem);
        None
    }

    /// Reads an object whose keys are all among `known`; every other key is a problem.
    pub(crate) fn object(self, known: &[&str]) -> Option<Object<'a>> {
        self.object_with_hints(known, &[])
    }

    /// Reads an object whose keys are all among `known`; `hints` says what to do about some others.
    pub(crate) fn object_with_hints(
        self,
        known: &[&str],
        hints: &[(&str, &str)],
    ) -> Option<Object<'a>> {
        let object = self.any_object("an object")?;
        for key in object.map.keys().filter(|key| !known.contains(&key.as_str())) {
            let found = format!("unknown key {}", quoted(key));
            let place = child(&object.cursor.pointer, key);
            let hint = hints.iter().find(|(hinted, _)| hinted == key);
            let near = if object.cursor.problems.are_many() { None } else { nearest(key, known) };
            let problem = match (hint, near) {
                (Some((_, hint)), _) => {
                    Problem::new(place, found, "nothing of that name").hint(*hint)
                }
                (None, near) => {
                    let problem =
                        Problem::new(place, found, format!("one of {}", known.join(", ")));
                    match near {
                        Some(near) => problem.hint(format!("did you mean {near}?")),
                        None => problem,
                    }
                }
            };
            object.cursor.problems.push(problem);
        }
        Some(object)
    }

    /// Reads an object with keys of the tenant's choice.
    pub(crate) fn any_object(self, expected: &str) -> Option<Object<'a>> {
        match self.value.as_object() {
            Some(map) => Some(Object { cursor: self, map }),
            None => self.refuse(expected),
        }
    }

    /// Reads the items of an array of at most `most`.
    pub(crate) fn array(self, most: usize, of: &str) -> Option<Vec<Cursor<'a>>> {
        let Value::Array(items) = self.value else {
            return self.refuse(format!("an array of {of}"));
        };
        if items.len() > most {
            return self.refuse(format!("at most {most} {of}"));
        }
        Some(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| self.step(&index.to_string(), item))
                .collect(),
        )
    }

    /// Reads a string of 1 to `most` bytes without control characters.
    pub(crate) fn text(&self, most: usize, what: &str) -> Option<&'a str> {
        let fits =
            |text: &&str| (1..=most).contains(&text.len()) && !text.contains(char::is_control);
        match self.value.as_str().filter(fits) {
            Some(text) => Some(text),
            None => self.refuse(format!("{what}: 1 to {most} bytes, no control characters")),
        }
    }

    /// Reads a string of at most `most` bytes, with any characters.
    pub(crate) fn free_text(&self, most: usize, what: &str) -> Option<&'a str> {
        match self.value.as_str().filter(|text| text.len() <= most) {
            Some(text) => Some(text),
            None => self.refuse(format!("{what}: a string of at most {most} bytes")),
        }
    }

    /// Reads a whole number in a range.
    pub(crate) fn number<N>(&self, range: RangeInclusive<N>, what: &str) -> Option<N>
    where
        N: TryFrom<u64> + PartialOrd + Display,
    {
        let number = self.value.as_u64().and_then(|number| N::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.refuse(format!(
                "{what}: a whole number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    /// Reads true or false.
    pub(crate) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.refuse("true or false"))
    }

    /// Reads one of a fixed set of words.
    pub(crate) fn word<T: Copy>(&self, all: &[T], name: fn(T) -> &'static str) -> Option<T> {
        let found = self.value.as_str();
        match all.iter().copied().find(|one| Some(name(*one)) == found) {
            Some(one) => Some(one),
            None => {
                let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
                let expected = format!("one of {}", names.join(", "));
                self.refuse_with_nearest(expected, found.unwrap_or_default(), &names)
            }
        }
    }

    fn step(&self, key: &str, value: &'a Value) -> Cursor<'a> {
        Cursor { value, pointer: child(&self.pointer, key), problems: self.problems }
    }
}

/// An object and its place in the file. `null` counts as absent: Nomad's API writes it for values that were not given.
pub(crate) struct Object<'a> {
    cursor: Cursor<'a>,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(crate) fn here(&self) -> &Cursor<'a> {
        &self.cursor
    }

    pub(crate) fn optional(&self, key: &str) -> Option<Cursor<'a>> {
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(self.cursor.step(key, value))
    }

    /// The key's value; its absence is a problem.
    pub(crate) fn required(&self, key: &str, expected: &str) -> Option<Cursor<'a>> {
        self.optional(key).or_else(|| {
            self.cursor.problem(Problem::new(child(&self.cursor.pointer, key), "nothing", expected))
        })
    }

    /// Notes a problem for each key that asks for something that qhost would silently not do.
    pub(crate) fn unsupported(&self, keys: &[&str], why: &str) {
        for key in keys {
            let Some(cursor) = self.optional(key) else { continue };
            if !asks_nothing(cursor.value) {
                cursor.refuse_with_hint::<()>("nothing", why);
            }
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, Cursor<'a>)> + '_ {
        self.map.iter().map(|(key, value)| (key.as_str(), self.cursor.step(key, value)))
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

/// Whether Nomad writes this value where none was given.
pub(crate) fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Null => true,
    }
}

/// Describes a value in a few words that are safe to print.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.is_empty() => "an empty string".into(),
        Value::String(text) if text.len() > limits::SHOWN_CHARS => {
            format!("a string of {} bytes, {}", text.len(), quoted(&without_query(text)))
        }
        Value::String(text) => format!("the string {}", quoted(&without_query(text))),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}

/// A text without its URL's query, which may be a signature and is in no error.
fn without_query(text: &str) -> String {
    match text.split_once('?') {
        Some((url, _)) if url.contains('/') => format!("{url}?…"),
        Some(_) | None => text.to_owned(),
    }
}

pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable::line(text, limits::SHOWN_CHARS))
}

/// A URL in quotes, without its query, which may be a signature.
pub(crate) fn quoted_url(text: &str) -> String {
    format!("\"{}\"", printable::line(&without_query(text), limits::URL_BYTES))
}

/// The known word that is most like `word`, ignoring case and separators, if one is at all like it.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // The distance takes quadratic time, and no key is this long.
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let word = plain(word);
    known
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(&word, &plain(known)), *known))
        .filter(|(likeness, _)| *likeness >= 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
