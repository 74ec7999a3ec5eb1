//! The bounds on the texts of a seed.

use crate::{job::cursor::Cursor, limits};

/// Checks a text's length and characters. The text may be secret, so that no error shows any of it.
pub(super) fn fits(given: &Cursor<'_>, text: String, what: &str) -> Option<String> {
    if text.len() > limits::SEED_PART_BYTES {
        let found = format!("{what} of {} bytes", text.len());
        return given.fault(found, format!("at most {} bytes", limits::SEED_PART_BYTES));
    }
    // Python, in which cloud-init is written, takes some of these for blanks and line breaks.
    if text.contains(|c: char| c.is_control() && !"\t\r\n".contains(c)) {
        let expected = format!("{what} without control characters but tabs and line breaks");
        return given.fault("a control character", expected);
    }
    Some(text)
}
