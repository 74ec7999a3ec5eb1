//! Text that came from a tenant, a guest, a policy, a registry or QEMU, made safe to show on a terminal or in a log.

mod console;

use std::{fmt, io};

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup},
};

use crate::limits;
pub use console::Console;

/// Shows text on one line. Control characters, characters that change the direction of text and characters that show
/// nothing are escaped. Text beyond a number of characters is cut, with a mark.
pub struct Printable<'a> {
    text: &'a str,
    most: usize,
    keep_newlines: bool,
}

/// Shows a text as one line of at most `most` characters.
pub fn line(text: &str, most: usize) -> Printable<'_> {
    Printable { text, most, keep_newlines: false }
}

/// Shows a text as several lines of at most `most` characters together.
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
        // Characters are counted as they are shown, so that text which was made safe once is left as it is.
        let mut shown = 0;
        for character in self.text.chars() {
            let escaped = match character {
                '\n' if self.keep_newlines => false,
                // A mark would combine with the character before the text, which is not the text's to change.
                c if shown == 0 && is_mark(c) => true,
                c => is_deceptive(c),
            };
            shown += if escaped { character.escape_default().count() } else { 1 };
            if shown > self.most {
                return f.write_str("…");
            }
            if escaped {
                write!(f, "{}", character.escape_default())?
            } else {
                f.write_char(character)?
            }
        }
        Ok(())
    }
}

/// A word of printable ASCII. Every other character is escaped, blanks too, so that the word cannot pass for several words
/// of its line.
pub fn word(text: &str, most: usize) -> String {
    let is_graphic = |c: char| c.is_ascii_graphic();
    let escaped = |c: char| if is_graphic(c) { c.into() } else { c.escape_unicode().to_string() };
    line(&text.chars().map(escaped).collect::<String>(), most).to_string()
}

/// JSON text in which no character steers a terminal: characters that JSON leaves as they are become `\\u` escapes, which
/// mean the same. Such characters stand only inside of JSON's strings.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_deceptive(character) {
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

/// A line of a log, escaped but for the line break at its end.
pub fn log_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    format!("{}\n", line(text, limits::LOG_LINE_CHARS))
}

/// Writes each line of a log escaped. Each write is one line, as tracing writes it.
pub struct LogWriter<W>(pub W);

impl<W: io::Write> io::Write for LogWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(log_line(bytes).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether a character is not what it looks like, or steers a terminal: controls; characters that change the direction of
/// text ("Trojan Source", CVE-2021-42574); characters that show nothing; blanks other than the space; and characters that
/// Unicode has given no meaning, which each terminal shows in its own way.
fn is_deceptive(character: char) -> bool {
    if matches!(character, ' '..='~') {
        return false;
    }
    let kind = CodePointMapData::<GeneralCategory>::new().get(character);
    GeneralCategoryGroup::Other.contains(kind)
        || GeneralCategoryGroup::Separator.contains(kind)
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
        || is_blank(character)
}

/// Whether a character counts as a sign or letter for Unicode, and shows nothing: BRAILLE PATTERN BLANK, MUSICAL SYMBOL
/// NULL NOTEHEAD, KHITAN SMALL SCRIPT FILLER.
fn is_blank(character: char) -> bool {
    matches!(character, '\u{2800}' | '\u{1d159}' | '\u{16fe4}')
}

/// Whether a character combines with the one before it.
fn is_mark(character: char) -> bool {
    let kind = CodePointMapData::<GeneralCategory>::new().get(character);
    GeneralCategoryGroup::Mark.contains(kind)
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
        // A text is the same when it is shown once or twice: a policy's warning comes round again.
        for most in 0..20 {
            let once = line(hostile, most).to_string();
            assert_eq!(line(&once, most).to_string(), once);
        }
        assert_eq!(json("\"\u{9b}\u{e0001}\""), r#""\u009b\udb40\udc01""#);
    }

    /// The characters are Unicode's Default_Ignorable_Code_Point, its blanks, and others that show nothing.
    #[test]
    fn nothing_makes_a_look_alike() {
        let ranges = [
            '\u{ad}'..='\u{ad}',
            '\u{a0}'..='\u{a0}',
            '\u{34f}'..='\u{34f}',
            '\u{61c}'..='\u{61c}',
            '\u{115f}'..='\u{1160}',
            '\u{1680}'..='\u{1680}',
            '\u{17b4}'..='\u{17b5}',
            '\u{180b}'..='\u{180f}',
            '\u{2000}'..='\u{200f}',
            '\u{2028}'..='\u{202f}',
            '\u{205f}'..='\u{206f}',
            '\u{2800}'..='\u{2800}',
            '\u{3000}'..='\u{3000}',
            '\u{3164}'..='\u{3164}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{ffa0}'..='\u{ffa0}',
            '\u{fff0}'..='\u{fffb}',
            '\u{1bca0}'..='\u{1bca3}',
            '\u{1d173}'..='\u{1d17a}',
            '\u{e0000}'..='\u{e0fff}',
            '\u{e000}'..='\u{f8ff}',
            '\u{0}'..='\u{1f}',
            '\u{7f}'..='\u{9f}',
        ];
        for character in ranges.into_iter().flatten() {
            let shown = line(&format!("web{character}"), 40).to_string();
            assert_eq!(shown, format!("web{}", character.escape_default()));
        }
        for sound in ["grün", "gru\u{308}n", "веб", "ウェブ", "وب", "🦀", "→ … “”"]
        {
            assert_eq!(line(sound, 40).to_string(), sound);
        }
        assert_eq!(line("\u{336}web", 40).to_string(), "\\u{336}web");
    }

    #[test]
    fn words_are_ascii() {
        assert_eq!(word("0.1.0-rc.1+x", 40), "0.1.0-rc.1+x");
        assert_eq!(word("1.0 47dd0c61466a", 40), r"1.0\u{20}47dd0c61466a");
        assert_eq!(word("gr\u{fc}n\x1b", 40), r"gr\u{fc}n\u{1b}");
        assert_eq!(word("abcdef", 3), "abc…");
    }

    #[test]
    fn a_log_has_one_line_an_event() {
        use io::Write as _;
        let mut log = LogWriter(vec![]);
        log.write_all(b"WARN it said: \x1b]0;x\x07\nhost      allowed\n").unwrap();
        log.write_all(b"INFO \xff").unwrap();
        let log = String::from_utf8(log.0).unwrap();
        assert_eq!(log, "WARN it said: \\u{1b}]0;x\\u{7}\\nhost      allowed\nINFO \u{fffd}\n");
    }
}
