//! Reads the top-level keys of a YAML mapping. This parser reads YAML 1.2, and cloud-init's parser, PyYAML, reads YAML 1.1: a text that
//! the two could read differently is refused, so that no key is hidden from a policy. Aliases are not expanded, so that a few bytes
//! cannot become many.

use saphyr_parser::{Event, Parser};

use crate::limits;

/// Why a text has no list of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAMapping {
    /// The line, from 1; 0 for the whole text.
    pub(super) line: usize,
    pub(super) why: &'static str,
}

fn not(line: usize, why: &'static str) -> NotAMapping {
    NotAMapping { line, why }
}

/// Characters that YAML 1.1, and so PyYAML, takes for line breaks, and YAML 1.2 does not.
const OTHER_BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// Reads the keys, and sorts them.
pub(super) fn keys(text: &str) -> Result<Vec<String>, NotAMapping> {
    if let Some(at) = text.find(OTHER_BREAKS) {
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        return Err(not(
            line,
            "a line break other than \\n, which hides what follows from some readers",
        ));
    }
    let mut keys = vec![];
    // The depth inside of the mapping at the top, which itself is 1.
    let mut depth = 0_usize;
    let (mut is_key, mut documents) = (true, 0);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| not(error.marker().line(), "invalid YAML"))?;
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) if documents == 0 => documents = 1,
            Event::DocumentStart(_) => return Err(not(line, "a second document")),
            Event::MappingStart(_, Some(_)) if depth == 0 => {
                return Err(not(
                    line,
                    "a tag at the top, by which it may be read as something else",
                ));
            }
            Event::MappingStart(..) if depth == 0 => depth = 1,
            Event::Scalar(..) | Event::SequenceStart(..) | Event::Alias(_) if depth == 0 => {
                return Err(not(line, "no mapping, which begins with a key and a colon"));
            }
            // PyYAML merges the value of a key tagged `!!merge`, whatever the key's text is.
            Event::Scalar(_, _, _, Some(_)) if depth == 1 && is_key => {
                return Err(not(
                    line,
                    "a key with a tag at the top, by which it may be read as something else",
                ));
            }
            Event::Scalar(key, ..) if depth == 1 && is_key => {
                match &*key {
                    "<<" => {
                        return Err(not(line, "a merge key at the top, which hides what it adds"));
                    }
                    key if key.len() > limits::SEED_KEY_BYTES => {
                        return Err(not(line, "a key at the top of more than 128 bytes"));
                    }
                    key => keys.push(key.to_owned()),
                }
                is_key = false;
            }
            Event::MappingStart(..) | Event::SequenceStart(..) | Event::Alias(_)
                if depth == 1 && is_key =>
            {
                return Err(not(line, "a key at the top that is no plain word"));
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => {
                depth = depth.saturating_sub(1);
                is_key = true;
            }
            Event::Scalar(..) | Event::Alias(_) if depth == 1 => is_key = true,
            Event::Scalar(..)
            | Event::Alias(_)
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentEnd => {}
        }
        if keys.len() > limits::SEED_KEYS {
            return Err(not(line, "more than 256 keys at the top"));
        }
    }
    if documents == 0 {
        return Err(not(0, "nothing in it"));
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_at_the_top_is_found() {
        for (text, expected) in [
            ("#cloud-config\nusers:\n  - name: a\nruncmd: [a, b]\n", &["runcmd", "users"][..]),
            ("{\"users\": [{\"name\": \"a\"}], \"x\": {\"users\": 1}}", &["users", "x"]),
            ("\"us\\x65rs\": []\n? 'a b'\n: c\n", &["a b", "users"]),
            ("---\na: &x {b: c}\nd: *x\ne: |\n  users:\n   - a\n", &["a", "d", "e"]),
            ("a: 1\na: 2\n", &["a"]),
            ("a:\n", &["a"]),
        ] {
            assert_eq!(keys(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_could_hide_a_key_is_refused() {
        for (text, line, why) in [
            ("x: &a {users: []}\n<<: *a\n", 2, "merge key"),
            ("!!merge x: {users: []}\n", 1, "a key with a tag"),
            ("!<tag:yaml.org,2002:merge> x: {users: []}\n", 1, "a key with a tag"),
            ("%TAG !y! tag:yaml.org,2002:\n---\n!y!merge x: {users: []}\n", 3, "a key with a tag"),
            ("!!omap\nusers: []\n", 1, "a tag at the top"),
            ("a: x\u{2028}users: []\n", 1, "line break"),
            ("a: 1\n---\nusers: []\n", 2, "second document"),
            ("- a\n", 1, "no mapping"),
            ("just words\n", 1, "no mapping"),
            ("a: &k users\n? *k\n: []\n", 2, "plain word"),
            ("? [a]\n: b\n", 1, "plain word"),
            ("a: [\n", 2, "invalid YAML"),
            ("#cloud-config\n", 0, "nothing"),
        ] {
            let found = keys(text).unwrap_err();
            assert!(found.line == line && found.why.contains(why), "{text:?}: {found:?}");
        }
    }
}
