//! The task's `config` block, the same in both forms: the keys that Nomad's QEMU driver documents, and qhost's own.

use url::Url;

use super::{
    Accelerator, Egress, ImageRequest,
    cursor::{Cursor, Object},
};
use crate::limits;

pub(super) const KEYS: &[&str] = &[
    "image_source",
    "checksum",
    "accelerator",
    "host_port",
    "guest_ports",
    "port_map",
    "args",
    "egress",
];

/// The block's values but for the ports, which need the rest of the job to be understood.
pub(super) struct Config {
    pub(super) image: Option<ImageRequest>,
    pub(super) accelerator: Option<Accelerator>,
    pub(super) args: Vec<String>,
    pub(super) egress: Egress,
}

pub(super) fn read(config: &Object<'_>) -> Config {
    let source = config
        .required("image_source", "the http or https URL of a disk image")
        .and_then(image_source);
    let sha256 = config.required("checksum", "the SHA-256 of the image").and_then(|checksum| {
        let text = checksum.value().as_str().and_then(|text| text.parse().ok());
        text.or_else(|| {
            checksum.refuse_with_hint(
                "64 hexadecimal digits, the SHA-256 of the image",
                "print it with: sha256sum FILE",
            )
        })
    });
    Config {
        image: source.zip(sha256).map(|(source, sha256)| ImageRequest { source, sha256 }),
        accelerator: config
            .optional("accelerator")
            .and_then(|accelerator| accelerator.word(Accelerator::ALL, Accelerator::name)),
        args: config.optional("args").and_then(args).unwrap_or_default(),
        egress: config
            .optional("egress")
            .and_then(|egress| egress.word(Egress::ALL, Egress::name))
            .unwrap_or(Egress::Isolated),
    }
}

/// URLs in job files are shown to policies, logs and other tenants' operators, so credentials have no place in them.
fn image_source(cursor: Cursor<'_>) -> Option<Url> {
    let expected = "an absolute http or https URL";
    let text = cursor.text(limits::URL_BYTES, expected)?;
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

fn args(cursor: Cursor<'_>) -> Option<Vec<String>> {
    let items = cursor.array(limits::ARGS, "arguments")?;
    let text =
        |item: Cursor<'_>| item.text(limits::ARG_BYTES, "a QEMU argument").map(str::to_owned);
    // Every item is read before the first bad one ends it, so that all are reported.
    let texts: Vec<_> = items.into_iter().map(text).collect();
    texts.into_iter().collect()
}
