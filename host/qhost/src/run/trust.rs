//! `qhost policy keygen`, `sign`, `verify`, `push`, `pull` and `lock`.

mod error;

use std::{
    fmt, fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use qhost_engine::config::{Config, Lock, Locked};
use qhost_model::digest::Sha256;
use qhost_policy::{
    Allowance, PublicKey, Signature, Signers,
    signature::{self, Encrypted, SecretKey, Verification},
};
use qhost_sys::{
    state::{self, write_new},
    trusted,
};

pub use error::TrustError;

use error::Moved;

use super::{RunError, loader, show};
use crate::{
    cli::{KeygenArgs, LockArgs, PullArgs, PushArgs, Shared, SignArgs, VerifyArgs},
    exit::Exit,
    registry::{self, Pulled, Transport},
    trial,
};

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> TrustError {
    let path = path.to_owned();
    move |source| TrustError::Unreadable { path, source }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> TrustError {
    let path = path.to_owned();
    move |source| TrustError::Unwritable { path, source }
}

fn bad_key(path: &Path, reason: impl fmt::Display) -> TrustError {
    TrustError::Key { path: path.into(), reason: reason.to_string() }
}

/// The error for an encrypted key: it needs a password, and a password needs a terminal.
fn needs_password(path: &Path, error: &impl fmt::Display) -> TrustError {
    if io::stdin().is_terminal() || std::env::var_os(PASSWORD).is_some() {
        bad_key(path, error)
    } else {
        bad_key(path, format!("{error}; without a terminal, {PASSWORD} has its password"))
    }
}

/// The variable by which programs give a key's password.
const PASSWORD: &str = "QHOST_KEY_PASSWORD";

/// The output of a command, for people and for programs, and whether a check held.
struct CommandOutput {
    text: String,
    json: Value,
    holds: bool,
}

impl CommandOutput {
    fn new(text: String, json: Value) -> Self {
        Self { text, json, holds: true }
    }
}

fn end(shared: &Shared, said: Result<CommandOutput, RunError>) -> Exit {
    match said {
        Ok(CommandOutput { text, json, holds }) => {
            show::print(&if shared.json { show::json(&json) } else { text });
            if holds { Exit::Done } else { Exit::CheckFailed }
        }
        Err(error) => show::failure(shared, &error),
    }
}

pub(super) fn keygen(shared: &Shared, args: &KeygenArgs) -> Exit {
    end(shared, try_keygen(args))
}

fn try_keygen(args: &KeygenArgs) -> Result<CommandOutput, RunError> {
    let [secret_path, public_path] = ["key", "pub"].map(|extension| {
        let mut name = args.place.as_os_str().to_owned();
        name.push(format!(".{extension}"));
        PathBuf::from(name)
    });
    let password = if args.no_password {
        Encrypted::Not
    } else {
        Encrypted::With(std::env::var(PASSWORD).ok())
    };
    let made = signature::new_key(password);
    let (secret, key, public) = made.map_err(|error| needs_password(&secret_path, &error))?;
    // A key that exists is never replaced, since its signatures could not be checked any more.
    write_new(&public_path, public.as_bytes(), 0o644).map_err(unwritable(&public_path))?;
    if let Err(error) = write_new(&secret_path, secret.as_bytes(), 0o600) {
        // Half a pair of keys is worse than none.
        fs::remove_file(&public_path).map_err(unwritable(&public_path))?;
        return Err(unwritable(&secret_path)(error).into());
    }
    let text = format!(
        "made      {}, which signs: keep it safe\n          {}, which checks: {key}\n",
        secret_path.display(),
        public_path.display()
    );
    let json = json!({"secret": secret_path, "public": public_path, "key": key, "id": key.id()});
    Ok(CommandOutput::new(text, json))
}

pub(super) fn sign(shared: &Shared, args: &SignArgs) -> Exit {
    end(shared, try_sign(args))
}

fn try_sign(SignArgs { file, key }: &SignArgs) -> Result<CommandOutput, RunError> {
    let file = &trial::module(file)?;
    let bytes = fs::read(file).map_err(unreadable(file))?;
    let text = read_key(key)?;
    let password = || std::env::var(PASSWORD).ok();
    let secret = SecretKey::read(&text, password).map_err(|error| needs_password(key, &error))?;
    let public = secret.public().map_err(|error| bad_key(key, error))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let sha256 = Sha256::of(&bytes);
    let comment = format!("file:{name} sha256:{sha256}");
    let signed = secret.sign(&bytes, &comment).map_err(|error| bad_key(key, error))?;
    let place = signature::place(file, &public.id());
    write(&place, signed.text().as_bytes())?;
    let text = format!("signed    {} by {}: {}\n", file.display(), public.id(), place.display());
    let json = json!({"file": file, "sha256": sha256, "signature": place, "key": public});
    Ok(CommandOutput::new(text, json))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    state::write_shared(path, bytes).map_err(unwritable(path))
}

pub(super) fn verify(shared: &Shared, args: &VerifyArgs) -> Exit {
    end(shared, try_verify(args))
}

fn try_verify(
    VerifyArgs { file, keys, threshold }: &VerifyArgs,
) -> Result<CommandOutput, RunError> {
    let file = &trial::module(file)?;
    let keys = keys.iter().map(|key| public_key(key)).collect::<Result<Vec<_>, _>>()?;
    let signers = Signers::new(keys, *threshold).map_err(RunError::Usage)?;
    let bytes = fs::read(file).map_err(unreadable(file))?;
    let sha256 = Sha256::of(&bytes);
    let signatures = signature::beside(file).map_err(unreadable(file))?;
    let Verification { by, broken, .. } =
        signature::check(&signers, &signatures, &[], || Ok::<_, RunError>(bytes))?;
    let holds = by.len() >= signers.threshold();
    let mut text = String::new();
    for key in signers.keys() {
        let id = key.id();
        text += &match (by.contains(&id), broken.contains(&id)) {
            (true, _) => format!("{}  {id}\n", show::good("signed  ")),
            (false, true) => {
                format!("{}  {id}: its signature does not hold\n", show::bad("broken  "))
            }
            (false, false) => format!("{}  {id}\n", show::bad("unsigned")),
        };
    }
    let (count, needed) = (by.len(), signers.threshold());
    text += &format!("{} sha256:{sha256}: {count} of {needed} needed\n", file.display());
    let json = json!({"file": file, "sha256": sha256, "signed_by": by, "broken": broken, "threshold": needed, "holds": holds});
    Ok(CommandOutput { text, json, holds })
}

/// Reads a key's file, which other users must not be able to replace.
fn read_key(path: &Path) -> Result<String, TrustError> {
    trusted::look(path).map_err(|source| TrustError::Untrusted { path: path.into(), source })?;
    fs::read_to_string(path).map_err(unreadable(path))
}

/// Reads a public key, written out or in a file.
fn public_key(text: &str) -> Result<PublicKey, TrustError> {
    let path = Path::new(text);
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let file = read_key(path)?;
    let line =
        file.lines().find(|line| !line.starts_with("untrusted comment:")).unwrap_or_default();
    line.parse().map_err(|reason: String| bad_key(path, reason))
}

fn transport(plain_http: bool) -> Transport {
    if plain_http { Transport::Plain } else { Transport::Tls }
}

pub(super) async fn push(shared: &Shared, args: &PushArgs) -> Exit {
    end(shared, try_push(shared, args).await)
}

async fn try_push(shared: &Shared, args: &PushArgs) -> Result<CommandOutput, RunError> {
    let PushArgs { policy, place, plain_http } = args;
    let path = &trial::module(&policy.path)?;
    // A policy that does not load must not be handed to others.
    let allowance = Allowance { wasi: true, ..Allowance::default() };
    let inspection = loader(shared)?.inspect(&policy.name, path, &allowance)?;
    let bytes = fs::read(path).map_err(unreadable(path))?;
    if Sha256::of(&bytes) != inspection.sha256 {
        let error = io::Error::other("it changed while it was being read");
        return Err(unreadable(path)(error).into());
    }
    let signatures = signature::beside(path).map_err(unreadable(path))?;
    let pushed =
        registry::push(place, transport(*plain_http), bytes, &inspection.facts, &signatures)
            .await
            .map_err(TrustError::from)?;
    let (sha256, manifest) = (inspection.sha256, pushed.manifest);
    let text = format!(
        "pushed    {place}, signatures: {}\n          {manifest}, the manifest\n          sha256:{sha256}, the policy\n",
        signatures.len()
    );
    let json = json!({"place": place.to_string(), "manifest": manifest, "sha256": sha256, "signatures": signatures.len()});
    Ok(CommandOutput::new(text, json))
}

pub(super) async fn pull(shared: &Shared, args: &PullArgs) -> Exit {
    end(shared, try_pull(shared, args).await)
}

async fn try_pull(shared: &Shared, args: &PullArgs) -> Result<CommandOutput, RunError> {
    let place = &args.policy.place;
    let name = &args.policy.name;
    let locks = Locks::of(shared)?;
    let output = match (&args.output, locks.as_ref().and_then(|locks| locks.config.module(name))) {
        (Some(output), _) => output.clone(),
        (None, Some(configured)) => configured,
        (None, None) => PathBuf::from(format!("{name}.wasm")),
    };
    let pulled = registry::pull(place, transport(args.plain_http)).await;
    let Pulled { bytes, signatures, manifest } = pulled.map_err(TrustError::from)?;
    let sha256 = Sha256::of(&bytes);
    // A file that goes elsewhere does not concern the configuration.
    let configured = locks.filter(|locks| locks.config.module(name).as_ref() == Some(&output));
    let mut text = format!("pulled    {place}\n          {manifest}, the manifest\n");
    if let Some(locks) = &configured {
        locks.check(name, sha256, place, args.update)?;
    }
    write(&output, &bytes)?;
    let written = write_signatures(&output, &signatures)?;
    text += &format!("          sha256:{sha256}, in {}\n", output.display());
    for path in &written {
        text += &format!("          signature {}\n", path.display());
    }
    if let Some(mut locks) = configured.filter(|locks| locks.ties(name)) {
        let source = Some(place.to_string());
        locks.put(name, Locked { sha256, source, manifest: Some(manifest.clone()) })?;
        text += &format!("locked    {name} in {}\n", locks.path.display());
    }
    let json = json!({"place": place.to_string(), "manifest": manifest, "sha256": sha256, "file": output, "signatures": written});
    Ok(CommandOutput::new(text, json))
}

fn write_signatures(file: &Path, signatures: &[Signature]) -> Result<Vec<PathBuf>, TrustError> {
    let mut written = vec![];
    for signature in signatures {
        let path = signature::place(file, &signature.key_id());
        write(&path, signature.text().as_bytes())?;
        written.push(path);
    }
    Ok(written)
}

pub(super) fn lock(shared: &Shared, args: &LockArgs) -> Exit {
    end(shared, try_lock(shared, args))
}

fn try_lock(shared: &Shared, LockArgs { check }: &LockArgs) -> Result<CommandOutput, RunError> {
    let no_config = || RunError::Usage("there is no configuration to lock; give --config".into());
    let mut locks = Locks::of(shared)?.ok_or_else(no_config)?;
    let mut policies = vec![];
    let mut text = String::new();
    for name in locks.config.to_lock() {
        let path = locks.config.module(&name).unwrap_or_default();
        let (bytes, _) = qhost_policy::read_file(&name, &path)?;
        let found = Sha256::of(&bytes);
        let before = locks.lock.policies.get(&name).map(|locked| locked.sha256);
        let word = match before {
            Some(locked) if locked == found => "unchanged",
            Some(_) if *check => "changed",
            None if *check => "unlocked",
            Some(_) | None => "locked",
        };
        text += &format!("{word:<9} {name} sha256:{found}\n");
        policies.push(json!({"name": name, "sha256": found, "before": before, "status": word}));
        if before != Some(found) {
            locks
                .lock
                .policies
                .insert(name, Locked { sha256: found, source: None, manifest: None });
        }
    }
    let same = policies.iter().all(|policy| policy["status"] == "unchanged");
    if !*check && !same {
        locks.lock.write(&locks.path)?;
        text += &format!("wrote     {}\n", locks.path.display());
    }
    let json = json!({"lock": locks.path, "policies": policies});
    Ok(CommandOutput { text, json, holds: same || !*check })
}

/// A configuration with its lock file.
struct Locks {
    config: Config,
    place: PathBuf,
    lock: Lock,
    path: PathBuf,
}

impl Locks {
    /// Opens the configuration that is named or found; none if there is none.
    fn of(shared: &Shared) -> Result<Option<Self>, RunError> {
        let Some(place) = Config::place(shared.config.as_deref())? else { return Ok(None) };
        let config = Config::load_to_lock(&place)?;
        let lock = config.lock().clone();
        Ok(Some(Self { config, lock, path: Lock::place(&place), place }))
    }

    fn check(
        &self,
        name: &str,
        found: Sha256,
        place: &registry::Place,
        update: bool,
    ) -> Result<(), TrustError> {
        let Some(locked) = self.config.pin(name).filter(|locked| *locked != found) else {
            return Ok(());
        };
        let (file, hint) = if !self.ties(name) {
            (self.place.clone(), "change it there first")
        } else if update {
            return Ok(());
        } else {
            (self.path.clone(), "--update takes it")
        };
        let (name, place) = (name.into(), place.to_string());
        Err(TrustError::Moved(Box::new(Moved { file, hint, name, locked, place, found })))
    }

    /// Whether the configuration leaves a policy's digest to the lock file.
    fn ties(&self, name: &str) -> bool {
        self.config.to_lock().iter().any(|to_lock| to_lock == name)
    }

    fn put(&mut self, name: &str, locked: Locked) -> Result<(), RunError> {
        self.lock.policies.insert(name.into(), locked);
        Ok(self.lock.write(&self.path)?)
    }
}
