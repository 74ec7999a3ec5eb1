//! Digests of files: their text form, and the hashing of streams. Nothing here does I/O.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A SHA-256 digest. Its text form is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest's 32 bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// A SHA-512 digest. Its text form is 128 lower-case hexadecimal digits. Debian, Alpine and Flatcar publish no other digest of
/// their images.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha512([u8; 64]);

impl Sha512 {
    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher512::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest's first half, which is as good as unique, and as long as a SHA-256.
    pub fn first_half(self) -> Sha256 {
        let [first, ..] = self.0.as_chunks::<32>().0 else { return Sha256([0; 32]) };
        Sha256(*first)
    }
}

/// The digest that a file must have, by the algorithm that its publisher chose. Its text form begins with the algorithm's
/// name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileDigest {
    /// A SHA-256 digest.
    Sha256(Sha256),
    /// A SHA-512 digest.
    Sha512(Sha512),
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::Sha512(digest) => write!(f, "sha512:{digest}"),
        }
    }
}

impl Serialize for FileDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for FileDigest {
    type Err = NotADigest;

    /// Tells the algorithm by the length of the text, which may begin with the algorithm's name.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let sha256 = || text.parse().map(Self::Sha256);
        let expected = "64, or of SHA-512 128,";
        text.parse().map(Self::Sha512).or_else(|_| sha256()).map_err(|_| NotADigest { expected })
    }
}

impl FromStr for Sha512 {
    type Err = NotADigest;

    /// Reads digits in upper and lower case, with or without a leading `sha512:`.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let hex = text.strip_prefix("sha512:").unwrap_or(text);
        let mut bytes = [0; 64];
        match base16ct::mixed::decode(hex, &mut bytes) {
            Ok(decoded) if decoded.len() == 64 => Ok(Self(bytes)),
            Ok(_) | Err(_) => Err(NotADigest { expected: "128" }),
        }
    }
}

impl fmt::Display for Sha512 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for Sha512 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha512 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha512 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text does not have as many hexadecimal digits as a digest.
#[derive(Debug, thiserror::Error)]
#[error("not {expected} hexadecimal digits")]
pub struct NotADigest {
    /// How many digits a digest has.
    expected: &'static str,
}

impl FromStr for Sha256 {
    type Err = NotADigest;

    /// Reads digits in upper and lower case, with or without a leading `sha256:`.
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let mut bytes = [0; 32];
        match base16ct::mixed::decode(hex, &mut bytes) {
            Ok(decoded) if decoded.len() == 32 => Ok(Self(bytes)),
            Ok(_) | Err(_) => Err(NotADigest { expected: "64" }),
        }
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Sha256 {
    fn schema_name() -> Cow<'static, str> {
        "Sha256".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A SHA-256, in small hexadecimal digits.",
            "pattern": "^[0-9a-f]{64}$",
        })
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream piece by piece, by the implementation that is fastest on this processor: with SHA instructions both are
/// equally fast, without them AWS-LC reaches twice the speed of `sha2` (see `tests/benches/fetch.rs`).
pub struct Hasher(Implementation);

enum Implementation {
    Sha2(sha2::Sha256),
    AwsLc(aws_lc_rs::digest::Context),
}

impl Default for Hasher {
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_instructions = std::arch::is_x86_feature_detected!("sha");
        #[cfg(target_arch = "aarch64")]
        let has_instructions = std::arch::is_aarch64_feature_detected!("sha2");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let has_instructions = false;
        if has_instructions { Self::sha2() } else { Self::aws_lc() }
    }
}

impl Hasher {
    /// Hashes by the `sha2` crate on any processor.
    pub fn sha2() -> Self {
        Self(Implementation::Sha2(sha2::Sha256::new()))
    }

    /// Hashes by AWS-LC on any processor.
    pub fn aws_lc() -> Self {
        Self(Implementation::AwsLc(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256)))
    }

    /// Takes the next piece of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Implementation::Sha2(hasher) => hasher.update(bytes),
            Implementation::AwsLc(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Sha256 {
        match self.0 {
            Implementation::Sha2(hasher) => Sha256(hasher.finalize().into()),
            Implementation::AwsLc(hasher) => {
                let mut bytes = [0; 32];
                // A SHA-256 has 32 bytes, so that all of them are copied.
                bytes.iter_mut().zip(hasher.finish().as_ref()).for_each(|(to, from)| *to = *from);
                Sha256(bytes)
            }
        }
    }
}

/// Hashes a stream by SHA-512.
pub struct Hasher512(aws_lc_rs::digest::Context);

impl Default for Hasher512 {
    fn default() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA512))
    }
}

impl Hasher512 {
    /// Takes the next piece of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Sha512 {
        let mut bytes = [0; 64];
        // A SHA-512 has 64 bytes, so that all of them are copied.
        bytes.iter_mut().zip(self.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Sha512(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Sha256>().unwrap(), Sha256::of(b""));
        assert_eq!(empty.to_uppercase().parse::<Sha256>().unwrap(), Sha256::of(b""));
        assert_eq!(format!("sha256:{empty}").parse::<Sha256>().unwrap(), Sha256::of(b""));
        for bad in ["", "e3", &empty[1..], &format!("{empty}00"), &format!("g{}", &empty[1..])] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
    }

    /// The text and digest are NIST's example of SHA-512, "abc".
    #[test]
    fn sha512() {
        let abc = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(Sha512::of(b"abc").to_string(), abc);
        assert_eq!(Sha512::of(b"abc").first_half().to_string(), abc[..64]);
        let digest = FileDigest::Sha512(Sha512::of(b"abc"));
        for text in [abc, &abc.to_uppercase(), &format!("sha512:{abc}")] {
            assert_eq!(text.parse::<FileDigest>().unwrap(), digest);
        }
        assert_eq!(digest.to_string(), format!("sha512:{abc}"));
        let half = &abc[..64];
        assert_eq!(half.parse::<FileDigest>().unwrap().to_string(), format!("sha256:{half}"));
        for bad in [&abc[1..], &format!("sha256:{abc}"), &format!("sha512:{half}"), ""] {
            assert!(bad.parse::<FileDigest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn both_implementations_agree() {
        for length in [0, 1, 63, 64, 65, 1000] {
            let bytes = vec![7; length];
            let [mut one, mut other] = [Hasher::sha2(), Hasher::aws_lc()];
            for piece in bytes.chunks(13) {
                one.update(piece);
                other.update(piece);
            }
            assert_eq!(one.finish(), other.finish());
        }
    }
}
