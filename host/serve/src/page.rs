//! The operators' page: its files are built from `page/` and are part of this program, so that the page loads nothing from elsewhere.

use std::{borrow::Cow, collections::HashMap, io::Write as _, sync::LazyLock};

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use rust_embed::RustEmbed;

use qhost_model::digest::Sha256;

use crate::problem::Problem;

#[derive(RustEmbed)]
#[folder = "page/built"]
struct Built;

/// What a browser may do on this page: run its own scripts, use its own styles, and ask this service alone (Content Security Policy, level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// A file of the page.
struct Asset {
    kind: &'static str,
    bytes: Cow<'static, [u8]>,
    /// The bytes compressed for browsers that take gzip, if that is smaller.
    packed: Option<Vec<u8>>,
    tag: String,
}

static ASSETS: LazyLock<HashMap<String, Asset>> = LazyLock::new(|| {
    let asset = |name: Cow<'static, str>| Some((name.to_string(), Asset::of(&name)?));
    Built::iter().filter_map(asset).collect()
});

impl Asset {
    fn of(name: &str) -> Option<Self> {
        let bytes = Built::get(name)?.data;
        let packed = packed(&bytes).filter(|packed| packed.len() < bytes.len());
        let tag = format!("\"{}\"", Sha256::of(&bytes));
        Some(Self { kind: kind(name), bytes, packed, tag })
    }

    fn answer(&'static self, headers: &HeaderMap, lasts: &'static str) -> Response {
        let says = |name, what: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|it| it.contains(what))
        };
        let mut answer = if says(header::IF_NONE_MATCH, &self.tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if let Some(packed) =
            self.packed.as_deref().filter(|_| says(header::ACCEPT_ENCODING, "gzip"))
        {
            ([(header::CONTENT_ENCODING, "gzip")], packed).into_response()
        } else {
            self.bytes.as_ref().into_response()
        };
        let fixed = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, lasts),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
        answer.headers_mut().extend(fixed);
        if let Ok(tag) = HeaderValue::from_str(&self.tag) {
            answer.headers_mut().insert(header::ETAG, tag);
        }
        answer
    }
}

fn packed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut packing = GzEncoder::new(vec![], Compression::best());
    packing.write_all(bytes).ok()?;
    packing.finish().ok()
}

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// The page itself, which names its assets by their digests: a browser asks for it each time.
pub(crate) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", &headers, "no-cache")
}

/// What the page is made of: a file whose bytes change has another name.
pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&format!("assets/{name}"), &headers, "public, max-age=31536000, immutable")
}

fn answer(name: &str, headers: &HeaderMap, lasts: &'static str) -> Response {
    match ASSETS.get(name) {
        Some(asset) => asset.answer(headers, lasts),
        None => Problem::not_found("file of the page", name).into_response(),
    }
}
