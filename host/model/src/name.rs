//! Names of policies, tenants and volumes.

use crate::limits;

/// Whether a text can name a policy or a tenant: letters, digits, `-`, `_` and `.`, up to the contract's length.
pub fn is_name(text: &str) -> bool {
    (1..=limits::POLICY_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a text can name a volume: 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or a digit.
pub fn is_volume(text: &str) -> bool {
    is_name(text)
        && text.len() <= limits::VOLUME_NAME_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// What [`is_volume`] accepts, in words for people.
pub const VOLUME: &str =
    "a volume's name: 1 to 64 letters, digits, -, _ and ., the first a letter or a digit";

/// What [`is_volume`] accepts, as a regular expression of JSON Schema.
pub const VOLUME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
