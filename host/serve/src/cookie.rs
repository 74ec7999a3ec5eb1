//! The cookie that a session is.

use axum::http::{HeaderMap, header};

/// Its name: browsers take one that begins so over TLS alone, and send it to the very host that set it (RFC 6265bis, 4.1.3.2).
pub(crate) const NAME: &str = "__Host-qhost";
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

/// The token of a request's session.
pub(crate) fn token(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|one| one.split_once('='));
    let (_, token) = cookies.find(|(name, _)| name.trim() == NAME)?;
    Some(token.trim().to_owned())
}

/// The cookie of a session with a token.
pub(crate) fn of(token: &str) -> String {
    format!("{NAME}={token}; {ATTRIBUTES}")
}

/// What has a browser forget it.
pub(crate) fn ended() -> String {
    format!("{NAME}=; Max-Age=0; {ATTRIBUTES}")
}
