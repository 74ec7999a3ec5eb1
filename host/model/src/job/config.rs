//! The task's `config` block, the same in both forms: the keys of Nomad's QEMU driver, and qhost's own.

use serde_json::Value;
use url::{Url, form_urlencoded};

use super::{
    Checksum, ImageRequest, Ready, Restart,
    cursor::{Cursor, Object},
    lifecycle,
};
use crate::{
    digest::{FileDigest, NotADigest},
    launch::{
        self, Asked,
        field::{Place, names_in},
    },
    limits, printable,
};

/// The keys that do not ask for a field of the launch.
const KEYS: [&str; 5] = ["image_source", "checksum", "args", "restart", "ready"];

/// All keys of the block.
pub(super) fn keys() -> Vec<&'static str> {
    KEYS.into_iter().chain(names_in(launch::keys(), Place::Config)).collect()
}

/// The hints for keys of Nomad's own drivers that qhost does not have.
pub const HINTS: [(&str, &str); 11] = [
    (
        "image_path",
        "qhost reads no file of this host for a job: image_source, the image's URL, and checksum, its SHA-256",
    ),
    (
        "graceful_shutdown",
        "leave it out: a guest's power button is always pressed first, and the grace is kill_timeout or --grace",
    ),
    (
        "drive_interface",
        "leave it out: a disk is a virtio device, for which most images have a driver; a CD is an IDE device, in an aarch64 guest a SCSI device",
    ),
    (
        "default_user_password",
        "a password would stand in the job: put its hash into user_data, under users or chpasswd",
    ),
    ("os", "leave it out: architecture is x86_64 or aarch64, and machine_type pc, q35 or virt"),
    (
        "disk",
        "the root disk is image_source, and disk_bytes where it is to be larger; others are disks, a list of objects with name, and size or volume",
    ),
    (
        "network_interface",
        "leave it out: a guest has one device in QEMU's user-mode network; port_map forwards",
    ),
    (
        "image",
        "qhost reads no file of this host for a job: image_source, the image's URL, and checksum, its SHA-256",
    ),
    (
        "use_thin_copy",
        "leave it out: what a guest writes to its root disk is always an overlay of its own; persist keeps that",
    ),
    (
        "primary_disk_size",
        "disk_bytes, in bytes, where the root disk is to be larger than its image",
    ),
    (
        "provider_config",
        "leave it out: there is no libvirt; machine_type, cpu and firmware are keys of their own",
    ),
];

/// Reads the block of qhost's own form.
pub(super) fn of_own(config: Cursor<'_>) -> Option<Object<'_>> {
    config.object_with_hints(&keys(), &HINTS)
}

/// Reads the block of a Nomad task, in which an artifact can be the image.
pub(super) fn of_nomad(config: Cursor<'_>) -> Option<Object<'_>> {
    let is_path =
        config.value().get("image_path").is_some() && config.value().get("image_source").is_none();
    let mut known = keys();
    known.extend(is_path.then_some("image_path"));
    let object = config.object_with_hints(&known, &HINTS)?;
    for (_, value) in object.entries().filter(|(key, _)| *key != "image_path") {
        refuse_interpolation(value);
    }
    Some(object)
}

/// Notes a problem for each text with a part that an agent would fill in.
fn refuse_interpolation(cursor: Cursor<'_>) {
    match cursor.value() {
        Value::String(text) if text.contains("${") => {
            cursor.refuse_with_hint::<()>(
                "a text without ${…}",
                "only a Nomad agent knows what to put there; write the value itself",
            );
        }
        Value::Array(items) => {
            let items = cursor.array(items.len(), "values").into_iter().flatten();
            items.for_each(refuse_interpolation);
        }
        Value::Object(_) => {
            if let Some(object) = cursor.any_object("an object") {
                object.entries().for_each(|(_, value)| refuse_interpolation(value));
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The place of the image's two keys.
pub(super) enum ImageKeys<'a> {
    /// The keys stand in the block, under their own names.
    InConfig,
    /// The keys stand elsewhere in the task.
    At {
        /// The value for `image_source`.
        source: Cursor<'a>,
        /// The value for `checksum`.
        checksum: Cursor<'a>,
    },
    /// The keys stand nowhere; a problem was noted.
    Refused,
}

/// The block's values, without those that ask for a field of the launch.
pub(super) struct Config {
    pub(super) image: Option<ImageRequest>,
    pub(super) args: Vec<String>,
    pub(super) restart: Option<Option<Restart>>,
    pub(super) ready: Option<Option<Ready>>,
}

/// Reads the image from the keys `image_source` and `checksum`.
pub(crate) fn image(config: &Object<'_>) -> Option<ImageRequest> {
    let source =
        config.required("image_source", "the http or https URL of a disk image, or a list of them");
    let checksum = config.required("checksum", "the SHA-256 of the image");
    image_of(source, checksum)
}

fn image_of(source: Option<Cursor<'_>>, checksum: Option<Cursor<'_>>) -> Option<ImageRequest> {
    let sources = source.and_then(image_sources);
    let checksum = checksum.and_then(self::checksum);
    sources.zip(checksum).map(|((source, mirrors), checksum)| ImageRequest {
        source,
        mirrors,
        checksum,
    })
}

/// Reads the block. `asked` is absent where it could not be read.
pub(super) fn read(config: &Object<'_>, image: ImageKeys<'_>, asked: Option<&Asked>) -> Config {
    Config {
        image: match image {
            ImageKeys::InConfig => self::image(config),
            ImageKeys::At { source, checksum } => image_of(Some(source), Some(checksum)),
            ImageKeys::Refused => None,
        },
        args: config.optional("args").and_then(args).unwrap_or_default(),
        restart: match config.optional("restart") {
            Some(restart) => lifecycle::restart(restart).map(Some),
            None => Some(None),
        },
        ready: lifecycle::ready_of(config, asked.map(|asked| asked.ports.as_slice())),
    }
}

/// Reads one URL, or a list of them as the first and the others.
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

/// Reads `HEX`, `sha256:HEX`, `sha512:HEX`, or a list's `URL#sha256=HEX`, with `&name=NAME` where the list has another name
/// for the file. Python's packages are pinned by such a fragment (PEP 503).
fn checksum(cursor: Cursor<'_>) -> Option<Checksum> {
    let text = cursor.value().as_str().unwrap_or_default();
    match text.parse() {
        Ok(FileDigest::Sha256(sha256)) => return Some(Checksum::Image { sha256 }),
        Ok(FileDigest::Sha512(sha512)) => return Some(Checksum::Sha512 { sha512 }),
        Err(NotADigest { .. }) => {}
    }
    let expected = "64 hexadecimal digits, the SHA-256 of the image, or 128, its SHA-512; or URL#sha256=DIGITS, a list of checksums with its own SHA-256";
    let Some((list, fragment)) = text.split_once('#') else {
        return cursor.refuse_with_hint(expected, hint(text));
    };
    let (mut pin, mut name) = (None, None);
    for (key, value) in form_urlencoded::parse(fragment.as_bytes()) {
        match key.as_ref() {
            "sha256" => pin = value.parse().ok(),
            "name" if is_file_name(&value) => name = Some(value.into_owned()),
            _ => {
                let parts =
                    "#sha256=DIGITS, and &name=NAME where the list has another name for the image";
                return cursor.refuse(format!("{expected}: {parts}"));
            }
        }
    }
    let Some(sha256) = pin else {
        return cursor.refuse_with_hint(expected, "print the list's with: sha256sum SHA256SUMS");
    };
    let sums = plain_url(&cursor, list, "the absolute http or https URL of a list of checksums")?;
    Some(Checksum::List { sums, sha256, name })
}

fn is_file_name(name: &str) -> bool {
    (1..=limits::NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control)
}

/// The hint for a checksum that is nearly one; Nomad's artifacts name a list by `file:`.
fn hint(text: &str) -> String {
    let digits = text.split_once(':').map_or(text, |(_, digits)| digits);
    let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(url) = text.strip_prefix("file:").filter(|url| url.starts_with("http")) {
        // The query is left out, since it may be secret.
        let list = url.split_once('?').map_or(url, |(before, _)| before);
        let list = printable::line(list, limits::SHOWN_CHARS);
        format!("a list is named with its own digest, printed by sha256sum: {list}#sha256=DIGITS")
    } else if text.starts_with("http") {
        "a list is named with its own digest: add #sha256=DIGITS, printed by: sha256sum SHA256SUMS"
            .into()
    } else if is_hex && [32, 40].contains(&digits.len()) {
        "MD5 and SHA-1 can be forged, so they say nothing of an image; print one with: sha256sum FILE".into()
    } else {
        "print it with: sha256sum FILE".into()
    }
}

fn url(cursor: &Cursor<'_>, expected: &str) -> Option<Url> {
    plain_url(cursor, cursor.text(limits::URL_BYTES, expected)?, expected)
}

/// The hint for a path: a job is the same on every host, so that no path of a host is in it.
const IMPORT: &str = "a file of this host's goes into its store with: qhost image import FILE --url URL; the job then names that URL";

/// Reads a URL without credentials, since URLs in job files are shown to policies, logs and other tenants' operators.
fn plain_url(cursor: &Cursor<'_>, text: &str, expected: &str) -> Option<Url> {
    if text.len() > limits::URL_BYTES {
        return cursor.refuse(format!("{expected}: at most {} bytes", limits::URL_BYTES));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) if !text.contains("://") => {
            return cursor.refuse_with_hint(expected, IMPORT);
        }
        Err(error) => return cursor.refuse_with_hint(expected, error.to_string()),
    };
    if !matches!(url.scheme(), "http" | "https") {
        let expected = format!("{expected}, not {}:", url.scheme());
        return if url.scheme() == "file" {
            cursor.refuse_with_hint(expected, IMPORT)
        } else {
            cursor.refuse(expected)
        };
    }
    if !url.username().is_empty() || url.password().is_some() {
        return cursor.fault("a URL with a user name or password", "a URL without them");
    }
    if url.fragment().is_some() {
        return cursor.refuse("a URL without a fragment");
    }
    Some(url)
}

fn args(cursor: Cursor<'_>) -> Option<Vec<String>> {
    let items = cursor.array(limits::ARGS, "arguments")?;
    let text =
        |item: Cursor<'_>| item.text(limits::ARG_BYTES, "a QEMU argument").map(str::to_owned);
    // All items are read before the result is made, so that the problems of all are reported.
    let texts: Vec<_> = items.into_iter().map(text).collect();
    texts.into_iter().collect()
}
