//! The digests of a file that is served: SHA-256, by which images are stored, and SHA-512 where a job names that.

use qhost_model::digest::{FileDigest, Hasher, Hasher512, Sha256, Sha512};

/// The hashers that a file goes through as it arrives.
pub(super) struct Hashers {
    sha256: Hasher,
    sha512: Option<Hasher512>,
}

impl Hashers {
    pub(super) fn new(sha512: bool) -> Self {
        Self { sha256: Hasher::default(), sha512: sha512.then(Hasher512::default) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Digests {
        let sha512 = self.sha512.map(Hasher512::finish);
        Digests { sha256: self.sha256.finish(), sha512 }
    }
}

/// A file's digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) sha256: Sha256,
    /// The SHA-512; absent where it was not asked for.
    pub(super) sha512: Option<Sha512>,
}

impl Digests {
    /// The digest by the same algorithm as another digest, to be compared with that one.
    pub(super) fn like(self, other: FileDigest) -> FileDigest {
        match (other, self.sha512) {
            (FileDigest::Sha512(_), Some(sha512)) => FileDigest::Sha512(sha512),
            (FileDigest::Sha512(_), None) | (FileDigest::Sha256(_), _) => {
                FileDigest::Sha256(self.sha256)
            }
        }
    }
}
