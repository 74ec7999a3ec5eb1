//! A policy's file, and what can be asked of it before any decision. The file is a component, or a core module that
//! carries its world's type and is made a component.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, types::ComponentItem};

use qhost_model::{digest::Sha256, printable};

use super::{
    Allowance,
    component::Kind,
    contract::{self, EXPORTED, Version},
    error::{Fault, PolicyError},
    sandbox::{Instance, Sandbox},
    sealed, settings, wasi,
};
use crate::limits;

/// A policy that can be asked.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) sha256: Sha256,
    pub(super) component: contract::Component,
    pub(super) facts: Facts,
}

/// What is known of a policy's file once the file was loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// What the policy says of itself.
    #[serde(flatten)]
    pub about: About,
    /// The file's size in bytes.
    pub bytes: usize,
    /// What kind of WebAssembly the file is.
    pub kind: Kind,
    /// The interfaces that the policy imports.
    pub imports: Vec<String>,
    /// The interfaces that the policy exports.
    pub exports: Vec<String>,
}

/// What a policy says of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct About {
    /// The policy's name.
    pub name: String,
    /// The policy's version.
    pub version: String,
    /// What the policy does.
    pub description: String,
    /// The JSON Schema of the policy's settings; a JSON text where it is not JSON.
    pub settings_schema: Option<serde_json::Value>,
    /// The operator's tables that the policy looks things up in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
}

impl Module {
    pub(super) fn new(
        sandbox: &Sandbox,
        name: String,
        sha256: Sha256,
        component: &Component,
        facts: Facts,
        allowance: &Allowance,
    ) -> Result<Self, PolicyError> {
        let version = Version::of(&facts.exports);
        let is_allowed = |import: &String| {
            // A file that is no policy is told what a policy of the newest contract may import.
            version.unwrap_or(Version::NEWEST).may_import(import)
                || (allowance.wasi && wasi::covers(import))
        };
        let imports: Vec<_> =
            facts.imports.iter().filter(|name| !is_allowed(name)).cloned().collect();
        if !imports.is_empty() {
            let allowed = if allowance.wasi { WITH_WASI } else { WITHOUT_WASI };
            return Err(PolicyError::ForbiddenImport { name, sha256, imports, allowed });
        }
        let Some(version) = version else {
            let exports = facts.exports;
            return Err(PolicyError::WrongWorld { name, sha256, exports, expected: EXPORTED });
        };
        match sandbox.prepare(component, version, allowance) {
            Ok(component) => Ok(Self { name, sha256, component, facts }),
            Err(error) => {
                let reason = printable::line(&format!("{error:#}"), 300).to_string();
                Err(PolicyError::NotLoadable { name, sha256, reason })
            }
        }
    }

    pub(super) fn describe(&self, mut opened: Instance<'_>) -> Result<About, PolicyError> {
        let about = opened.call(|policy, store| policy.describe(store));
        let about = about.map_err(|fault| self.failed("describe", fault))?;
        let count = about.tables.len();
        if count > limits::POLICY_TABLES {
            let nonsense = format!("{count} tables, more than {}", limits::POLICY_TABLES);
            return Err(self.failed("describe", Fault::Nonsense(nonsense)));
        }
        let schema = about.settings_schema.map(|schema| {
            let end = schema.floor_char_boundary(limits::POLICY_SCHEMA_BYTES);
            let cut = schema.get(..end).unwrap_or_default();
            serde_json::from_str(cut).unwrap_or_else(|_| contract::text(cut).into())
        });
        let name = |what, text: &str| {
            contract::name(what, text).map_err(|fault| self.failed("describe", fault))
        };
        Ok(About {
            name: name("name", &about.name)?,
            version: name("version", &about.version)?,
            description: contract::text(&about.description),
            settings_schema: schema,
            tables: about
                .tables
                .iter()
                .map(|table| name("table", table))
                .collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn check_settings(
        &self,
        mut opened: Instance<'_>,
        given: &str,
    ) -> Result<(), PolicyError> {
        let checked = opened.call(|policy, store| policy.check_settings(store, given));
        let takes = || self.facts.about.settings_schema.as_ref().and_then(settings::described);
        let refused = |message: String| PolicyError::Settings {
            name: self.name.clone(),
            sha256: self.sha256,
            message: takes().map_or(contract::text(&message), |takes| {
                format!("{}; it takes {takes}", contract::text(&message))
            }),
        };
        checked.map_err(|fault| self.failed("check-settings", fault))?.map_err(refused)
    }

    pub(super) fn failed(&self, call: &'static str, fault: Fault) -> PolicyError {
        let name = self.name.clone();
        if let Fault::Overdue { limit } = fault {
            return PolicyError::Overdue { name, limit };
        }
        PolicyError::Failed { name, sha256: self.sha256, call, fault }
    }
}

/// Reads the file's bytes, and the metadata that the file had when it was read.
pub fn read(name: &str, path: &Path) -> Result<(Vec<u8>, Metadata), PolicyError> {
    let unreadable =
        |source| PolicyError::Unreadable { name: name.into(), path: path.into(), source };
    let mut bytes = vec![];
    // Without this flag, opening a pipe without a writer would wait for ever.
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
    if bytes.len() as u64 <= most {
        Ok((bytes, metadata))
    } else {
        Err(PolicyError::TooLarge { name: name.into(), path: path.into() })
    }
}

/// The names of what a component imports and exports.
pub(super) fn interfaces(sandbox: &Sandbox, component: &Component) -> (Vec<String>, Vec<String>) {
    let kind = component.component_type();
    let show = |name: &str| printable::line(name, qhost_model::limits::SHOWN_CHARS).to_string();
    (
        kind.imports(sandbox.engine())
            .filter(|(_, item)| !is_of_types(&item.ty, sandbox))
            .map(|(name, _)| show(name))
            .collect(),
        kind.exports(sandbox.engine()).map(|(name, _)| show(name)).collect(),
    )
}

/// Whether an import is a type, or an interface of nothing but types. Such an import grants nothing.
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

/// What a policy without WASI may import, for messages.
const WITHOUT_WASI: &str = "qhost:policy/log and qhost:policy/tables";
/// What a policy that is granted WASI may import, for messages.
const WITH_WASI: &str = "qhost:policy/log, qhost:policy/tables and, of WASI 0.2, cli, clocks, filesystem, io, random and sockets";

/// A policy's file, for people and programs to look at.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// What is known of the file, and what the policy says of itself.
    #[serde(flatten)]
    pub facts: Facts,
    /// The file's digest.
    pub sha256: Sha256,
    /// The world that the policy is of.
    pub world: &'static str,
}
