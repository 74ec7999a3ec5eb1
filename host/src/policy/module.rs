//! Loads a policy's file: a component, or a core module that carries its world's type, which is made one.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, types::ComponentItem};

use super::{
    Allowance, Chain, Layer, Mode,
    bindings::PolicyPre,
    chain::Link,
    compile::{self, CompileLimits, Kind},
    compiled::{self, Compiled, Note},
    convert,
    error::{Fault, PolicyError},
    sandbox::{Guest, Sandbox},
    sealed,
    signature::{self, Signers},
    wasi::{self, Moment},
};
use crate::{digest::Sha256, limits, printable};

/// The one interface that a policy may import functions from.
const LOG: &str = "qhost:policy/log@0.1.0";
/// What a policy that is granted WASI may import.
const WITH_WASI: &str =
    "qhost:policy/log@0.1.0 and, of WASI 0.2, cli, clocks, filesystem, io, random and sockets";
/// The interface that makes a component a policy.
pub(super) const DECIDE: &str = "qhost:policy/decide@0.1.0";

/// Where a policy comes from, and on what terms it is asked.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name it goes by.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The digest that its file must have.
    pub pin: Option<Sha256>,
    /// Whose signatures it must have.
    pub signers: Option<Signers>,
    /// Its settings, a JSON object; `{}` when none were given.
    pub settings: String,
    /// What it may use.
    pub allowance: Allowance,
    /// What its word counts for.
    pub mode: Mode,
    /// Whose it is.
    pub layer: Layer,
}

/// Where compiled policies are kept, and how they are compiled.
pub struct Cache {
    /// The folder, this host's own.
    pub folder: PathBuf,
    /// What compiling one policy may take.
    pub limits: CompileLimits,
    /// Told the name of a policy that is about to be compiled, which may take half a minute.
    pub compiling: Box<dyn Fn(&str) + Send + Sync>,
}

/// Loads policies into one sandbox.
pub struct Loader {
    sandbox: Arc<Sandbox>,
    cache: Option<(Cache, Option<Compiled>)>,
}

impl Loader {
    /// Compiles in this process and keeps nothing: for programs that load policies once, such as benchmarks.
    pub fn in_process() -> Result<Self, PolicyError> {
        let sandbox = Sandbox::new()
            .map_err(|error| PolicyError::Sandbox { reason: format!("{error:#}") })?;
        Ok(Self { sandbox: Arc::new(sandbox), cache: None })
    }

    /// Compiles in processes of their own, with limits, and keeps what they make.
    pub fn with_cache(cache: Cache) -> Result<Self, PolicyError> {
        let mut loader = Self::in_process()?;
        let compiled = Compiled::open(&cache.folder, loader.sandbox.engine());
        // Without it every run compiles, as on a disk that cannot be written.
        let compiled = compiled.map_err(|error| compiled::log_failure(Err(error))).ok();
        loader.cache = Some((cache, compiled));
        Ok(loader)
    }

    /// Loads every policy and has it check its settings.
    pub fn chain(&self, sources: Vec<Source>) -> Result<Chain, PolicyError> {
        let links =
            sources.into_iter().map(|source| self.link(source)).collect::<Result<_, _>>()?;
        Ok(Chain { sandbox: Arc::clone(&self.sandbox), links })
    }

    fn link(&self, source: Source) -> Result<Link, PolicyError> {
        let Source { name, path, pin, signers, settings, allowance, mode, layer } = source;
        let file = self.identify(&name, &path)?;
        if let Some(pinned) = pin.filter(|pinned| *pinned != file.sha256) {
            return Err(PolicyError::NotPinned { name, path, found: file.sha256, pinned });
        }
        if let Some(signers) = signers {
            self.signed(&name, &file, &signers)?;
        }
        let (module, note) = self.module(name, file, &allowance)?;
        let settings_sha256 = Sha256::of(settings.as_bytes());
        let known = note.as_ref().is_some_and(|note| note.accepted.contains(&settings_sha256));
        if !known {
            module.check_settings(&self.sandbox, &allowance, &settings)?;
            if let (Some(mut note), Some(compiled)) = (note, self.compiled()) {
                let accepted = compiled.accept(module.sha256, &mut note, settings_sha256);
                compiled::log_failure(accepted);
            }
        }
        Ok(Link { module, settings, settings_sha256, layer, mode, allowance })
    }

    /// Whether a file has the signatures that it must have: before anything is done with what is in it.
    fn signed(&self, name: &str, file: &PolicyFile, signers: &Signers) -> Result<(), PolicyError> {
        let PolicyFile { path, sha256, bytes } = file;
        let unreadable =
            |source| PolicyError::Unreadable { name: name.into(), path: path.clone(), source };
        let signatures = signature::beside(path).map_err(unreadable)?;
        let known = self.compiled().map(|compiled| compiled.proofs(*sha256)).unwrap_or_default();
        let bytes = || match bytes {
            Some(bytes) => Ok(bytes.clone()),
            None => self.reread(name, file),
        };
        let checked = signature::check(signers, &signatures, &known, bytes)?;
        if checked.by.len() < signers.threshold() {
            let (name, path, sha256) = (name.into(), path.clone(), *sha256);
            let (checked, signers) = (Box::new(checked), Box::new(signers.clone()));
            return Err(PolicyError::Unsigned { name, path, sha256, checked, signers });
        }
        if let Some(compiled) = self.compiled().filter(|_| checked.proofs != known) {
            compiled::log_failure(compiled.keep_proofs(*sha256, &checked.proofs));
        }
        Ok(())
    }

    /// The bytes of a file that has been identified; it may have been changed since.
    fn reread(&self, name: &str, file: &PolicyFile) -> Result<Vec<u8>, PolicyError> {
        let (bytes, _) = read(name, &file.path)?;
        match Sha256::of(&bytes) == file.sha256 {
            true => Ok(bytes),
            false => Err(PolicyError::NotLoadable {
                name: name.into(),
                sha256: file.sha256,
                reason: "its file changed while it was being loaded".into(),
            }),
        }
    }

    /// Loads a policy as a run would, and says what it is.
    pub fn inspect(
        &self,
        name: &str,
        path: &Path,
        allowance: &Allowance,
    ) -> Result<Inspection, PolicyError> {
        let file = self.identify(name, path)?;
        let (Module { sha256, facts, .. }, _) = self.module(name.to_owned(), file, allowance)?;
        Ok(Inspection { sha256, world: "qhost:policy/policy@0.1.0", facts })
    }

    fn compiled(&self) -> Option<&Compiled> {
        self.cache.as_ref().and_then(|(_, compiled)| compiled.as_ref())
    }

    /// A policy's digest, and its bytes where they had to be read for that.
    fn identify(&self, name: &str, path: &Path) -> Result<PolicyFile, PolicyError> {
        if let Some(sha256) = self.compiled().and_then(|compiled| compiled.digest(path)) {
            return Ok(PolicyFile { path: path.into(), sha256, bytes: None });
        }
        let (bytes, metadata) = read(name, path)?;
        let sha256 = Sha256::of(&bytes);
        if let Some(compiled) = self.compiled() {
            compiled::log_failure(compiled.keep_digest(path, &metadata, sha256));
        }
        Ok(PolicyFile { path: path.into(), sha256, bytes: Some(bytes) })
    }

    fn module(
        &self,
        name: String,
        file: PolicyFile,
        allowance: &Allowance,
    ) -> Result<(Module, Option<Note>), PolicyError> {
        let sha256 = file.sha256;
        let kept =
            || self.compiled().and_then(|compiled| compiled.get(self.sandbox.engine(), sha256));
        if let Some((component, note)) = kept() {
            let module = Module::new(
                &self.sandbox,
                name,
                sha256,
                &component,
                note.facts.clone(),
                allowance,
            )?;
            return Ok((module, Some(note)));
        }
        let bytes = match file.bytes {
            Some(bytes) => bytes,
            None => self.reread(&name, &file)?,
        };
        let module = self.compile(name, sha256, &bytes, allowance)?;
        Ok((module, kept().map(|(_, note)| note)))
    }

    fn compile(
        &self,
        name: String,
        sha256: Sha256,
        bytes: &[u8],
        allowance: &Allowance,
    ) -> Result<Module, PolicyError> {
        let not_loadable = |reason: String| PolicyError::NotLoadable {
            name: name.clone(),
            sha256,
            reason: printable::line(&reason, 300).to_string(),
        };
        let kind = Kind::of(bytes).map_err(not_loadable)?;
        let engine = self.sandbox.engine();
        let (component, code) = match &self.cache {
            None => {
                let component = compile::component(bytes).map_err(not_loadable)?;
                (Component::new(engine, component), None)
            }
            Some((cache, _)) => {
                tracing::info!(name, "compiling");
                (cache.compiling)(&name);
                let code = compile::compile(bytes, cache.limits).map_err(not_loadable)?;
                (compiled::fresh(engine, &code), Some(code))
            }
        };
        let component = component.map_err(|error| not_loadable(format!("{error:#}")))?;
        let (imports, exports) = interfaces(&self.sandbox, &component);
        let count = imports.len().max(exports.len());
        if count > limits::POLICY_INTERFACES {
            let most = limits::POLICY_INTERFACES;
            return Err(not_loadable(format!(
                "it imports or exports {count} names, more than {most}"
            )));
        }
        let facts = Facts { kind, bytes: bytes.len(), imports, exports, about: About::default() };
        let mut module = Module::new(&self.sandbox, name, sha256, &component, facts, allowance)?;
        module.facts.about = module.describe(&self.sandbox, allowance)?;
        if let (Some(compiled), Some(code)) = (self.compiled(), code) {
            compiled::log_failure(compiled.put(sha256, &module.facts, &code));
        }
        Ok(module)
    }
}

/// A policy's file, identified.
struct PolicyFile {
    path: PathBuf,
    sha256: Sha256,
    bytes: Option<Vec<u8>>,
}

/// A policy that can be asked.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) sha256: Sha256,
    pub(super) pre: PolicyPre<Guest>,
    pub(super) facts: Facts,
}

/// What is known of a policy's file once it was loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// What it says of itself.
    #[serde(flatten)]
    pub about: About,
    /// The file's size in bytes.
    pub bytes: usize,
    /// What kind of WebAssembly it is.
    pub kind: Kind,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
}

/// What a policy says of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its settings; text where it is not JSON.
    pub settings_schema: Option<serde_json::Value>,
}

impl Module {
    fn new(
        sandbox: &Sandbox,
        name: String,
        sha256: Sha256,
        component: &Component,
        facts: Facts,
        allowance: &Allowance,
    ) -> Result<Self, PolicyError> {
        let forbidden: Vec<_> =
            facts.imports.iter().filter(|name| !allowed(name, allowance)).cloned().collect();
        if !forbidden.is_empty() {
            let imports = forbidden;
            let allowed = if allowance.wasi { WITH_WASI } else { LOG };
            return Err(PolicyError::ForbiddenImport { name, sha256, imports, allowed });
        }
        if !facts.exports.iter().any(|name| is_one_of(name, &[DECIDE])) {
            let exports = facts.exports;
            return Err(PolicyError::WrongWorld { name, sha256, exports, expected: DECIDE });
        }
        match sandbox.prepare(component, allowance) {
            Ok(pre) => Ok(Self { name, sha256, pre, facts }),
            Err(error) => {
                let reason = printable::line(&format!("{error:#}"), 300).to_string();
                Err(PolicyError::NotLoadable { name, sha256, reason })
            }
        }
    }

    fn describe(&self, sandbox: &Sandbox, allowance: &Allowance) -> Result<About, PolicyError> {
        let mut opened = sandbox.open(&self.pre, allowance, || Moment::NONE);
        let about = opened.call(|policy, store| policy.qhost_policy_decide().call_describe(store));
        let about = about.map_err(|fault| self.failed("describe", fault))?;
        let schema = about.settings_schema.map(|schema| {
            let end = schema.floor_char_boundary(limits::POLICY_SCHEMA_BYTES);
            let cut = schema.get(..end).unwrap_or_default();
            serde_json::from_str(cut).unwrap_or_else(|_| convert::text(cut).into())
        });
        Ok(About {
            name: convert::name(&about.name),
            version: convert::name(&about.version),
            description: convert::text(&about.description),
            settings_schema: schema,
        })
    }

    fn check_settings(
        &self,
        sandbox: &Sandbox,
        allowance: &Allowance,
        settings: &str,
    ) -> Result<(), PolicyError> {
        let mut opened = sandbox.open(&self.pre, allowance, || Moment::NONE);
        let checked = opened.call(|policy, store| {
            policy.qhost_policy_decide().call_check_settings(store, settings)
        });
        let refused = |message: String| PolicyError::Settings {
            name: self.name.clone(),
            sha256: self.sha256,
            message: convert::text(&message),
        };
        checked.map_err(|fault| self.failed("check-settings", fault))?.map_err(refused)
    }

    pub(super) fn failed(&self, call: &'static str, fault: Fault) -> PolicyError {
        PolicyError::Failed { name: self.name.clone(), sha256: self.sha256, call, fault }
    }
}

/// The file's bytes, and how it stood when they were read.
pub(crate) fn read(name: &str, path: &Path) -> Result<(Vec<u8>, Metadata), PolicyError> {
    let unreadable =
        |source| PolicyError::Unreadable { name: name.into(), path: path.into(), source };
    let mut bytes = vec![];
    // A pipe that nobody writes to must not keep anybody waiting.
    let options = &mut File::options();
    let mut file = options
        .read(true)
        .custom_flags(sealed::flag(OFlags::NONBLOCK))
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("no regular file")));
    }
    let most = limits::POLICY_FILE_BYTES;
    file.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() as u64 <= most {
        true => Ok((bytes, metadata)),
        false => Err(PolicyError::TooLarge { name: name.into(), path: path.into() }),
    }
}

/// The names of what a component imports and exports.
fn interfaces(sandbox: &Sandbox, component: &Component) -> (Vec<String>, Vec<String>) {
    let kind = component.component_type();
    let show = |name: &str| printable::line(name, limits::SHOWN_CHARS).to_string();
    (
        kind.imports(sandbox.engine())
            .filter(|(_, item)| !is_of_types(&item.ty, sandbox))
            .map(|(name, _)| show(name))
            .collect(),
        kind.exports(sandbox.engine()).map(|(name, _)| show(name)).collect(),
    )
}

/// Whether an import is a type, or an interface of nothing but types: such a one grants nothing.
fn is_of_types(item: &ComponentItem, sandbox: &Sandbox) -> bool {
    let is_type =
        |item: &ComponentItem| matches!(item, ComponentItem::Type(_) | ComponentItem::Resource(_));
    match item {
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(sandbox.engine()).all(|(_, item)| is_type(&item.ty))
        }
        ComponentItem::Type(_) | ComponentItem::Resource(_) => true,
        ComponentItem::ComponentFunc(_)
        | ComponentItem::CoreFunc(_)
        | ComponentItem::Module(_)
        | ComponentItem::Component(_) => false,
    }
}

/// Whether a policy may import an interface.
fn allowed(interface: &str, allowance: &Allowance) -> bool {
    is_one_of(interface, &[LOG]) || (allowance.wasi && wasi::covers(interface))
}

/// Whether an interface's name is one of those known, in any patch of the same minor version: within one, the contract
/// only gains functions.
pub(super) fn is_one_of(name: &str, known: &[&str]) -> bool {
    let track = |name: &str| name.rsplit_once('.').map(|(track, _)| track.to_owned());
    known
        .iter()
        .any(|known| *known == name || (track(known).is_some() && track(known) == track(name)))
}

/// What a policy file is, for people and programs to look at.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// What it is and says.
    #[serde(flatten)]
    pub facts: Facts,
    /// The file's digest.
    pub sha256: Sha256,
    /// The world it is of.
    pub world: &'static str,
}
