//! The task's `config` block, the same in both forms: the keys that Nomad's QEMU driver documents, and qhost's own.

use url::Url;

use super::{
    Checksum, ImageRequest, Ready, Restart,
    cursor::{Cursor, Object},
    lifecycle,
};
use crate::{
    launch::{
        self, Asked,
        field::{Place, names_in},
    },
    limits,
};

/// The keys that ask nothing of a launch.
const KEYS: [&str; 6] = ["image_source", "checksum", "args", "persist", "restart", "ready"];

/// All keys.
pub(super) fn keys() -> Vec<&'static str> {
    KEYS.into_iter().chain(names_in(launch::keys(), Place::Config)).collect()
}

/// The block's values but for what is asked of the launch.
pub(super) struct Config {
    pub(super) image: Option<ImageRequest>,
    pub(super) args: Vec<String>,
    pub(super) persist: bool,
    pub(super) restart: Option<Restart>,
    pub(super) ready: Option<Option<Ready>>,
}

/// Which image, from the keys that say so.
pub(super) fn image(config: &Object<'_>) -> Option<ImageRequest> {
    let sources = config
        .required("image_source", "the http or https URL of a disk image, or a list of them")
        .and_then(image_sources);
    let checksum = config.required("checksum", "the SHA-256 of the image").and_then(checksum);
    sources.zip(checksum).map(|((source, mirrors), checksum)| ImageRequest {
        source,
        mirrors,
        checksum,
    })
}

/// Reads it. `asked` is absent where that was wrong.
pub(super) fn read(config: &Object<'_>, asked: Option<&Asked>) -> Config {
    Config {
        image: image(config),
        args: config.optional("args").and_then(args).unwrap_or_default(),
        persist: config.optional("persist").and_then(persist).unwrap_or(false),
        restart: match config.optional("restart") {
            Some(restart) => lifecycle::restart(restart),
            None => Some(Restart::default()),
        },
        ready: lifecycle::ready_of(config, asked.map(|asked| asked.ports.as_slice())),
    }
}

/// One URL, or the first of a list and the others.
fn image_sources(cursor: Cursor<'_>) -> Option<(Url, Vec<Url>)> {
    if !cursor.value().is_array() {
        return url(&cursor, "an absolute http or https URL").map(|source| (source, vec![]));
    }
    let items = cursor.clone().array(limits::IMAGE_SOURCES, "URLs")?;
    if items.is_empty() {
        return cursor.refuse("one URL or more");
    }
    let urls: Vec<_> =
        items.iter().map(|item| url(item, "an absolute http or https URL")).collect();
    let urls = urls.into_iter().collect::<Option<Vec<_>>>()?;
    for (number, item) in items.iter().enumerate() {
        if urls.iter().take(number).any(|earlier| urls.get(number) == Some(earlier)) {
            return item.fault("a URL that is in the list already", "each place once");
        }
    }
    let mut urls = urls.into_iter();
    Some((urls.next()?, urls.collect()))
}

/// `HEX`, `sha256:HEX`, or a list's `URL#sha256=HEX`: the fragment is how Python's packages are pinned (PEP 503).
fn checksum(cursor: Cursor<'_>) -> Option<Checksum> {
    let text = cursor.value().as_str().unwrap_or_default();
    if let Ok(sha256) = text.parse() {
        return Some(Checksum::Image { sha256 });
    }
    let expected = "64 hexadecimal digits, the SHA-256 of the image; or URL#sha256=DIGITS, a list of checksums with its own";
    let Some((list, pin)) = text.rsplit_once("#sha256=") else {
        return cursor.refuse_with_hint(expected, "print it with: sha256sum FILE");
    };
    let Ok(sha256) = pin.parse() else {
        return cursor.refuse_with_hint(expected, "print the list's with: sha256sum SHA256SUMS");
    };
    let sums = plain_url(&cursor, list, "the absolute http or https URL of a list of checksums")?;
    Some(Checksum::List { sums, sha256 })
}

fn url(cursor: &Cursor<'_>, expected: &str) -> Option<Url> {
    plain_url(cursor, cursor.text(limits::URL_BYTES, expected)?, expected)
}

/// URLs in job files are shown to policies, logs and other tenants' operators, so credentials have no place in them.
fn plain_url(cursor: &Cursor<'_>, text: &str, expected: &str) -> Option<Url> {
    if text.len() > limits::URL_BYTES {
        return cursor.refuse(format!("{expected}: at most {} bytes", limits::URL_BYTES));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return cursor.refuse_with_hint(expected, error.to_string()),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return cursor.refuse(format!("{expected}, not {}:", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return cursor.fault("a URL with a user name or password", "a URL without them");
    }
    if url.fragment().is_some() {
        return cursor.refuse("a URL without a fragment");
    }
    Some(url)
}

fn persist(cursor: Cursor<'_>) -> Option<bool> {
    match cursor.value().as_bool() {
        Some(persist) => Some(persist),
        None => cursor.refuse("true or false"),
    }
}

fn args(cursor: Cursor<'_>) -> Option<Vec<String>> {
    let items = cursor.array(limits::ARGS, "arguments")?;
    let text =
        |item: Cursor<'_>| item.text(limits::ARG_BYTES, "a QEMU argument").map(str::to_owned);
    // Every item is read before the first bad one ends it, so that all are reported.
    let texts: Vec<_> = items.into_iter().map(text).collect();
    texts.into_iter().collect()
}
