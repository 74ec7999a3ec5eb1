//! Tokens, by which clients of the API that come over the network prove who they are. Only a token's digest is kept, in the state folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use qhost_model::{digest::Sha256, kind::Kind, name::is_volume as is_plain_name};
use qhost_sys::state::{self, StateDir};

use crate::limits;

/// The beginning of each token, so that people and scanners for leaked secrets recognise one.
const PREFIX: &str = "qhost_";
/// The size of a token's random part in bytes.
const RANDOM_BYTES: usize = 32;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The token's name, by which records name the actor.
    pub name: String,
    /// The tenant that the token's client acts for; absent for an operator.
    pub tenant: Option<String>,
    /// When the token was made.
    pub made_at: Timestamp,
    /// Until when the token is accepted; absent: until it is removed.
    pub ends_at: Option<Timestamp>,
}

impl Token {
    /// Whether the token's time is over.
    pub fn has_ended(&self) -> bool {
        self.ends_at.is_some_and(|ends| ends <= Timestamp::now())
    }
}

/// A token as it is in its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    token: Token,
    sha256: Sha256,
}

/// The reason why a token is not made, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name is not one that a token can have.
    #[error(
        "{0} is no name of a token; expected 1 to 64 letters, digits, -, _ and ., the first a letter or a digit"
    )]
    Name(String),
    /// There is a token of that name already.
    #[error("there is a token {0} already; remove it first: qhost token rm {0}")]
    Taken(String),
    /// There is no token of that name.
    #[error("there is no token {0}; qhost token ls has all")]
    Unknown(String),
    /// A token cannot last so many days.
    #[error("a token cannot last {0} days; expected at most {most}", most = limits::TOKEN_DAYS)]
    Days(u32),
    /// A token's file cannot be used.
    #[error("cannot use {}", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers")]
    NoRandomness,
}

impl TokenError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Name(_) | Self::Taken(_) | Self::Unknown(_) | Self::Days(_) => {
                Kind::InvalidArgument
            }
            Self::Files { .. } | Self::NoRandomness => Kind::HostUnable,
        }
    }
}

/// All tokens of a state folder.
#[derive(Debug)]
pub struct Tokens {
    folder: PathBuf,
    read: Mutex<Option<Read>>,
}

/// The tokens as they were read.
#[derive(Debug)]
struct Read {
    /// When the folder had last changed at the time of reading.
    changed: SystemTime,
    tokens: Vec<Kept>,
}

impl Tokens {
    pub(crate) fn of(state: &StateDir) -> Self {
        Self { folder: state.path().join("tokens"), read: Mutex::default() }
    }

    pub(crate) fn make(
        &self,
        name: &str,
        tenant: Option<String>,
        days: Option<u32>,
    ) -> Result<(Token, String), TokenError> {
        let path = self.file(name)?;
        let made_at = Timestamp::now();
        let after = |days: u32| {
            let lasts = jiff::SignedDuration::from_hours(i64::from(days) * 24);
            let ends = made_at.checked_add(lasts).ok().filter(|_| days <= limits::TOKEN_DAYS);
            ends.ok_or(TokenError::Days(days))
        };
        let ends_at = days.map(after).transpose()?;
        let text = random_text()?;
        let token = Token { name: name.to_owned(), tenant, made_at, ends_at };
        let kept = Kept { token: token.clone(), sha256: Sha256::of(text.as_bytes()) };
        let failed = |source| TokenError::Files { path: path.clone(), source };
        state::create_private(&self.folder).map_err(failed)?;
        let _one = state::lock(&self.folder.join(".lock")).map_err(failed)?;
        if fs::symlink_metadata(&path).is_ok() {
            return Err(TokenError::Taken(name.to_owned()));
        }
        let bytes = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
        state::write_whole(&path, &bytes).map_err(failed)?;
        Ok((token, text))
    }

    /// All tokens, sorted by their names.
    ///
    /// # Errors
    /// Fails where the tokens' files cannot be read.
    pub fn list(&self) -> Result<Vec<Token>, TokenError> {
        let mut tokens: Vec<_> = self.read()?.into_iter().map(|kept| kept.token).collect();
        tokens.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tokens)
    }

    /// Removes a token. From then on it is refused.
    ///
    /// # Errors
    /// Fails where there is no token of that name, or its file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), TokenError> {
        let path = self.file(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(TokenError::Unknown(name.to_owned()))
            }
            Err(source) => Err(TokenError::Files { path, source }),
            Ok(()) => Ok(()),
        }
    }

    /// Gives the token of a secret text, while the token is accepted. The time that this takes tells nothing about the tokens that are
    /// kept.
    ///
    /// # Errors
    /// Fails where the tokens' files cannot be read.
    pub fn get(&self, text: &str) -> Result<Option<Token>, TokenError> {
        let sha256 = Sha256::of(text.as_bytes()).to_bytes();
        let changed = match fs::metadata(&self.folder).and_then(|folder| folder.modified()) {
            Ok(changed) => changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(TokenError::Files { path: self.folder.clone(), source });
            }
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let is_as_read = read.as_ref().is_some_and(|read| read.changed == changed);
        if !is_as_read {
            let tokens = self.read()?;
            // A further change in the same tick of the kernel's clock would not be seen, so that a folder that has just changed is read
            // again.
            let is_settled = changed.elapsed().is_ok_and(|since| since > SETTLED);
            let changed = if is_settled { changed } else { SystemTime::UNIX_EPOCH };
            *read = Some(Read { changed, tokens });
        }
        let mut found = None;
        for kept in read.iter().flat_map(|read| &read.tokens) {
            if bool::from(kept.sha256.to_bytes().ct_eq(&sha256)) {
                found = Some(kept.token.clone());
            }
        }
        Ok(found.filter(|token| !token.has_ended()))
    }

    fn read(&self) -> Result<Vec<Kept>, TokenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TokenError::Files { path, source }
        };
        let files = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            files => files.map_err(failed(&self.folder))?,
        };
        let mut tokens = vec![];
        for file in files {
            let path = file.map_err(failed(&self.folder))?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            let bytes = match state::read(&path) {
                // Another process has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes.map_err(failed(&path))?,
            };
            match serde_json::from_slice(&bytes) {
                Ok(kept) => tokens.push(kept),
                // A damaged file does not keep the other tokens from being used.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a file of no token");
                }
            }
        }
        Ok(tokens)
    }

    fn file(&self, name: &str) -> Result<PathBuf, TokenError> {
        if is_plain_name(name) {
            return Ok(self.folder.join(format!("{name}.json")));
        }
        Err(TokenError::Name(
            qhost_model::printable::line(name, limits::SHOWN_NAME_CHARS).to_string(),
        ))
    }
}

/// The age from which a folder's time of change can be relied upon: the kernel's clock for files ticks at least every 10 ms.
const SETTLED: Duration = Duration::from_millis(100);

fn random_text() -> Result<String, TokenError> {
    let mut bytes = [0; RANDOM_BYTES];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(RANDOM_BYTES) => Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))),
        Ok(_) | Err(_) => Err(TokenError::NoRandomness),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_text_until_it_ends_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(&StateDir::new(folder.path()).unwrap());
        assert!(tokens.get("qhost_x").unwrap().is_none());
        let (ops, text) = tokens.make("ops", None, None).unwrap();
        assert_eq!(tokens.get(&text).unwrap(), Some(ops));
        let (_, other) = tokens.make("acme", Some("acme".into()), Some(0)).unwrap();
        assert_eq!(tokens.get(&other).unwrap(), None, "its time is over");
        assert!(matches!(tokens.make("ops", None, None), Err(TokenError::Taken(_))));
        assert!(matches!(tokens.make("../ops", None, None), Err(TokenError::Name(_))));
        assert!(matches!(tokens.make("x", None, Some(u32::MAX)), Err(TokenError::Days(_))));
        let names: Vec<_> = tokens.list().unwrap().into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["acme", "ops"]);
        for file in fs::read_dir(folder.path().join("tokens")).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(&text[PREFIX.len()..]));
        }
        tokens.remove("ops").unwrap();
        assert_eq!(tokens.get(&text).unwrap(), None);
        assert_eq!(tokens.remove("ops").unwrap_err().kind(), Kind::InvalidArgument);
    }
}
