//! The cookie of a session.

use axum::http::{HeaderMap, header};

/// The cookie's name: browsers take a cookie with this prefix over TLS alone, and send it to the very host that set it (RFC 6265bis,
/// 4.1.3.2).
pub(crate) const NAME: &str = "__Host-qhost";
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

/// The token in a request's session cookie.
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

/// The header by which a browser forgets the cookie.
pub(crate) fn ended() -> String {
    format!("{NAME}=; Max-Age=0; {ATTRIBUTES}")
}
