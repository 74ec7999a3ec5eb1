//! Requests that are recognised when they are sent again, by their `Idempotency-Key`.

use axum::http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use qhost_model::digest::Sha256;

use crate::{limits, problem::Problem};

/// The header by which a repeated request is recognised.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A key with the digest of the request.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Idempotency {
    pub(crate) key: String,
    pub(crate) request: Sha256,
}

impl Idempotency {
    /// Reads the key from a request's headers; `request` is everything that the request depends on.
    pub(crate) fn of(headers: &HeaderMap, request: &[&[u8]]) -> Result<Option<Self>, Problem> {
        let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let key = key.to_str().ok().filter(|key| (1..=limits::KEY_BYTES).contains(&key.len()));
        let most = limits::KEY_BYTES;
        let expected = || {
            Problem::invalid(format!("Idempotency-Key: expected 1 to {most} characters of ASCII"))
        };
        let request = Sha256::of(&request.join(&0));
        Ok(Some(Self { key: key.ok_or_else(expected)?.to_owned(), request }))
    }
}
