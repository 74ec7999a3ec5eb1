//! Shows a guest's console on a terminal. Text stays. Colours, movements of the cursor and erasures are left out, since firmware begins
//! with some. Other sequences that would steer the terminal are escaped. The bytes come in pieces, which may end anywhere.

use super::is_deceptive;

/// The most bytes of a sequence that is left out.
const SEQUENCE_BYTES: usize = 64;

/// The bytes read so far whose meaning depends on those to come: parts of a character, of a line break or of a control sequence.
#[derive(Default)]
pub struct Console {
    pending: Vec<u8>,
}

/// The meaning of the next bytes.
enum Next {
    /// So many bytes are shown as this text.
    Shown(usize, String),
    /// The bytes begin something that more bytes decide.
    Unfinished,
}

impl Console {
    /// Takes the next bytes, and gives the text to show.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        self.show(false)
    }

    /// Gives the text to show when no more bytes come.
    pub fn finish(&mut self) -> String {
        self.show(true)
    }

    fn show(&mut self, is_end: bool) -> String {
        let mut rest = self.pending.as_slice();
        let mut text = String::new();
        while !rest.is_empty() {
            match next(rest) {
                Next::Shown(length, shown) => {
                    text += &shown;
                    rest = rest.get(length..).unwrap_or_default();
                }
                Next::Unfinished if is_end => {
                    text += &rest.escape_ascii().to_string();
                    rest = &[];
                }
                Next::Unfinished => break,
            }
        }
        self.pending = rest.to_vec();
        text
    }
}

fn next(bytes: &[u8]) -> Next {
    match bytes {
        [b'\n' | b'\t' | b' '..=b'~', ..] => {
            let is_plain = |byte: &&u8| matches!(byte, b'\n' | b'\t' | b' '..=b'~');
            let length = bytes.iter().take_while(is_plain).count();
            let plain = bytes.get(..length).unwrap_or_default();
            Next::Shown(length, String::from_utf8_lossy(plain).into_owned())
        }
        [b'\r', b'\n', ..] => Next::Shown(2, "\n".into()),
        [b'\r' | b'\x1b'] | [b'\x1b', b'['] => Next::Unfinished,
        [b'\x1b', b'[', rest @ ..] => sequence(rest),
        // The sequence resets the terminal (RIS).
        [b'\x1b', b'c', ..] => Next::Shown(2, String::new()),
        [..] => character(bytes),
    }
}

/// Reads a control sequence behind its introducer. Sequences that set colours or modes, move the cursor or erase are left out (ECMA-48,
/// 8.3).
fn sequence(rest: &[u8]) -> Next {
    let is_parameter = |byte: &&u8| matches!(byte, b'0'..=b'9' | b';' | b':' | b'?');
    let length = rest.iter().take_while(is_parameter).count();
    match rest.get(length) {
        Some(b'A'..=b'H' | b'J' | b'K' | b'h' | b'l' | b'm') => {
            Next::Shown(length + 3, String::new())
        }
        None if length < SEQUENCE_BYTES => Next::Unfinished,
        Some(_) | None => Next::Shown(1, '\x1b'.escape_default().to_string()),
    }
}

/// Reads one character that is not plain ASCII, or a byte that is no character.
fn character(bytes: &[u8]) -> Next {
    let first = bytes.get(..bytes.len().min(4)).unwrap_or_default();
    let (text, is_cut) = match str::from_utf8(first) {
        Ok(text) => (text, false),
        Err(error) => {
            let valid = first.get(..error.valid_up_to()).unwrap_or_default();
            (str::from_utf8(valid).unwrap_or_default(), error.error_len().is_none())
        }
    };
    match (text.chars().next(), first.first()) {
        (Some(c), _) if is_deceptive(c) => {
            Next::Shown(c.len_utf8(), c.escape_default().to_string())
        }
        (Some(c), _) => Next::Shown(c.len_utf8(), c.into()),
        (None, Some(_)) if is_cut => Next::Unfinished,
        (None, Some(byte)) => Next::Shown(1, byte.escape_ascii().to_string()),
        (None, None) => Next::Unfinished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &[u8] = b"\x1b[1;32mok\x1b[0m\r\n\tgr\xc3\xbcn\x1b]0;title\x07\x1b[2J\x1b]52;c;aGk=\x1b\\\r50 %\xff\xe2\x80\xae\xc2\x9bm\x1b[38:5:1mred\n";
    const SHOWN: &str = "ok\n\tgrün\\u{1b}]0;title\\u{7}\\u{1b}]52;c;aGk=\\u{1b}\\\\r50 %\\xff\\u{202e}\\u{9b}mred\n";

    /// The text shown is the same wherever the pieces are cut.
    #[test]
    fn a_sequence_may_be_cut_anywhere() {
        for size in 1..HOSTILE.len() {
            let mut console = Console::default();
            let pieces = HOSTILE.chunks(size).map(|piece| console.push(piece));
            let mut shown: String = pieces.collect();
            shown += &console.finish();
            assert_eq!(shown, SHOWN, "in pieces of {size}");
        }
    }

    #[test]
    fn what_has_no_end_is_shown_escaped() {
        for (bytes, shown) in
            [(&b"a\x1b[3"[..], "a\\x1b[3"), (b"a\r", "a\\r"), (b"a\xe2\x80", "a\\xe2\\x80")]
        {
            let mut console = Console::default();
            let text = console.push(bytes) + &console.finish();
            assert_eq!(text, shown);
        }
        // A sequence without an end is not waited for.
        let mut console = Console::default();
        let endless = [&b"\x1b["[..], &[b'1'; 100]].concat();
        assert!(console.push(&endless).starts_with("\\u{1b}[111"));
    }
}
