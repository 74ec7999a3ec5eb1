//! Lists of checksums, as `sha256sum` and its BSD cousin write them. A list is pinned by its own digest, so it is kept and
//! fetched once.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use url::Url;

use qhost_model::{digest::Sha256, printable};

/// The digest that a list has for what a URL's path ends in; or why there is none.
pub(super) fn find(list: &[u8], source: &Url) -> Result<Sha256, String> {
    let name = source.path_segments().and_then(|mut segments| segments.next_back());
    let name = percent_decode_str(name.unwrap_or_default()).decode_utf8_lossy().into_owned();
    let shown = || printable::line(&name, qhost_model::limits::SHOWN_CHARS).to_string();
    let text = str::from_utf8(list).map_err(|_| "the list of checksums is not UTF-8".to_owned())?;
    let digests: BTreeSet<_> = text
        .lines()
        .filter_map(entry)
        .filter(|(_, file)| file.trim_start_matches("./") == name)
        .map(|(digest, _)| digest)
        .collect();
    let mut digests = digests.into_iter();
    match (digests.next(), digests.next()) {
        (Some(digest), None) => digest
            .parse()
            .map_err(|_| format!("the list of checksums has no SHA-256 for {:?}", shown())),
        (Some(_), Some(_)) => {
            Err(format!("the list of checksums has several digests for {:?}", shown()))
        }
        (None, _) => Err(format!("the list of checksums has no line for {:?}", shown())),
    }
}

/// `DIGEST  NAME`, `DIGEST *NAME`, or `SHA256 (NAME) = DIGEST`. Other lines are signatures and comments.
fn entry(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_end();
    if let Some((name, digest)) =
        line.strip_prefix("SHA256 (").and_then(|rest| rest.rsplit_once(") = "))
    {
        return Some((digest, name));
    }
    let (digest, name) = line.split_at_checked(64)?;
    let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *"))?;
    Some((digest, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let [one, other] = [b"1", b"2"].map(|bytes| Sha256::of(bytes));
        let check = |list: &str, expected: Result<Sha256, &str>| {
            let source = "https://images.example/a/disk.raw?token=x".parse().unwrap();
            match (find(list.as_bytes(), &source), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, expected) => panic!("{list}: {found:?}, expected {expected:?}"),
            }
        };
        check(&format!("{other}  other\n{one}  disk.raw\n"), Ok(one));
        check(&format!("{one} *disk.raw\r\n"), Ok(one));
        check(&format!("{one}  ./disk.raw"), Ok(one));
        check(&format!("# comment\nSHA256 (disk.raw) = {one}\n"), Ok(one));
        check(&format!("{one}  disk.raw\n{one}  ./disk.raw\n"), Ok(one));
        check(&format!("{one}  disk.raw\n{other}  disk.raw\n"), Err("several digests"));
        check(&format!("{one}  adisk.raw\n{one} disk.raw\n"), Err("no line for"));
        check("SHA256 (disk.raw) = abc\n", Err("no SHA-256"));
        check("", Err("no line for"));
    }
}
