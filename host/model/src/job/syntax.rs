//! Tells the syntax of a job file by its first bytes: its name may be anything, and standard input has none. Formats that qhost does not
//! read are named, so that a file of another kind is not reported as bad JSON.

/// The syntax of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// JSON, or a text of no known syntax.
    Json,
    /// HCL, as in Nomad's job specifications.
    Hcl,
    /// A format, by its name, that qhost does not read jobs in.
    Other(&'static str),
}

/// The first bytes of formats that are given for a job by mistake.
const STARTS: [(&[u8], &str); 13] = [
    (b"\0asm", "a WebAssembly file"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "a zip archive"),
    (b"QFI\xfb", "a qcow2 image"),
    (b"KDMV", "a VMDK image"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "PDF"),
    (b"#!", "a script"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
];

/// The byte-order mark that some editors put before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The words that begin a block at the outermost level of a job specification.
const BLOCKS: [&str; 4] = ["job", "variable", "variables", "locals"];

/// The text without a byte-order mark.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

impl Syntax {
    /// Tells the syntax by a file's name and bytes.
    pub(super) fn of(name: &str, bytes: &[u8]) -> Self {
        if let Some((_, format)) = STARTS.iter().find(|(start, _)| bytes.starts_with(start)) {
            return Self::Other(format);
        }
        let bytes = without_mark(bytes);
        let head = bytes.get(..512).unwrap_or(bytes);
        if head.contains(&0) {
            return Self::Other("an image or other binary data");
        }
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
        let first = lines.map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        match first {
            Some(line) if line.starts_with('{') => Self::Json,
            Some(line) => Self::of_line(name, line),
            None => Self::Json,
        }
    }

    /// Tells the syntax by the first line that is not a comment with `#`.
    fn of_line(name: &str, line: &str) -> Self {
        let is_named = |ending: &str| name.to_lowercase().ends_with(ending);
        let word_end = line.find(|c: char| !(c.is_alphanumeric() || "_-.".contains(c)));
        let (word, rest) = line.split_at(word_end.unwrap_or(line.len()));
        let rest = rest.trim_start();
        let table = line.trim_start_matches('[').trim_end_matches(']');
        let is_table = line.starts_with('[')
            && line.ends_with(']')
            && table.starts_with(|c: char| c.is_alphabetic());
        if line.starts_with('<') {
            Self::Other("XML or HTML")
        } else if line == "---" || line.starts_with("%YAML") || line.starts_with("- ") {
            Self::Other("YAML")
        } else if is_table && !["true", "false", "null"].contains(&table) {
            Self::Other("TOML")
        } else if BLOCKS.contains(&word) && !rest.starts_with([':', '=']) || is_comment(line) {
            Self::Hcl
        } else if !word.is_empty() && (rest == ":" || rest.starts_with(": ")) {
            Self::Other("YAML")
        } else if is_named(".hcl") || is_named(".nomad") {
            Self::Hcl
        } else if !word.is_empty() && rest.starts_with('=') {
            Self::Other("TOML, or HCL without a job in it")
        } else {
            Self::Json
        }
    }
}

/// Whether a line begins with a comment of HCL; JSON has no comments.
fn is_comment(line: &str) -> bool {
    line.starts_with("//") || line.starts_with("/*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_its_first_bytes() {
        let other = Syntax::Other;
        let rows: [(&str, &[u8], Syntax); 30] = [
            ("job.json", b"{\"name\": 1}", Syntax::Json),
            ("-", b" \n\n{\"name\": 1}", Syntax::Json),
            ("job.hcl", b"\xef\xbb\xbf{}", Syntax::Json),
            ("job.json", b"[1]", Syntax::Json),
            ("job.json", b"[true]", Syntax::Json),
            ("job.json", b"", Syntax::Json),
            ("job.json", b"nonsense", Syntax::Json),
            ("job.json", b"\"text\"", Syntax::Json),
            ("job.nomad", b"nonsense", Syntax::Hcl),
            ("-", b"job \"web\" {", Syntax::Hcl),
            ("-", b"job web {", Syntax::Hcl),
            ("job.json", b"# a comment\n\njob \"web\" {\n}", Syntax::Hcl),
            ("-", b"// a comment\njob \"web\" {\n}", Syntax::Hcl),
            ("-", b"/* a comment */ job \"web\" {\n}", Syntax::Hcl),
            ("-", b"\xef\xbb\xbfvariable \"x\" {\r\n}", Syntax::Hcl),
            ("-", b"locals{}", Syntax::Hcl),
            ("job.yaml", b"name: web\n", other("YAML")),
            ("-", b"# compose\nservices:\r\n  web:\n", other("YAML")),
            ("-", b"job: web", other("YAML")),
            ("-", b"---\nname: web", other("YAML")),
            ("-", b"- name: web", other("YAML")),
            ("job.toml", b"name = \"web\"\n", other("TOML, or HCL without a job in it")),
            ("-", b"[resources]\nmemory = 1", other("TOML")),
            ("-", b"[[group]]\nmemory = 1", other("TOML")),
            ("-", b"<html>", other("XML or HTML")),
            ("policy.wasm", b"\0asm\r\0\x01\0", other("a WebAssembly file")),
            ("job.json.gz", b"\x1f\x8b\x08", other("gzip")),
            ("disk.qcow2", b"QFI\xfb\0\0\0\x03", other("a qcow2 image")),
            ("disk.img", b"\xeb\x63\x90\0\0\0", other("an image or other binary data")),
            ("-", b"\xff\xfe{\0", other("UTF-16 text")),
        ];
        for (name, bytes, expected) in rows {
            assert_eq!(Syntax::of(name, bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
