//! Compiled policies on disk, keyed by the policy's digest and by the engine with its settings.
//!
//! Compiled code runs as it stands in its file, so that it must be the code that this host put there. The folder is
//! therefore its owner's alone, and beside each file of code is a sealed note of the code's digest and of the file's
//! identity. While the identity holds (inode, size and times, of which only the kernel writes the change time), the
//! code is not read again to hash it; where the identity differs, the digest decides. Any other code is compiled
//! afresh.

use std::{
    fs::{self, File, Metadata},
    hash::{Hash as _, Hasher as _},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, component::Component};

use qhost_model::digest::Sha256;

use super::{module::Facts, sealed::Sealed};
use crate::limits;

/// The folder of compiled code, and the engine that the code is for.
pub(super) struct Compiled {
    sealed: Sealed,
    engine: u64,
}

/// What the sealed note beside a policy's code says of the policy.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CacheEntry {
    /// What the policy says of itself, and what kind of file it is.
    pub(super) facts: Facts,
    /// Digests of the settings that the policy has accepted.
    pub(super) accepted: Vec<Sha256>,
    code: Identity,
    code_sha256: Sha256,
}

/// A file's identity as the kernel knows it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// A policy's file that was hashed before.
#[derive(Serialize, Deserialize)]
struct Hashed {
    file: Identity,
    sha256: Sha256,
}

impl Compiled {
    pub(super) fn open(folder: &Path, engine: &Engine) -> io::Result<Self> {
        // One program gives the same settings the same hash on every run; wasmtime refuses to load the code of another
        // program in any case.
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { sealed: Sealed::open(folder)?, engine: hasher.finish() })
    }

    /// The digest of a file that has not changed since it was hashed.
    pub(super) fn digest(&self, path: &Path) -> Option<Sha256> {
        let now = Identity::of(&fs::metadata(path).ok()?);
        let hashed: Hashed = self.sealed.read(&hashed_name(path)?)?;
        (hashed.file == now).then_some(hashed.sha256)
    }

    /// Keeps the digest of a file's bytes, unless it was changed so lately that a further change might not show.
    pub(super) fn keep_digest(
        &self,
        path: &Path,
        file: &Metadata,
        sha256: Sha256,
    ) -> io::Result<()> {
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(file.ctime().unsigned_abs());
        let settled = changed.elapsed().is_ok_and(|age| age > limits::FILE_SETTLED);
        match hashed_name(path).filter(|_| settled) {
            Some(name) => self.sealed.write(&name, &Hashed { file: Identity::of(file), sha256 }),
            None => Ok(()),
        }
    }

    /// The compiled policy of a digest, if this host has compiled it and it was not touched since.
    pub(super) fn get(&self, engine: &Engine, policy: Sha256) -> Option<(Component, CacheEntry)> {
        let [code_name, note_name] = self.names(policy);
        let mut note: CacheEntry = self.sealed.read(&note_name)?;
        let mut file = File::open(self.sealed.folder().join(code_name)).ok()?;
        let found = Identity::of(&file.metadata().ok()?);
        if found != note.code {
            if found.bytes != note.code.bytes || digest_of(&mut file).ok()? != note.code_sha256 {
                tracing::warn!(%policy, "the compiled policy is not what this host put there");
                return None;
            }
            note.code = found;
            let kept = self.sealed.write(&note_name, &note);
            log_failure(kept);
        }
        load(engine, &file).map(|component| (component, note))
    }

    /// Keeps a policy's code, with a sealed note on the policy.
    pub(super) fn put(&self, policy: Sha256, facts: &Facts, code: &[u8]) -> io::Result<()> {
        let [code_name, note_name] = self.names(policy);
        let folder = self.sealed.folder();
        self.make_room()?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(code)?;
        file.as_file().sync_all()?;
        let file = file.persist(folder.join(code_name))?;
        let note = CacheEntry {
            facts: facts.clone(),
            accepted: vec![],
            code: Identity::of(&file.metadata()?),
            code_sha256: Sha256::of(code),
        };
        self.sealed.write(&note_name, &note)
    }

    /// Proofs of signatures of a policy that were checked before.
    pub(super) fn proofs(&self, policy: Sha256) -> Vec<Sha256> {
        self.sealed.read(&format!("{policy}.signed")).unwrap_or_default()
    }

    /// Keeps the proofs of signatures of a policy that were checked.
    pub(super) fn keep_proofs(&self, policy: Sha256, proofs: &[Sha256]) -> io::Result<()> {
        self.sealed.write(&format!("{policy}.signed"), &proofs)
    }

    /// Adds to a policy's note the digest of settings that it has accepted.
    pub(super) fn accept(
        &self,
        policy: Sha256,
        note: &mut CacheEntry,
        settings: Sha256,
    ) -> io::Result<()> {
        let [_, note_name] = self.names(policy);
        let surplus = (note.accepted.len() + 1).saturating_sub(limits::ACCEPTED_SETTINGS);
        note.accepted.drain(..surplus);
        note.accepted.push(settings);
        self.sealed.write(&note_name, note)
    }

    fn names(&self, policy: Sha256) -> [String; 2] {
        ["cwasm", "note"].map(|extension| format!("{policy}-{:016x}.{extension}", self.engine))
    }

    /// Removes the oldest files where there are more than are kept.
    fn make_room(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = vec![];
        for entry in fs::read_dir(self.sealed.folder())? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.retain(|(_, path)| path.file_name().is_some_and(|name| name != "key"));
        files.sort();
        let surplus = files.len().saturating_sub(limits::COMPILED_FILES);
        files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

fn hashed_name(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    Some(format!("{}.file", Sha256::of(path.as_os_str().as_encoded_bytes())))
}

fn digest_of(file: &mut File) -> io::Result<Sha256> {
    let mut bytes = vec![];
    file.take(limits::COMPILED_BYTES).read_to_end(&mut bytes)?;
    Ok(Sha256::of(&bytes))
}

/// Maps compiled code from a file that was found to be this host's own.
#[expect(
    unsafe_code,
    reason = "compiled code is run as it is, which is what all of this file is about"
)]
fn load(engine: &Engine, code: &File) -> Option<Component> {
    // The path is of the open file that was checked, whatever file stands under its name by now.
    let path = format!("/proc/self/fd/{}", code.as_raw_fd());
    // SAFETY: this host compiled the code, as the sealed note says, and only its owner could change it since.
    let component = unsafe { Component::deserialize_file(engine, path) };
    component.map_err(|error| tracing::info!(%error, "compiled code that does not load")).ok()
}

/// Loads code that the compiler has just made.
#[expect(
    unsafe_code,
    reason = "compiled code is run as it is; this comes straight from the compiler"
)]
pub(super) fn fresh(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code comes from this program's own compiler process, through a file that has no name.
    unsafe { Component::deserialize(engine, code) }
}

/// Logs that a compiled policy was not kept: this costs time and nothing else.
pub(super) fn log_failure(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "a compiled policy is not kept");
    }
}
