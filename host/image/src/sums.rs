//! Lists of checksums, in the forms that distributions publish: the output of `sha256sum`, of its BSD cousin, of `openssl dgst`
//! and of PowerShell's `Get-FileHash`, or a digest alone. A list is pinned by its own digest, so that it is fetched once and
//! kept.

use std::{borrow::Cow, collections::BTreeSet};

use percent_encoding::percent_decode_str;
use url::Url;

use qhost_model::{digest::FileDigest, printable};

/// Finds the digest of a file in a list, by the name given or else by the end of the URL's path. The error says why there is
/// none.
pub(super) fn find(list: &[u8], source: &Url, name: Option<&str>) -> Result<FileDigest, String> {
    let path = percent_decode_str(source.path()).decode_utf8_lossy().into_owned();
    let wanted = name.unwrap_or(&path);
    let text = text_of(list);
    if let Some(bare) = bare(&text) {
        return Ok(bare);
    }
    let entries: Vec<_> = entries(&text);
    // A list of several folders may have the name several times, so that the entry decides whose path is an end of the URL's
    // path.
    let whole = |entry: &&Entry<'_>| is_end_of(&entry.path(), wanted);
    let mut of_file: Vec<_> = entries.iter().filter(whole).collect();
    if of_file.is_empty() {
        let same = |entry: &&Entry<'_>| last(&entry.path()) == last(wanted);
        of_file = entries.iter().filter(same).collect();
    }
    let digests = |length| {
        let of_length = of_file.iter().filter(move |entry| entry.digest.len() == length);
        of_length.filter_map(|entry| entry.digest.parse().ok()).collect::<BTreeSet<FileDigest>>()
    };
    let name = shown(last(wanted));
    for length in [64, 128] {
        let mut digests = digests(length).into_iter();
        match (digests.next(), digests.next()) {
            (Some(digest), None) => return Ok(digest),
            (Some(_), Some(_)) => {
                return Err(format!("the list of checksums has several digests for {name:?}"));
            }
            (None, _) => {}
        }
    }
    if let Some(other) = of_file.first() {
        return Err(format!(
            "the list of checksums has no SHA-256 or SHA-512 for {name:?}, but a digest of {} digits",
            other.digest.len()
        ));
    }
    Err(format!("the list of checksums has no line for {name:?}{}", nearest(&entries, wanted)))
}

/// A list's entry for one file.
struct Entry<'a> {
    digest: &'a str,
    name: &'a str,
}

impl Entry<'_> {
    /// The entry's path, with `/` between its parts.
    fn path(&self) -> Cow<'_, str> {
        let name = self.name.trim_start_matches("./");
        if name.contains('\\') { name.replace('\\', "/").into() } else { name.into() }
    }
}

/// A list's text. PowerShell writes UTF-16, and Windows editors write a byte-order mark. A byte that is no UTF-8 spoils only its
/// own line.
fn text_of(list: &[u8]) -> String {
    let utf16 = match list {
        [0xff, 0xfe, units @ ..] => Some((units, u16::from_le_bytes as fn([u8; 2]) -> u16)),
        [0xfe, 0xff, units @ ..] => Some((units, u16::from_be_bytes as fn([u8; 2]) -> u16)),
        _ => None,
    };
    if let Some((units, unit)) = utf16 {
        let units: Vec<_> = units.as_chunks::<2>().0.iter().map(|bytes| unit(*bytes)).collect();
        return String::from_utf16_lossy(&units);
    }
    let list = list.strip_prefix(b"\xef\xbb\xbf").unwrap_or(list);
    String::from_utf8_lossy(list).into_owned()
}

/// The digest of a list that has nothing but that digest.
fn bare(text: &str) -> Option<FileDigest> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(digest), None) => digest.parse().ok(),
        (Some(_), Some(_)) | (None, _) => None,
    }
}

/// The entries of a list. Signatures, comments and other lines are no entries.
fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut entries = vec![];
    // `Get-FileHash | Format-List` has a line for each of algorithm, hash and path.
    let mut hash = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(':').map(|(key, value)| (key.trim_end(), value.trim_start())) {
            Some(("Hash", digest)) if is_digest(digest) => hash = Some(digest),
            Some(("Path", name)) if hash.is_some() => {
                entries.extend(hash.take().map(|digest| Entry { digest, name }));
            }
            Some(_) | None => entries.extend(entry(line)),
        }
    }
    entries
}

/// Reads a line of one of these forms: `DIGEST  NAME`, `DIGEST *NAME`, also with other white space between; `SHA256 (NAME) =
/// DIGEST`, `SHA2-256(NAME)= DIGEST`; `NAME DIGEST`; `SHA256 DIGEST PATH`.
fn entry(line: &str) -> Option<Entry<'_>> {
    if let Some((tagged, digest)) = line.rsplit_once('=')
        && let Some((tag, name)) =
            tagged.trim_end().strip_suffix(')').and_then(|it| it.split_once('('))
    {
        let digest = digest.trim_start();
        return (is_sha2(tag.trim_end()) && is_digest(digest)).then_some(Entry { digest, name });
    }
    let (first, rest) = line.split_once(char::is_whitespace)?;
    let first = algorithm_aside(first);
    if is_digest(first) {
        let name = rest.trim_start();
        return Some(Entry { digest: first, name: name.strip_prefix('*').unwrap_or(name) });
    }
    if is_sha2(first) {
        return entry(rest.trim_start());
    }
    let (name, last) = line.rsplit_once(char::is_whitespace)?;
    let digest = algorithm_aside(last);
    is_digest(digest).then_some(Entry { digest, name: name.trim_end().trim_end_matches(':') })
}

fn algorithm_aside(word: &str) -> &str {
    word.strip_prefix("sha256:").or_else(|| word.strip_prefix("sha512:")).unwrap_or(word)
}

/// Whether a tag names SHA-256 or SHA-512: other algorithms have digests of the same lengths.
fn is_sha2(tag: &str) -> bool {
    let names = ["SHA256", "SHA-256", "SHA2-256", "SHA512", "SHA-512", "SHA2-512"];
    names.iter().any(|name| tag.eq_ignore_ascii_case(name))
}

/// Whether a word has as many hexadecimal digits as a digest by MD5, SHA-1 or SHA-2.
fn is_digest(word: &str) -> bool {
    [32, 40, 56, 64, 96, 128].contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a path is the end of another, in whole parts.
fn is_end_of(end: &str, path: &str) -> bool {
    let before = path.strip_suffix(end.trim_start_matches('/'));
    !last(end).is_empty() && before.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

fn shown(name: &str) -> String {
    printable::line(name, qhost_model::limits::SHOWN_CHARS).to_string()
}

/// Names the entries that are most like a missing one, and says how a job names the one it means.
fn nearest(entries: &[Entry<'_>], wanted: &str) -> String {
    let likeness = |entry: &Entry<'_>| strsim::jaro_winkler(last(&entry.path()), last(wanted));
    let mut near: Vec<_> = entries.iter().map(|entry| (likeness(entry), entry)).collect();
    near.retain(|(likeness, _)| *likeness >= 0.7);
    near.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let mut names: Vec<_> = near.iter().map(|(_, entry)| shown(last(&entry.path()))).collect();
    names.dedup();
    names.truncate(3);
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    if quoted.is_empty() {
        "; where its name is another there, add &name=NAME to the checksum".into()
    } else {
        format!("; it has {}: add &name=NAME to the checksum for another name", quoted.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use qhost_model::digest::{Sha256, Sha512};

    use super::*;

    const SOURCE: &str = "https://images.example/a/b/disk%20.raw?token=x";
    const NAME: &str = "disk .raw";

    fn found(list: impl AsRef<[u8]>, name: Option<&str>) -> Result<String, String> {
        let found = find(list.as_ref(), &SOURCE.parse().unwrap(), name);
        found.map(|digest| digest.to_string().split_once(':').unwrap().1.to_owned())
    }

    /// Each row is a form that a distribution or a tool publishes.
    #[test]
    fn forms() {
        let [one, other] = [b"1", b"2"].map(|bytes| Sha256::of(bytes).to_string());
        let long = Sha512::of(b"1").to_string();
        let upper = one.to_uppercase();
        let armored = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n";
        for list in [
            format!("{other}  other\n{one}  {NAME}\n"),
            format!("{one} *{NAME}\r\n"),
            format!("{one}  ./{NAME}"),
            format!("{one} {NAME}"),
            format!("{one}\t{NAME}"),
            format!("{one}    {NAME}"),
            format!("{one}  /srv/www/a/b/{NAME}"),
            format!("{other}  c/{NAME}\n{one}  b/{NAME}\n"),
            format!("{one}  {NAME}\n{upper}  ./{NAME}\n"),
            format!("{one}  {NAME}\n{long}  {NAME}\n"),
            format!("{long}  {NAME}\n{one}  {NAME}\n"),
            format!("# comment\nSHA256 ({NAME}) = {one}\n"),
            format!(
                "SHA512 ({NAME}) = {long}\nSHA256 ({NAME}) = {one}\nMD5 ({NAME}) = {}\n",
                &one[..32]
            ),
            format!(
                "{armored}# disk: 5 bytes\nSHA256 ({NAME}) = {one}\n-----BEGIN PGP SIGNATURE-----\nabc=\n"
            ),
            format!("SHA256({NAME})= {one}\n"),
            format!("SHA2-256({NAME})= {one}\n"),
            format!("BLAKE2s256 ({NAME}) = {other}\nSHA256 ({NAME}) = {one}\n"),
            format!("{NAME} {one}\n"),
            format!("{NAME}: sha256:{one}\n"),
            format!("sha256:{one}  {NAME}\n"),
            format!(
                "Algorithm  Hash  Path\n---------  ----  ----\nSHA256     {upper}     C:\\images\\{NAME}\n"
            ),
            format!(
                "\nAlgorithm : SHA256\nHash      : {upper}\nPath      : C:\\images\\{NAME}\n\n"
            ),
            format!("\u{feff}{one}  {NAME}\n"),
            format!("{one}\n"),
            upper.clone(),
        ] {
            assert_eq!(found(&list, None).as_ref(), Ok(&one), "{list}");
        }
        let utf16 = format!("\u{feff}{one}  {NAME}\r\n");
        let units = utf16.encode_utf16();
        assert_eq!(
            found(units.clone().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), None).as_ref(),
            Ok(&one)
        );
        assert_eq!(
            found(units.flat_map(u16::to_be_bytes).collect::<Vec<_>>(), None).as_ref(),
            Ok(&one)
        );
        let latin1 = [
            format!("{other}  caf").as_bytes(),
            b"\xe9.raw\n",
            format!("{one}  {NAME}\n").as_bytes(),
        ]
        .concat();
        assert_eq!(found(latin1, None).as_ref(), Ok(&one));
        for list in [format!("{long}  {NAME}\n"), format!("SHA512 ({NAME}) = {long}"), long.clone()]
        {
            assert_eq!(found(&list, None).as_ref(), Ok(&long), "{list}");
        }
        assert_eq!(found(format!("{one}  disk-2.raw\n"), Some("disk-2.raw")).as_ref(), Ok(&one));
    }

    #[test]
    fn what_is_nearly_right_is_said() {
        let [one, other] = [b"1", b"2"].map(|bytes| Sha256::of(bytes).to_string());
        for (list, expected) in [
            (format!("{one}  {NAME}\n{other}  {NAME}\n"), "several digests for \"disk .raw\""),
            (format!("{one}  adisk .raw\n"), "no line for \"disk .raw\"; it has \"adisk .raw\""),
            (format!("{one}  Disk .RAW\n"), "it has \"Disk .RAW\""),
            (format!("{one}  kernel\n"), "add &name=NAME"),
            (
                format!("{}  {NAME}\n", &one[..32]),
                "no SHA-256 or SHA-512 for \"disk .raw\", but a digest of 32 digits",
            ),
            (format!("SHA3-256 ({NAME}) = {one}\n"), "no line for"),
            (format!("SHA256 ({NAME}) = abc\n"), "no line for"),
            (String::new(), "no line for"),
        ] {
            let reason = found(&list, None).unwrap_err();
            assert!(reason.contains(expected), "{list}: {reason}");
        }
    }
}
