//! Write a qhost policy in a dozen lines: implement [`Policy`], then [`export_policy!`].
//!
//! ```
//! use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};
//!
//! struct SmallOnly;
//!
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     memory_mib: u32,
//! }
//!
//! impl Policy for SmallOnly {
//!     type Settings = Settings;
//!
//!     fn about() -> About {
//!         About::new("small-only", "0.1.0", "Refuses large guests.")
//!     }
//!
//!     fn validate(_: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
//!         let memory = launch.resources.memory_mib;
//!         if memory <= settings.memory_mib {
//!             return vec![];
//!         }
//!         vec![Violation::new("too-large", "resources.memory-mib", format!("{memory} MiB is too much"))]
//!     }
//! }
//!
//! export_policy!(SmallOnly);
//! # fn main() {}
//! ```
//!
//! The types are those of `wit/policy.wit`, whose comments give units and ranges. Logic is plain Rust, so unit tests
//! run natively; [`example`] has a request and a launch to start from.

#[cfg(not(target_arch = "wasm32"))]
pub mod example;
pub mod log;
#[cfg(target_arch = "wasm32")]
mod arena;
pub mod tables;

/// The contract as wit-bindgen translates it. Policies use the names that this crate re-exports.
#[expect(missing_docs, reason = "generated; some of its items carry no comment of the contract's")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "policy",
        pub_export_macro: true,
        default_bindings_module: "qhost_policy_sdk::bindings",
        additional_derives: [PartialEq, Clone],
        generate_all,
    });
}

pub use bindings::qhost::policy::types::{
    About, Accelerator, Access, AccessLevel, Actor, ChecksumList, Destination, Disk, DiskKind,
    Egress, Firmware, FirmwareKind, HostFacts, Image, Launch, Machine, Nic, Occasion, Operation,
    PortMap, PortRange, PortRequest, Protocol, Rate, Request, Resources, Running, SecureBoot, Seed,
    SeedKind, SeedPart, Task, Usage, Violation,
};

use serde::de::DeserializeOwned;

/// A policy. Every call runs in a fresh sandbox, so there is no `self` to remember anything in.
pub trait Policy {
    /// What the operator may set, as JSON. Put `#[serde(deny_unknown_fields)]` on it, so that a misspelt setting is
    /// an error and not a hole.
    type Settings: DeserializeOwned;

    /// Says what this policy is.
    fn about() -> About;

    /// Checks settings beyond their type. The error is one sentence that names the setting.
    fn check_settings(settings: &Self::Settings) -> Result<(), String> {
        let _ = settings;
        Ok(())
    }

    /// Turns the launch so far into a better one, or refuses. Its own result must come back unchanged.
    fn choose(
        request: &Request,
        settings: &Self::Settings,
        so_far: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        let _ = (request, settings);
        Ok(so_far)
    }

    /// Judges the final launch; an empty list allows it.
    fn validate(request: &Request, settings: &Self::Settings, launch: &Launch) -> Vec<Violation> {
        let _ = (request, settings, launch);
        vec![]
    }

    /// Judges an operation on a VM that runs; an empty list has nothing against it.
    fn permit(
        request: &Request,
        settings: &Self::Settings,
        vm: &Running,
        operation: &Operation,
        actor: &Actor,
    ) -> Vec<Violation> {
        let _ = (request, settings, vm, operation, actor);
        vec![]
    }
}

impl About {
    /// A policy without settings; see [`About::settings`].
    pub fn new(name: &str, version: &str, description: &str) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            description: description.into(),
            settings_schema: None,
            tables: vec![],
            extensions: vec![],
        }
    }

    /// Names an operator's table that the policy looks things up in.
    pub fn table(mut self, name: &str) -> Self {
        self.tables.push(name.into());
        self
    }

    /// Adds the JSON Schema of the settings.
    pub fn settings(mut self, schema: &str) -> Self {
        self.settings_schema = Some(schema.into());
        self
    }
}

impl Launch {
    /// The disk that the guest boots from.
    pub fn root_disk(&self) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.kind == DiskKind::Root)
    }

    /// The disk that the guest boots from, to change it.
    pub fn root_disk_mut(&mut self) -> Option<&mut Disk> {
        self.disks.iter_mut().find(|disk| disk.kind == DiskKind::Root)
    }
}

impl Operation {
    /// The operation's name in the contract.
    pub fn name(&self) -> &str {
        match self {
            Self::Console => "console",
            Self::Display => "display",
            Self::Screenshot => "screenshot",
            Self::Exec(_) => "exec",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Attach(_) => "attach",
            Self::Detach(_) => "detach",
            Self::Resize(_) => "resize",
            Self::Snapshot => "snapshot",
            Self::Other(name) => name,
        }
    }
}

impl Violation {
    /// Makes a violation: a stable code, the field it is about, and one sentence.
    pub fn new(code: &str, field: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            field: field.into(),
            message: message.into(),
            hint: None,
            extensions: vec![],
        }
    }

    /// Adds a sentence on what the tenant can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Makes a type that implements [`Policy`] the component's policy.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        const _: () = {
            struct Exported;
            use $crate::bindings::exports::qhost::policy::decide::Guest;
            impl Guest for Exported {
                fn describe() -> $crate::About {
                    $crate::log::panics();
                    <$policy as $crate::Policy>::about()
                }
                fn check_settings(settings: String) -> Result<(), String> {
                    $crate::log::panics();
                    $crate::checked_settings::<$policy>(&settings).map(|_| ())
                }
                fn choose(
                    request: $crate::Request,
                    so_far: $crate::Launch,
                ) -> Result<$crate::Launch, Vec<$crate::Violation>> {
                    $crate::log::panics();
                    $crate::choose::<$policy>(&request, so_far)
                }
                fn validate(
                    request: $crate::Request,
                    launch: $crate::Launch,
                ) -> Vec<$crate::Violation> {
                    $crate::log::panics();
                    $crate::validate::<$policy>(&request, &launch)
                }
                fn permit(
                    request: $crate::Request,
                    vm: $crate::Running,
                    operation: $crate::Operation,
                    actor: $crate::Actor,
                ) -> Vec<$crate::Violation> {
                    $crate::log::panics();
                    $crate::permit::<$policy>(&request, &vm, &operation, &actor)
                }
            }
    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}

#[doc(hidden)]
pub fn checked_settings<P: Policy>(settings: &str) -> Result<P::Settings, String> {
    let mut text = serde_json::Deserializer::from_str(settings);
    let settings = serde_path_to_error::deserialize(&mut text).map_err(|error| {
        let setting = error.path().to_string();
        settings_error(&setting, &error.into_inner())
    })?;
    P::check_settings(&settings)?;
    Ok(settings)
}

/// serde's message with the setting's path instead of line and column, which would point nowhere, since the host rewrites settings.
fn settings_error(setting: &str, error: &serde_json::Error) -> String {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    if setting == "." || said.contains(&format!("`{setting}`")) {
        said.to_owned()
    } else {
        format!("{setting}: {said}")
    }
}

#[doc(hidden)]
pub fn choose<P: Policy>(request: &Request, so_far: Launch) -> Result<Launch, Vec<Violation>> {
    match checked_settings::<P>(&request.settings) {
        Ok(settings) => P::choose(request, &settings, so_far),
        Err(error) => Err(vec![bad_settings(error)]),
    }
}

#[doc(hidden)]
pub fn validate<P: Policy>(request: &Request, launch: &Launch) -> Vec<Violation> {
    match checked_settings::<P>(&request.settings) {
        Ok(settings) => P::validate(request, &settings, launch),
        Err(error) => vec![bad_settings(error)],
    }
}

#[doc(hidden)]
pub fn permit<P: Policy>(
    request: &Request,
    vm: &Running,
    operation: &Operation,
    actor: &Actor,
) -> Vec<Violation> {
    match checked_settings::<P>(&request.settings) {
        Ok(settings) => P::permit(request, &settings, vm, operation, actor),
        Err(error) => vec![bad_settings(error)],
    }
}

/// Refuses where the settings cannot be read. The host checks settings before any decision; a host that does not gets a refusal, not
/// a guess.
fn bad_settings(error: String) -> Violation {
    Violation::new("bad-settings", "settings", error)
}
