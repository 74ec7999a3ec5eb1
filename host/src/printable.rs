//! Text that came from a tenant, a guest, a policy or QEMU, made safe to show on a terminal or in a log.

use std::fmt;

/// Shows text on one line: control characters and those that change the direction of text are escaped, and text
/// beyond a number of characters is cut, with a mark.
pub struct Printable<'a> {
    text: &'a str,
    most: usize,
    keep_newlines: bool,
}

/// One line of at most `most` characters.
pub fn line(text: &str, most: usize) -> Printable<'_> {
    Printable { text, most, keep_newlines: false }
}

/// Several lines of at most `most` characters together.
pub fn lines(text: &str, most: usize) -> Printable<'_> {
    Printable { text, most, keep_newlines: true }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
        if self.text.len() <= self.most && self.text.as_bytes().iter().all(is_plain) {
            return f.write_str(self.text);
        }
        // What is shown is counted, not what is read: text that was shown before is then shown as it is.
        let mut shown = 0;
        for character in self.text.chars() {
            let escaped = match character {
                '\n' if self.keep_newlines => false,
                c => c.is_control() || is_invisible(c),
            };
            shown += if escaped { character.escape_default().count() } else { 1 };
            if shown > self.most {
                return f.write_str("…");
            }
            match escaped {
                true => write!(f, "{}", character.escape_default())?,
                false => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// JSON text in which no character steers a terminal: those that JSON leaves as they are become `\\u` escapes, which mean
/// the same. Such characters stand only inside JSON's strings.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_invisible(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                safe += &format!("\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Characters that show nothing themselves but change how others are shown: Unicode's bidirectional and zero-width
/// formatting characters, line and paragraph separators, tags ("Trojan Source", CVE-2021-42574).
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let hostile = "a\x1b[2J\r\n\u{9b}\u{202e}\0é";
        assert_eq!(line(hostile, 99).to_string(), r"a\u{1b}[2J\r\n\u{9b}\u{202e}\u{0}é");
        assert_eq!(lines("a\nb\r", 99).to_string(), "a\nb\\r");
        assert_eq!(line("abcdef", 3).to_string(), "abc…");
        assert_eq!(line("abc", 3).to_string(), "abc");
        // Shown once or twice, it is the same: a policy's warning comes round again.
        for most in 0..20 {
            let once = line(hostile, most).to_string();
            assert_eq!(line(&once, most).to_string(), once);
        }
        assert_eq!(json("\"\u{9b}\u{e0001}\""), r#""\u009b\udb40\udc01""#);
    }
}
