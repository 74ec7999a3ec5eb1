//! Signatures of policies: ed25519 over the file, in minisign's formats, so that minisign's own tool can sign and check them
//! too.
//!
//! Signatures lie beside the file: `FILE.minisig`, and `FILE.KEYID.minisig` for further keys. A threshold counts keys, and
//! neither signatures nor key ids.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Cursor, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use minisign::{KeyPair, PublicKeyBox, SecretKeyBox, SignatureBox};
use rustix::fs::OFlags;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use qhost_model::digest::Sha256;

use super::sealed;
use crate::limits;

/// A minisign public key. Its text form is the base64 line of a `.pub` file, 56 characters.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(with = "String")]
pub struct PublicKey(minisign::PublicKey);

/// The offset of the key itself, after the two bytes of its algorithm and the eight of its id.
const KEY_AT: usize = 10;

impl PublicKey {
    /// The id that minisign shows: 16 hexadecimal digits. The maker of a key chooses its id, so that an id proves nothing.
    pub fn id(&self) -> String {
        key_id(self.0.keynum())
    }

    /// Whether both are the same key, whatever their ids.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// The digest of the key and a signature's text, for a note that this signature was checked with this key.
    fn digest_with(&self, signature: &str) -> Sha256 {
        let mut bytes = self.0.to_bytes();
        bytes.drain(..KEY_AT.min(bytes.len()));
        bytes.extend(signature.as_bytes());
        Sha256::of(&bytes)
    }
}

fn key_id(number: &[u8]) -> String {
    number.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "no minisign public key: expected its base64 line, 56 characters from RW";
        minisign::PublicKey::from_base64(text.trim()).map(Self).map_err(|_error| wrong.into())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_base64())
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whose signatures a policy must have.
#[derive(Debug, Clone)]
pub struct Signers {
    keys: Vec<PublicKey>,
    threshold: usize,
}

impl Signers {
    /// Makes a set of keys with a threshold, which is all of them where none is given. The error says what is wrong.
    pub fn new(keys: Vec<PublicKey>, threshold: Option<usize>) -> Result<Self, String> {
        let twice = |(index, key): (usize, &PublicKey)| {
            keys.iter().take(index).any(|earlier| earlier.is_same(key)).then(|| key.id())
        };
        if let Some(id) = keys.iter().enumerate().find_map(twice) {
            return Err(format!("key {id} is listed twice; a key counts once"));
        }
        let threshold = threshold.unwrap_or(keys.len());
        if (1..=keys.len()).contains(&threshold) {
            Ok(Self { keys, threshold })
        } else {
            Err(format!("a threshold of {threshold} with {} keys", keys.len()))
        }
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// How many of the keys must have signed.
    pub fn threshold(&self) -> usize {
        self.threshold
    }
}

/// A signature that was found beside a file.
#[derive(Clone)]
pub struct Signature {
    text: String,
    parsed: SignatureBox,
}

impl Signature {
    /// Reads a signature. The error says what is wrong with it.
    pub fn parse(text: String) -> Result<Self, String> {
        match SignatureBox::from_string(&text) {
            Ok(parsed) => Ok(Self { text, parsed }),
            Err(error) => Err(format!("no minisign signature: {error}")),
        }
    }

    /// The id of the key that the signature names.
    pub fn key_id(&self) -> String {
        key_id(self.parsed.keynum())
    }

    /// The text of the signature's file.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn is_by(&self, key: &PublicKey, file: &[u8]) -> bool {
        // Only signatures over the file's hash count: the older form has the signer's key work on any file that is handed
        // in.
        minisign::verify(&key.0, &self.parsed, Cursor::new(file), true, false, false).is_ok()
    }
}

/// The result of checking a file's signatures.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Ids of the keys that have signed.
    pub by: Vec<String>,
    /// Ids of the keys whose signature is there and does not match the file.
    pub broken: Vec<String>,
    /// Digests of the signatures that match, so that they need not be checked again for the same file.
    pub(super) proofs: Vec<Sha256>,
}

/// Finds which of the signers have signed a file. `known` are proofs of an earlier check of the same file; the file's bytes
/// are asked for only if a signature is not among the proofs.
pub fn check<E>(
    signers: &Signers,
    signatures: &[Signature],
    known: &[Sha256],
    bytes: impl FnOnce() -> Result<Vec<u8>, E>,
) -> Result<Verification, E> {
    let mut checked = Verification::default();
    let mut bytes = Some(bytes);
    let mut file = None;
    for key in &signers.keys {
        for signature in signatures.iter().filter(|one| one.key_id() == key.id()) {
            let proof = key.digest_with(&signature.text);
            let holds = known.contains(&proof) || {
                if let Some(read) = bytes.take() {
                    file = Some(read()?);
                }
                signature.is_by(key, file.as_deref().unwrap_or_default())
            };
            if holds {
                checked.by.push(key.id());
                checked.proofs.push(proof);
                break;
            }
            checked.broken.push(key.id());
        }
    }
    Ok(checked)
}

/// Reads the signatures that lie beside a file, in `FILE.minisig` and `FILE.KEYID.minisig`. A file that is no signature is
/// passed over: it proves nothing.
pub fn beside(file: &Path) -> io::Result<Vec<Signature>> {
    let mut paths = vec![];
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        if found.strip_prefix(&name).is_some_and(is_suffix) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths.truncate(limits::SIGNATURES);
    Ok(paths.iter().filter_map(|path| Signature::parse(text(path).ok()?).ok()).collect())
}

/// Whether the rest of a file's name is that of a signature.
fn is_suffix(suffix: &str) -> bool {
    let key = suffix.strip_suffix(".minisig");
    suffix == "minisig"
        || key.is_some_and(|key| key.len() == 16 && key.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // A pipe without a writer must not keep this waiting; with this flag, it reads as empty.
    let options = &mut File::options();
    let file = options.read(true).custom_flags(sealed::flag(OFlags::NONBLOCK)).open(path)?;
    file.take(limits::SIGNATURE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The path for a key's signature: `FILE.minisig`, where minisign looks for it, unless another key's signature is there.
pub fn place(file: &Path, key_id: &str) -> PathBuf {
    let with = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let first = with(".minisig");
    let others = fs::read_to_string(&first).ok().and_then(|text| Signature::parse(text).ok());
    if others.is_some_and(|signature| signature.key_id() != key_id) {
        with(&format!(".{key_id}.minisig"))
    } else {
        first
    }
}

/// A key to sign with.
pub struct SecretKey(minisign::SecretKey);

impl SecretKey {
    /// Reads a secret key's file. Where the key is encrypted, `password` is asked for its password.
    pub fn read(
        text: &str,
        password: impl FnOnce() -> Option<String>,
    ) -> Result<Self, minisign::PError> {
        match unencrypted(text) {
            Some(bytes) => minisign::SecretKey::from_bytes(&bytes).map(Self),
            None => SecretKeyBox::from_string(text)?.into_secret_key(password()).map(Self),
        }
    }

    /// The public key that checks this key's signatures.
    pub fn public(&self) -> Result<PublicKey, minisign::PError> {
        minisign::PublicKey::from_secret_key(&self.0).map(PublicKey)
    }

    /// Signs a file; the comment is signed too.
    pub fn sign(&self, file: &[u8], comment: &str) -> Result<Signature, minisign::PError> {
        let untrusted = Some("signature by qhost policy sign");
        // The signature is checked at once: an unencrypted key has no checksum, and a broken one would sign nonsense.
        let public = self.public()?;
        let parsed =
            minisign::sign(Some(&public.0), &self.0, Cursor::new(file), Some(comment), untrusted)?;
        Ok(Signature { text: parsed.to_string(), parsed })
    }
}

/// Gives a secret key's bytes, if the key is not encrypted. The crate reads unencrypted keys too, but not those of the
/// minisign command, whose checksum is left out.
fn unencrypted(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE64_STANDARD.decode(text.lines().nth(1)?.trim()).ok()?;
    // The algorithm of the key's encryption stands after that of its signatures; zeros mean no encryption (minisign's key
    // format).
    (bytes.get(2..4)? == [0, 0]).then_some(bytes)
}

/// Makes a key, and gives the texts of its secret and public parts. With a password the secret one is encrypted.
pub fn new_key(password: Encrypted) -> Result<(String, PublicKey, String), minisign::PError> {
    let KeyPair { pk, sk } = match password {
        Encrypted::Not => KeyPair::generate_unencrypted_keypair()?,
        Encrypted::With(password) => KeyPair::generate_encrypted_keypair(password)?,
    };
    let secret = sk.to_box(Some("minisign secret key, made by qhost"))?.into_string();
    let public: PublicKeyBox = pk.to_box()?;
    Ok((secret, PublicKey(pk), public.into_string()))
}

/// Whether a secret key is encrypted on disk.
pub enum Encrypted {
    /// The file is enough to sign.
    Not,
    /// The file is encrypted with a password, which is asked for on the terminal where none is given.
    With(Option<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (SecretKey, PublicKey) {
        let (secret, public, _) = new_key(Encrypted::Not).unwrap();
        (SecretKey::read(&secret, || None).unwrap(), public)
    }

    fn by(signers: &Signers, signatures: &[Signature], file: &[u8]) -> usize {
        let bytes = || Ok::<_, std::convert::Infallible>(file.to_vec());
        check(signers, signatures, &[], bytes).unwrap().by.len()
    }

    #[test]
    fn a_threshold_counts_distinct_keys() {
        let [(first, first_key), (second, second_key)] = [key(), key()];
        let signers = Signers::new(vec![first_key.clone(), second_key.clone()], Some(2)).unwrap();
        let one = first.sign(b"policy", "").unwrap();
        let again = first.sign(b"policy", "again").unwrap();
        let other = second.sign(b"policy", "").unwrap();
        assert_eq!(by(&signers, &[one.clone(), again], b"policy"), 1, "two of one key");
        assert_eq!(by(&signers, &[one.clone(), other.clone()], b"policy"), 2);
        assert_eq!(by(&signers, &[one, other], b"policies"), 0, "another file");
        assert!(Signers::new(vec![first_key.clone(), first_key.clone()], Some(1)).is_err());
        assert!(Signers::new(vec![first_key.clone()], Some(2)).is_err());
        assert!(Signers::new(vec![first_key], Some(0)).is_err());
    }

    /// One key under two ids would count twice if the ids counted.
    #[test]
    fn a_key_under_another_id_is_the_same_key() {
        let (_, key) = key();
        let mut bytes = key.0.to_bytes();
        bytes[2] ^= 1;
        let renamed = PublicKey(minisign::PublicKey::from_bytes(&bytes).unwrap());
        assert_ne!(key.id(), renamed.id());
        assert!(Signers::new(vec![key, renamed], None).unwrap_err().contains("twice"));
    }

    #[test]
    fn what_was_checked_before_needs_no_file() {
        let (secret, key) = key();
        let signers = Signers::new(vec![key], None).unwrap();
        let signatures = [secret.sign(b"policy", "").unwrap()];
        let bytes = || Ok::<_, ()>(b"policy".to_vec());
        let checked = check(&signers, &signatures, &[], bytes).unwrap();
        let again = check(&signers, &signatures, &checked.proofs, || Err(())).unwrap();
        assert_eq!(again.by, checked.by);
        assert_eq!(check(&signers, &signatures, &[], || Err(())).unwrap_err(), ());
    }
}
