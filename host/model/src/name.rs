//! Names of policies and tenants.

use crate::limits;

/// Whether a text can name a policy or a tenant: letters, digits, `-`, `_` and `.`, up to the contract's length.
pub fn is_name(text: &str) -> bool {
    (1..=limits::POLICY_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
