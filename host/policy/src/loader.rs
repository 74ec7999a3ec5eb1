//! Loads the policies of a chain: identifies each file, checks its digest and its signatures, compiles it or takes the code compiled
//! before, and has the policy check its settings.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use wasmtime::component::Component;

use qhost_model::{digest::Sha256, printable};

use super::{
    Allowance, Chain, Deadline, Layer, Mode,
    cache::{self, CacheEntry, Compiled},
    compile::{self, CompileLimits},
    component::Kind,
    error::PolicyError,
    link::Link,
    module::{About, Facts, Inspection, Module, interfaces, read},
    sandbox::{Instance, Sandbox},
    signature::{self, Signers},
    slots::Taken,
    tables::{FindTable, Tables},
    wasi::DecisionTime,
};
use crate::limits;

/// Where a policy comes from, and on what terms it is asked.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name that the policy goes by.
    pub name: String,
    /// The policy's file.
    pub path: PathBuf,
    /// The digest that the file must have.
    pub pin: Option<Sha256>,
    /// Whose signatures the file must have.
    pub signers: Option<Signers>,
    /// The policy's settings, a JSON object; `{}` when none were given.
    pub settings: String,
    /// What the policy may use.
    pub allowance: Allowance,
    /// What the policy's word counts for.
    pub mode: Mode,
    /// Whose policy it is.
    pub layer: Layer,
    /// Fields of a launch that the policy need not see; a policy of an earlier contract refuses all others by its silence.
    pub unseen: Vec<String>,
}

impl Source {
    /// A policy of the host's, from a file, without settings and with the default allowance. No digest or signature is asked for.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            pin: None,
            signers: None,
            settings: "{}".into(),
            allowance: Allowance::default(),
            mode: Mode::Enforce,
            layer: Layer::Host,
            unseen: vec![],
        }
    }
}

/// A folder of compiled policies, opened when the first policy is loaded.
struct Cache {
    folder: PathBuf,
    /// The open folder; absent where it cannot be opened, and every run then compiles, as on a disk that cannot be written.
    compiled: OnceLock<Option<Compiled>>,
}

/// Loads policies into one sandbox, which its clones share.
#[derive(Clone)]
pub struct Loader {
    sandbox: Arc<Sandbox>,
    cache: Option<Arc<Cache>>,
    limits: CompileLimits,
    deadline: Option<Deadline>,
    tables: Arc<FindTable>,
    compiling: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Loader {
    /// Makes a loader that compiles in this process and keeps nothing, for programs that load policies once, such as benchmarks.
    pub fn in_process() -> Result<Self, PolicyError> {
        let sandbox = Sandbox::new()
            .map_err(|error| PolicyError::Sandbox { reason: format!("{error:#}") })?;
        let compiling = Arc::new(|_: &str| {});
        let (sandbox, limits) = (Arc::new(sandbox), CompileLimits::default());
        let tables = Arc::new(|_: &str| Ok(None));
        Ok(Self { sandbox, cache: None, limits, deadline: None, tables, compiling })
    }

    /// Makes a loader that compiles in processes with limits, and keeps the compiled code in a folder of this host's own.
    pub fn with_cache(folder: PathBuf) -> Result<Self, PolicyError> {
        let cache = Arc::new(Cache { folder, compiled: OnceLock::new() });
        Ok(Self { cache: Some(cache), ..Self::in_process()? })
    }

    /// Has loading end at a decision's deadline.
    pub fn until(self, deadline: Deadline) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets what compiling one policy may take.
    pub fn within(self, limits: CompileLimits) -> Self {
        Self { limits, ..self }
    }

    /// Sets how the loader finds the operator's tables.
    pub fn with_tables(self, tables: Arc<FindTable>) -> Self {
        Self { tables, ..self }
    }

    /// Sets a function to call with the name of each policy that is about to be compiled in a process of its own, since that may take half
    /// a minute.
    pub fn telling(self, compiling: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { compiling: Arc::new(compiling), ..self }
    }

    /// Loads every policy and has it check its settings.
    pub fn chain(&self, sources: Vec<Source>) -> Result<Chain, PolicyError> {
        let link = |source| self.link(source).map(Arc::new);
        let links = sources.into_iter().map(link).collect::<Result<_, _>>()?;
        Ok(Chain { sandbox: Arc::clone(&self.sandbox), links })
    }

    fn link(&self, source: Source) -> Result<Link, PolicyError> {
        let Source { name, path, pin, signers, settings, allowance, mode, layer, unseen } = source;
        self.in_time(&name)?;
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
            let _slot = self.slot(&module.name)?;
            module.check_settings(self.opened(&module, &allowance), &settings)?;
            if let (Some(mut note), Some(compiled)) = (note, self.compiled()) {
                let accepted = compiled.accept(module.sha256, &mut note, settings_sha256);
                cache::log_failure(accepted);
            }
        }
        let (tables, module) = (self.tables_of(&module)?, Arc::new(module));
        Ok(Link { module, settings, settings_sha256, tables, layer, mode, allowance, unseen })
    }

    /// Finds the tables that a policy names.
    fn tables_of(&self, module: &Module) -> Result<Arc<Tables>, PolicyError> {
        let table = |name: &String| match (self.tables)(name) {
            Ok(Some(table)) => Ok((name.clone(), table)),
            Ok(None) => Err(PolicyError::NoTable {
                name: module.name.clone(),
                sha256: module.sha256,
                table: name.clone(),
            }),
            Err(reason) => Err(PolicyError::Table { table: name.clone(), reason }),
        };
        module.facts.about.tables.iter().map(table).collect::<Result<_, _>>().map(Arc::new)
    }

    /// Waits for one slot of the pool, since decisions may have taken all of them.
    fn slot(&self, name: &str) -> Result<Taken<'_>, PolicyError> {
        self.sandbox.slots(1, self.deadline).ok_or_else(|| PolicyError::Overdue {
            name: name.to_owned(),
            limit: self.deadline.map_or(limits::DECISION, |deadline| deadline.limit()),
        })
    }

    /// Checks that a file has the signatures that it must have, before anything in the file is used.
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
            cache::log_failure(compiled.keep_proofs(*sha256, &checked.proofs));
        }
        Ok(())
    }

    /// Reads an identified file once more, and refuses it if it has changed since it was identified.
    fn reread(&self, name: &str, file: &PolicyFile) -> Result<Vec<u8>, PolicyError> {
        let (bytes, _) = read(name, &file.path)?;
        if Sha256::of(&bytes) == file.sha256 {
            Ok(bytes)
        } else {
            Err(PolicyError::NotLoadable {
                name: name.into(),
                sha256: file.sha256,
                reason: "its file changed while it was being loaded".into(),
            })
        }
    }

    /// Loads a policy as a run would, and gives what is known of it.
    pub fn inspect(
        &self,
        name: &str,
        path: &Path,
        allowance: &Allowance,
    ) -> Result<Inspection, PolicyError> {
        let file = self.identify(name, path)?;
        let (Module { sha256, facts, component, .. }, _) =
            self.module(name.to_owned(), file, allowance)?;
        Ok(Inspection { sha256, world: component.version().world(), facts })
    }

    fn compiled(&self) -> Option<&Compiled> {
        let Cache { folder, compiled } = self.cache.as_deref()?;
        let open = || {
            let compiled = Compiled::open(folder, self.sandbox.engine());
            compiled.map_err(|error| cache::log_failure(Err(error))).ok()
        };
        compiled.get_or_init(open).as_ref()
    }

    /// Finds a policy's digest, and its bytes where they had to be read for the digest.
    fn identify(&self, name: &str, path: &Path) -> Result<PolicyFile, PolicyError> {
        if let Some(sha256) = self.compiled().and_then(|compiled| compiled.digest(path)) {
            return Ok(PolicyFile { path: path.into(), sha256, bytes: None });
        }
        let (bytes, metadata) = read(name, path)?;
        let sha256 = Sha256::of(&bytes);
        if let Some(compiled) = self.compiled() {
            cache::log_failure(compiled.keep_digest(path, &metadata, sha256));
        }
        Ok(PolicyFile { path: path.into(), sha256, bytes: Some(bytes) })
    }

    fn module(
        &self,
        name: String,
        file: PolicyFile,
        allowance: &Allowance,
    ) -> Result<(Module, Option<CacheEntry>), PolicyError> {
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
            Some(_) => {
                tracing::info!(name, "compiling");
                (self.compiling)(&name);
                let code = compile::compile(bytes, self.limits());
                let code = code.map_err(|reason| match self.in_time(&name) {
                    Ok(()) => not_loadable(reason),
                    Err(overdue) => overdue,
                })?;
                (cache::fresh(engine, &code), Some(code))
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
        let slot = self.slot(&module.name)?;
        module.facts.about = module.describe(self.opened(&module, allowance))?;
        drop(slot);
        if let (Some(compiled), Some(code)) = (self.compiled(), code) {
            cache::log_failure(compiled.put(sha256, &module.facts, &code));
        }
        Ok(module)
    }
}

/// How the time of a decision bounds loading its policies.
impl Loader {
    fn in_time(&self, name: &str) -> Result<(), PolicyError> {
        match self.deadline.filter(|deadline| deadline.left().is_zero()) {
            Some(over) => Err(PolicyError::Overdue { name: name.into(), limit: over.limit() }),
            None => Ok(()),
        }
    }

    /// The compiler's limits: no more time than is left until the deadline.
    fn limits(&self) -> CompileLimits {
        let CompileLimits { time, .. } = self.limits;
        let left = self.deadline.map_or(time, |deadline| deadline.left());
        CompileLimits { time: time.min(left), ..self.limits }
    }

    /// Opens a sandbox for a call outside a decision.
    fn opened<'a>(&self, module: &'a Module, allowance: &Allowance) -> Instance<'a> {
        self.sandbox.open(&module.component, &Arc::default(), allowance, self.deadline, || {
            DecisionTime::NONE
        })
    }
}

/// A policy's file with its digest, and with its bytes if they had to be read.
struct PolicyFile {
    path: PathBuf,
    sha256: Sha256,
    bytes: Option<Vec<u8>>,
}
