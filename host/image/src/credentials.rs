//! Credentials for hosts that images come from, read from a file of the operator's. A credential goes only to the host
//! that it is for, for a source on that host; a redirect elsewhere is followed without any.

use std::{
    collections::BTreeMap, fs::File, io::Read as _, os::unix::fs::MetadataExt as _, path::Path,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::header::HeaderValue;
use serde::Deserialize;
use url::Url;

use qhost_sys::trusted;

use crate::limits;

/// The secret for each host, by `HOST` or `HOST:PORT`.
#[derive(Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Credentials(BTreeMap<String, Secret>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    username: Option<String>,
    password: Option<String>,
    bearer: Option<String>,
    /// Whether the secret may be sent over http, where every host on the way can read it.
    #[serde(default)]
    http: bool,
}

impl Credentials {
    /// Reads the file. The error says why the file cannot be used, and quotes nothing of it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        trusted::check(path).map_err(|error| error.to_string())?;
        let file = File::open(path).map_err(|error| error.to_string())?;
        let found = file.metadata().map_err(|error| error.to_string())?;
        if found.mode() & 0o077 != 0 {
            return Err(format!(
                "others can read it (mode {:o}); use chmod 600",
                found.mode() & 0o777
            ));
        }
        let mut text = String::new();
        let read = file.take(limits::CREDENTIALS_BYTES).read_to_string(&mut text);
        read.map_err(|error| error.to_string())?;
        // The parser's own message would show the line, which has the secret.
        let all: Self = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
            format!("line {line} is not understood; expected [\"HOST\"] with username and password, or bearer")
        })?;
        if let Some((host, _)) = all.0.iter().find(|(_, secret)| secret.header().is_none()) {
            return Err(format!("{host:?} needs username and password, or bearer alone"));
        }
        let lower = |(host, secret): (String, Secret)| (host.to_ascii_lowercase(), secret);
        Ok(Self(all.0.into_iter().map(lower).collect()))
    }

    /// The header that a URL's host gets; a secret for `HOST` is for the scheme's own port.
    pub(super) fn header(&self, url: &Url) -> Option<HeaderValue> {
        let host = url.host_str()?;
        let with_port = format!("{host}:{}", url.port_or_known_default()?);
        let secret = match url.port() {
            None => self.0.get(host).or_else(|| self.0.get(&with_port)),
            Some(_) => self.0.get(&with_port),
        }?;
        (url.scheme() == "https" || secret.http).then(|| secret.header())?
    }
}

impl Secret {
    fn header(&self) -> Option<HeaderValue> {
        let value = match (&self.username, &self.password, &self.bearer) {
            (Some(name), Some(password), None) => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
            }
            (None, None, Some(token)) => format!("Bearer {token}"),
            (_, _, _) => return None,
        };
        let mut header = HeaderValue::from_str(&value).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}
