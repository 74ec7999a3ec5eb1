//! The contract's versions, each in a file of its own, which turns a request and a launch into the version's form and reads a
//! policy's answers. The interface that a policy exports tells which version it is asked by.

mod answer;
mod v0_1;
mod v0_2;

use std::{borrow::Cow, net::Ipv4Addr};

use wasmtime::component::{InstancePre, Linker};

use qhost_model::{job::Task, launch::Launch};

use super::{OperationRequest, Request, host_state::HostState};

pub(super) use answer::{ContractBreaches, GivenViolation, name, text, violations_in};

use super::error::Fault;

/// A version of the contract that this host serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V0_1,
    V0_2,
}

impl Version {
    /// All versions, the newest first.
    const ALL: [Self; 2] = [Self::NEWEST, Self::V0_1];
    pub(super) const NEWEST: Self = Self::V0_2;

    /// The interface that makes a component a policy.
    fn decide(self) -> &'static str {
        match self {
            Self::V0_1 => "qhost:policy/decide@0.1.0",
            Self::V0_2 => "qhost:policy/decide@0.2.0",
        }
    }

    /// The interfaces that a policy may import functions from.
    fn imports(self) -> &'static [&'static str] {
        match self {
            Self::V0_1 => &["qhost:policy/log@0.1.0"],
            Self::V0_2 => &["qhost:policy/log@0.2.0", "qhost:policy/tables@0.2.0"],
        }
    }

    /// The world that a policy is of.
    pub(super) fn world(self) -> &'static str {
        match self {
            Self::V0_1 => "qhost:policy/policy@0.1.0",
            Self::V0_2 => "qhost:policy/policy@0.2.0",
        }
    }

    /// The version's number, as documents name it.
    pub(super) fn number(self) -> &'static str {
        match self {
            Self::V0_1 => "0.1",
            Self::V0_2 => "0.2",
        }
    }

    /// Finds the version of a component by the interfaces that it exports.
    pub(super) fn of(exports: &[String]) -> Option<Self> {
        let has = |name: &str| exports.iter().any(|export| is_of(export, name));
        Self::ALL.into_iter().find(|version| has(version.decide()))
    }

    /// Whether a policy of this version may import an interface.
    pub(super) fn may_import(self, interface: &str) -> bool {
        self.imports().iter().any(|name| is_of(interface, name))
    }

    /// Names what a launch holds that this version has no word for, by the names of the newest contract.
    pub(super) fn unseen(self, launch: &Launch, task: &Task) -> Vec<&'static str> {
        match self {
            Self::V0_1 => v0_1::unseen(launch, task),
            Self::V0_2 => vec![],
        }
    }
}

/// The interfaces of which a policy's component exports one, for messages.
pub(super) const EXPORTED: &str = "qhost:policy/decide@0.2.0, or @0.1.0";

/// Whether an interface is the named one, in any patch of the same minor version: a new patch of the contract only adds functions.
fn is_of(interface: &str, name: &str) -> bool {
    let track = |name: &str| name.rsplit_once('.').map(|(track, _)| track.to_owned());
    interface == name || (track(name).is_some() && track(interface) == track(name))
}

/// Links all that policies of any version may import.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    v0_1::add_to_linker(linker)?;
    v0_2::add_to_linker(linker)
}

/// A policy's component with its imports resolved.
pub(super) enum Component {
    V0_1(v0_1::Component),
    V0_2(v0_2::Component),
}

/// A policy in a sandbox.
pub(super) enum Instance {
    V0_1(v0_1::Instance),
    V0_2(v0_2::Instance),
}

type Store = wasmtime::Store<HostState>;

impl Component {
    pub(super) fn new(version: Version, pre: InstancePre<HostState>) -> wasmtime::Result<Self> {
        Ok(match version {
            Version::V0_1 => Self::V0_1(v0_1::Component::new(pre)?),
            Version::V0_2 => Self::V0_2(v0_2::Component::new(pre)?),
        })
    }

    pub(super) fn version(&self) -> Version {
        match self {
            Self::V0_1(_) => Version::V0_1,
            Self::V0_2(_) => Version::V0_2,
        }
    }

    pub(super) fn instantiate(&self, store: &mut Store) -> wasmtime::Result<Instance> {
        Ok(match self {
            Self::V0_1(component) => Instance::V0_1(component.instantiate(store)?),
            Self::V0_2(component) => Instance::V0_2(component.instantiate(store)?),
        })
    }
}

/// What a policy says of itself, before anything of it is checked.
pub(super) struct GivenAbout {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) description: String,
    pub(super) settings_schema: Option<String>,
    pub(super) tables: Vec<String>,
}

/// A launch of a policy's making, before anything of it is checked.
pub(super) enum GivenLaunch {
    V0_1(v0_1::GivenLaunch),
    V0_2(Box<v0_2::GivenLaunch>),
}

impl GivenLaunch {
    /// Makes a launch of the policy's answer. What the policy's version has no word for stays as in the launch that the policy was
    /// shown.
    pub(super) fn read(
        self,
        shown: &Launch,
        breaches: &mut ContractBreaches,
    ) -> Result<Launch, Fault> {
        match self {
            Self::V0_1(given) => v0_1::launch_in(given, shown, breaches),
            Self::V0_2(given) => v0_2::launch_in(*given, shown, breaches),
        }
    }
}

impl Instance {
    pub(super) fn describe(&self, store: &mut Store) -> wasmtime::Result<GivenAbout> {
        match self {
            Self::V0_1(policy) => v0_1::describe(policy, store),
            Self::V0_2(policy) => v0_2::describe(policy, store),
        }
    }

    pub(super) fn check_settings(
        &self,
        store: &mut Store,
        settings: &str,
    ) -> wasmtime::Result<Result<(), String>> {
        match self {
            Self::V0_1(policy) => policy.qhost_policy_decide().call_check_settings(store, settings),
            Self::V0_2(policy) => policy.check_settings(store, settings),
        }
    }

    pub(super) fn choose(
        &self,
        store: &mut Store,
        asking: &Asking<'_>,
        so_far: &Shown<'_>,
    ) -> wasmtime::Result<Result<GivenLaunch, Vec<GivenViolation>>> {
        match self {
            Self::V0_1(policy) => v0_1::choose(policy, store, asking, so_far),
            Self::V0_2(policy) => v0_2::choose(policy, store, asking, so_far),
        }
    }

    /// Asks what the policy has against an operation; gives nothing where its version has no word for operations.
    pub(super) fn permit(
        &self,
        store: &mut Store,
        asking: &Asking<'_>,
        operating: &Operating<'_>,
    ) -> wasmtime::Result<Option<Vec<GivenViolation>>> {
        match self {
            Self::V0_1(_) => Ok(None),
            Self::V0_2(policy) => v0_2::permit(policy, store, asking, operating).map(Some),
        }
    }

    pub(super) fn validate(
        &self,
        store: &mut Store,
        asking: &Asking<'_>,
        launch: &Shown<'_>,
    ) -> wasmtime::Result<Vec<GivenViolation>> {
        match self {
            Self::V0_1(policy) => v0_1::validate(policy, store, asking, launch),
            Self::V0_2(policy) => v0_2::validate(policy, store, asking, launch),
        }
    }
}

/// The versions that the policies of one decision are asked by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Versions {
    v0_1: bool,
    v0_2: bool,
}

impl Versions {
    /// The versions of some policies.
    pub(super) fn of(policies: impl Iterator<Item = Version>) -> Self {
        policies.fold(Self::default(), |mut all, version| {
            match version {
                Version::V0_1 => all.v0_1 = true,
                Version::V0_2 => all.v0_2 = true,
            }
            all
        })
    }
}

/// Texts of a request that a version of the contract has as text and qhost keeps in another type.
pub(super) struct RequestTexts<'a> {
    v0_1: Option<v0_1::RequestTexts>,
    v0_2: Option<v0_2::RequestTexts<'a>>,
}

impl<'a> RequestTexts<'a> {
    pub(super) fn of(request: &'a Request, versions: Versions) -> Self {
        Self {
            v0_1: versions.v0_1.then(|| v0_1::RequestTexts::of(request)),
            v0_2: versions.v0_2.then(|| v0_2::RequestTexts::of(request)),
        }
    }
}

/// A request in the form of each version that is asked. Texts and lists are lent to the sandboxes, not copied.
pub(super) struct LentRequest<'a> {
    v0_1: Option<v0_1::RequestView<'a>>,
    v0_2: Option<v0_2::RequestView<'a>>,
}

impl<'a> LentRequest<'a> {
    pub(super) fn of(request: &'a Request, texts: &'a RequestTexts<'a>) -> Self {
        let RequestTexts { v0_1, v0_2 } = texts;
        Self {
            v0_1: v0_1.as_ref().map(|texts| v0_1::RequestView::of(request, texts)),
            v0_2: v0_2.as_ref().map(|texts| v0_2::RequestView::of(request, texts)),
        }
    }
}

/// What one policy is asked about: the request, with the policy's own settings.
pub(super) struct Asking<'a> {
    pub(super) request: &'a LentRequest<'a>,
    pub(super) settings: &'a str,
    /// Whether the policy is shown the texts of a seed.
    pub(super) seed_text: bool,
}

/// A launch in the form of each version that is asked.
pub(super) struct Shown<'a> {
    v0_1: Option<v0_1::LaunchView<'a>>,
    v0_2: Option<v0_2::LaunchView<'a>>,
}

/// Lends a launch to the calls that hand it to sandboxes.
pub(super) fn lend<R>(launch: &Launch, to: Versions, call: impl FnOnce(&Shown<'_>) -> R) -> R {
    let v0_1 = to.v0_1.then(|| v0_1::LaunchTexts::of(launch));
    let v0_2 = to.v0_2.then(|| v0_2::LaunchTexts::of(launch));
    call(&Shown {
        v0_1: v0_1.as_ref().map(|texts| v0_1::LaunchView::of(launch, texts)),
        v0_2: v0_2.as_ref().map(|texts| v0_2::LaunchView::of(launch, texts)),
    })
}

/// The form of one version, which exists wherever a policy of that version is asked.
fn form<T>(form: Option<&T>) -> wasmtime::Result<&T> {
    form.ok_or_else(|| {
        wasmtime::Error::msg("the request is not there in the policy's version of the contract")
    })
}

/// A map of texts, as every version lends maps.
fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<(&'a str, &'a str)> {
    pairs.into_iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// A bind address as text, as every version has it. Nearly every bind is 127.0.0.1, whose text is static so that no decision makes
/// it again.
fn address(bind: Ipv4Addr) -> Cow<'static, str> {
    match bind {
        Ipv4Addr::LOCALHOST => "127.0.0.1".into(),
        other => other.to_string().into(),
    }
}

/// An operation, as policies are asked about it.
pub(super) struct Operating<'a> {
    /// The launch of the VM that the operation is on.
    pub(super) vm: &'a Shown<'a>,
    pub(super) asked: &'a OperationRequest,
}
