//! A public SSH key in the form of `authorized_keys` (sshd(8)), without options: `TYPE BASE64 COMMENT`.

use aws_lc_rs::digest;
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};

/// The key's fingerprint as ssh-keygen prints it; absent where the text is no key.
pub(super) fn fingerprint(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let (kind, blob) = (words.next()?, BASE64_STANDARD.decode(words.next()?).ok()?);
    // The blob begins with the key's own type: a length of four bytes, and the name (RFC 4253, 6.6).
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let named = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    // A line that begins with other characters could begin with options, behind which another key stands.
    let is_type = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.@".contains(&byte));
    let is_plain = !line.contains(|c: char| c.is_control() || c == '"');
    let is_one = named == kind.as_bytes() && is_type && is_plain;
    let digest = digest::digest(&digest::SHA256, &blob);
    is_one.then(|| format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_fingerprint_that_ssh_keygen_prints() {
        // GitHub's documentation gives this host key of its own, with its fingerprint.
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl github.com";
        let expected = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU";
        assert_eq!(fingerprint(key).as_deref(), Some(expected));
        for wrong in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            &key.replace("ssh-ed25519 ", "ssh-rsa "),
            &format!("command=\"x\" {key}"),
            &format!("{key}\n{key}"),
            // The blob is that of a key whose type is `environment="A=x`.
            &format!(
                "environment=\"A=x {} \" {key}",
                BASE64_STANDARD.encode(b"\0\0\0\x10environment=\"A=x")
            ),
        ] {
            assert_eq!(fingerprint(wrong), None, "{wrong}");
        }
    }
}
