//! Loads a policy's file: a component, or a core module that carries its world's type, which is made one.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use wasmtime::component::{Component, types::ComponentItem};
use wit_component::ComponentEncoder;

use super::{
    Allowance, Chain, Layer, Mode,
    bindings::{PolicyPre, qhost::policy::types::About},
    chain::Link,
    convert,
    error::{Fault, PolicyError},
    sandbox::{Guest, Sandbox},
};
use crate::{digest::Sha256, limits, printable};

/// The one interface that a policy may import functions from.
const LOG: &str = "qhost:policy/log@0.1.0";
/// The interface that makes a component a policy.
const DECIDE: &str = "qhost:policy/decide@0.1.0";
/// An interface of types only: importing it grants nothing.
const TYPES: &str = "qhost:policy/types@0.1.0";

/// Where a policy comes from, and on what terms it is asked.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name it goes by.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The digest that its file must have.
    pub pin: Option<Sha256>,
    /// Its settings, a JSON object; `{}` when none were given.
    pub settings: String,
    /// What it may use.
    pub allowance: Allowance,
    /// What its word counts for.
    pub mode: Mode,
    /// Whose it is.
    pub layer: Layer,
}

/// Loads policies into one sandbox.
pub struct Loader {
    sandbox: Arc<Sandbox>,
}

impl Loader {
    /// Sets the sandbox up.
    pub fn new() -> Result<Self, PolicyError> {
        let sandbox = Sandbox::new()
            .map_err(|error| PolicyError::Sandbox { reason: format!("{error:#}") })?;
        Ok(Self { sandbox: Arc::new(sandbox) })
    }

    /// Loads every policy and has it check its settings.
    pub fn chain(&self, sources: Vec<Source>) -> Result<Chain, PolicyError> {
        let links =
            sources.into_iter().map(|source| self.link(source)).collect::<Result<_, _>>()?;
        Ok(Chain { sandbox: Arc::clone(&self.sandbox), links })
    }

    fn link(&self, source: Source) -> Result<Link, PolicyError> {
        let Source { name, path, pin, settings, allowance, mode, layer } = source;
        let module = Module::load(&self.sandbox, &name, &path)?;
        if let Some(pinned) = pin.filter(|pinned| *pinned != module.sha256) {
            return Err(PolicyError::NotPinned { name, path, found: module.sha256, pinned });
        }
        let version = convert::name(&module.describe(&self.sandbox, &allowance)?.version);
        module.check_settings(&self.sandbox, &allowance, &settings)?;
        let settings_sha256 = Sha256::of(settings.as_bytes());
        Ok(Link { module, settings, settings_sha256, version, layer, mode, allowance })
    }

    /// Loads a policy as a run would, and asks it what it is.
    pub fn inspect(
        &self,
        name: &str,
        path: &Path,
        allowance: &Allowance,
    ) -> Result<Inspection, PolicyError> {
        let module = Module::load(&self.sandbox, name, path)?;
        let about = module.describe(&self.sandbox, allowance)?;
        let schema = about.settings_schema.map(|schema| {
            let cut = schema.get(..limits::POLICY_SCHEMA_BYTES).unwrap_or(&schema);
            serde_json::from_str(cut).unwrap_or_else(|_| convert::text(cut).into())
        });
        Ok(Inspection {
            name: convert::name(&about.name),
            version: convert::name(&about.version),
            description: convert::text(&about.description),
            sha256: module.sha256,
            bytes: module.bytes,
            kind: module.kind,
            world: "qhost:policy/policy@0.1.0",
            imports: module.imports,
            exports: module.exports,
            settings_schema: schema,
        })
    }
}

/// A policy that can be asked.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) sha256: Sha256,
    pub(super) pre: PolicyPre<Guest>,
    kind: &'static str,
    bytes: usize,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Module {
    fn load(sandbox: &Sandbox, name: &str, path: &Path) -> Result<Self, PolicyError> {
        let name = name.to_owned();
        let file = match read(path) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(PolicyError::TooLarge { name, path: path.into() }),
            Err(source) => return Err(PolicyError::Unreadable { name, path: path.into(), source }),
        };
        let sha256 = Sha256::of(&file);
        let not_loadable = |reason: String| PolicyError::NotLoadable {
            name: name.clone(),
            sha256,
            reason: printable::line(&reason, 300).to_string(),
        };
        let (kind, component) = component(&file).map_err(not_loadable)?;
        let component = Component::new(sandbox.engine(), component)
            .map_err(|error| not_loadable(format!("{error:#}")))?;
        let (imports, exports) = interfaces(sandbox, &component);
        let forbidden: Vec<_> =
            imports.iter().filter(|name| !is_one_of(name, &[LOG, TYPES])).cloned().collect();
        if !forbidden.is_empty() {
            return Err(PolicyError::ForbiddenImport {
                name,
                sha256,
                imports: forbidden,
                allowed: LOG,
            });
        }
        if !exports.iter().any(|name| is_one_of(name, &[DECIDE])) {
            return Err(PolicyError::WrongWorld { name, sha256, exports, expected: DECIDE });
        }
        let pre =
            sandbox.prepare(&component).map_err(|error| not_loadable(format!("{error:#}")))?;
        Ok(Self { name, sha256, pre, kind, bytes: file.len(), imports, exports })
    }

    fn describe(&self, sandbox: &Sandbox, allowance: &Allowance) -> Result<About, PolicyError> {
        let mut opened = sandbox.open(&self.pre, allowance);
        let about = opened.call(|policy, store| policy.qhost_policy_decide().call_describe(store));
        about.map_err(|fault| self.failed("describe", fault))
    }

    fn check_settings(
        &self,
        sandbox: &Sandbox,
        allowance: &Allowance,
        settings: &str,
    ) -> Result<(), PolicyError> {
        let mut opened = sandbox.open(&self.pre, allowance);
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

/// The file's bytes, or nothing where there are too many.
fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![];
    File::open(path)?.take(limits::POLICY_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limits::POLICY_FILE_BYTES).then_some(bytes))
}

/// Tells a component from a core module by the layer in its header (component-model, "Binary"), and makes the latter
/// one. Nothing is added that the module does not ask for: no adapter, no WASI.
fn component(file: &[u8]) -> Result<(&'static str, Vec<u8>), String> {
    match file.first_chunk::<8>() {
        Some(b"\0asm\x01\0\0\0") => {}
        Some(b"\0asm\x0d\0\x01\0") => return Ok(("component", file.to_vec())),
        Some(_) if file.starts_with(b"\0asm") => {
            return Err("WebAssembly of an unknown version".into());
        }
        Some(_) | None => return Err("not a WebAssembly file".into()),
    }
    ComponentEncoder::default()
        .module(file)
        .and_then(|encoder| encoder.validate(true).encode())
        .map(|component| ("core module", component))
        .map_err(|error| format!("a core module that cannot be made a component: {error:#}"))
}

/// The names of what a component imports and exports.
fn interfaces(sandbox: &Sandbox, component: &Component) -> (Vec<String>, Vec<String>) {
    let kind = component.component_type();
    let show = |name: &str| printable::line(name, limits::SHOWN_CHARS).to_string();
    (
        kind.imports(sandbox.engine())
            // A type that a component imports grants nothing.
            .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
            .map(|(name, _)| show(name))
            .collect(),
        kind.exports(sandbox.engine()).map(|(name, _)| show(name)).collect(),
    )
}

/// Whether an interface's name is one of those known, in any patch of the same minor version: within one, the contract
/// only gains functions.
fn is_one_of(name: &str, known: &[&str]) -> bool {
    let track = |name: &str| name.rsplit_once('.').map(|(track, _)| track.to_owned());
    known
        .iter()
        .any(|known| *known == name || (track(known).is_some() && track(known) == track(name)))
}

/// What a policy file is, for people and programs to look at.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The name it says it has.
    pub name: String,
    /// The version it says it has.
    pub version: String,
    /// What it says it does.
    pub description: String,
    /// The file's digest.
    pub sha256: Sha256,
    /// The file's size in bytes.
    pub bytes: usize,
    /// `component` or `core module`.
    pub kind: &'static str,
    /// The world it is of.
    pub world: &'static str,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// The JSON Schema of its settings; text where it is not JSON.
    pub settings_schema: Option<serde_json::Value>,
}
