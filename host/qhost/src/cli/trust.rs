//! `qhost policy keygen`, `sign`, `verify`, `push`, `pull` and `lock`.

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use qhost_model::name::is_name;

use super::run::NamedFile;
use crate::registry::Place;

/// `qhost policy keygen`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy keygen release                   # asks for a password
  QHOST_KEY_PASSWORD=… qhost policy keygen release

Writes release.key, which signs, and release.pub, which checks. Both are minisign's formats: its own tool can use them.")]
pub struct KeygenArgs {
    /// Where the keys go, without .key and .pub
    #[arg(value_name = "NAME")]
    pub place: PathBuf,
    /// Do not encrypt the secret key: the file is then enough to sign
    #[arg(long)]
    pub no_password: bool,
}

/// `qhost policy sign`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy sign team-rules --key release.key
  minisign -V -p release.pub -m team-rules/team-rules.wasm

The signature goes to FILE.minisig, or, where another key's is there, to FILE.KEYID.minisig. The password of an
encrypted key is asked for on the terminal, or taken from QHOST_KEY_PASSWORD.")]
pub struct SignArgs {
    /// The policy's file, or its project's folder
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// The secret key
    #[arg(short, long, value_name = "FILE")]
    pub key: PathBuf,
}

/// `qhost policy verify`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy verify team-rules.wasm --key release.pub
  qhost policy verify team-rules.wasm --key one.pub --key two.pub --key RWQf6LRC… --threshold 2

Looks for signatures in FILE.minisig and FILE.KEYID.minisig. A threshold counts keys. Exit code 1 when too few have signed.
In qhost.toml:
  [policies.team-rules.signatures]
  keys = [\"RWQf6LRC…\"]
  threshold = 1")]
pub struct VerifyArgs {
    /// The policy's file, or its project's folder
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// A public key: its file, or its base64 line
    #[arg(short, long = "key", value_name = "FILE|KEY", required = true)]
    pub keys: Vec<String>,
    /// How many of the keys must have signed [default: all]
    #[arg(long, value_name = "N")]
    pub threshold: Option<usize>,
}

/// `qhost policy push`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  qhost policy push team-rules.wasm registry.example/policies/team-rules:1.2

Pushes what loads as a policy, with the signatures beside it; prints the digest to pull it by. The same file always has
the same digest. Credentials are those of `docker login`.")]
pub struct PushArgs {
    /// The policy's file, or its project's folder
    #[arg(value_name = "[NAME=]FILE|DIR")]
    pub policy: NamedFile,
    /// Where it goes
    #[arg(value_name = "REGISTRY/REPOSITORY:TAG")]
    pub place: Place,
    /// Speak HTTP instead of HTTPS, as with a registry on loopback
    #[arg(long)]
    pub plain_http: bool,
}

/// `qhost policy pull`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy pull registry.example/policies/team-rules:1.2
  qhost policy pull rules=registry.example/policies/team-rules@sha256:3b1f…
  qhost policy pull team-rules=registry.example/policies/team-rules:1.3 --update

Writes NAME.wasm and the signatures that go along. Where the configuration has a policy of this name, the file goes
where that says, and the lock file beside the configuration ties the name to the digest: from then on, what comes must
be the same, unless --update takes another.")]
pub struct PullArgs {
    /// What to pull; NAME is the repository's last part unless given
    #[arg(value_name = "[NAME=]PLACE")]
    pub policy: NamedPlace,
    /// Where the file goes [default: the configured policy's place, else NAME.wasm]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Take what comes although the lock file has another digest
    #[arg(long)]
    pub update: bool,
    /// Speak HTTP instead of HTTPS, as with a registry on loopback
    #[arg(long)]
    pub plain_http: bool,
}

/// `qhost policy lock`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost policy lock                # after a policy was built anew
  qhost policy lock --check        # in CI

The lock file lies beside the configuration, qhost.lock beside qhost.toml. It has the digests of the policies to which
the configuration itself gives none. Exit code 1 when --check finds another.")]
pub struct LockArgs {
    /// Write nothing; say whether the files are those that are locked
    #[arg(long)]
    pub check: bool,
}

/// A place in a registry with a name to go by.
#[derive(Debug, Clone)]
pub struct NamedPlace {
    /// The name.
    pub name: String,
    /// The place.
    pub place: Place,
}

impl FromStr for NamedPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (Some(name), place),
            None => (None, text),
        };
        let place: Place = place.parse()?;
        let name = name.unwrap_or(place.name()).to_owned();
        if is_name(&name) {
            Ok(Self { name, place })
        } else {
            Err(format!("{name:?} cannot be a policy's name; write NAME={place}"))
        }
    }
}
