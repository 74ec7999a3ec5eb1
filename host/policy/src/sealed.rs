//! Notes that only this host can have written: JSON with a code over it (HMAC-SHA256, RFC 2104) under a key that only
//! this host holds. A note that is absent, cut short, changed, renamed or another host's reads as no note.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::fs::OFlags;
use serde::{Serialize, de::DeserializeOwned};

use qhost_sys::state;

use crate::limits;

/// A folder of sealed notes with its key.
pub(super) struct Sealed {
    folder: PathBuf,
    key: [u8; 32],
}

impl Sealed {
    /// Opens a folder, and makes the folder and its key where they do not exist.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        state::create_private(folder)?;
        let path = folder.join("key");
        let key = match read_key(&path)? {
            Some(key) => key,
            None => {
                // If two processes make a key at once, the second takes the key of the first.
                let made = make_key(folder, &path);
                read_key(&path)?.ok_or_else(|| made.err().unwrap_or(io::ErrorKind::Other.into()))?
            }
        };
        Ok(Self { folder: folder.into(), key })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut text = String::new();
        let file = File::open(self.folder.join(name)).ok()?;
        file.take(limits::COMPILED_NOTE_BYTES).read_to_string(&mut text).ok()?;
        let (code, json) = text.split_once('\n')?;
        let code = base16ct::lower::decode_vec(code).ok()?;
        self.mac(name, json)?.verify_slice(&code).ok()?;
        serde_json::from_str(json).ok()
    }

    pub(super) fn write(&self, name: &str, note: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(note)?;
        let mac = self.mac(name, &json).ok_or(io::ErrorKind::InvalidInput)?;
        let code = base16ct::lower::encode_string(&mac.finalize().into_bytes());
        let text = format!("{code}\n{json}");
        // A longer note would not be read again.
        if text.len() as u64 > limits::COMPILED_NOTE_BYTES {
            let reason = format!("it has more than {} bytes", limits::COMPILED_NOTE_BYTES);
            return Err(io::Error::other(reason));
        }
        state::write_whole(&self.folder.join(name), text.as_bytes())
    }

    /// The code over a note. The name is part of it, so that one note cannot stand in another's place.
    fn mac(&self, name: &str, json: &str) -> Option<Hmac<sha2::Sha256>> {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(name.as_bytes());
        mac.update(b"\n");
        mac.update(json.as_bytes());
        Some(mac)
    }
}

/// Reads the key; gives none where the key does not exist, or where other users could have read or written it.
fn read_key(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut file = match File::options().read(true).custom_flags(flag(OFlags::NOFOLLOW)).open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    let own = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    let mut key = [0; 32];
    if own && found.len() == 32 && file.read_exact(&mut key).is_ok() {
        Ok(Some(key))
    } else {
        fs::remove_file(path).map(|()| None)
    }
}

/// A flag of open(2), in the type that the standard library takes.
pub(super) fn flag(flag: OFlags) -> i32 {
    i32::try_from(flag.bits()).unwrap_or(0)
}

fn make_key(folder: &Path, path: &Path) -> io::Result<()> {
    let mut key = [0; 32];
    // The kernel gives up to 256 bytes in one piece (getrandom(2)), and the key has 32.
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}
