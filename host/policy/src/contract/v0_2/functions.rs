//! The functions that a policy exports. Their types are compared with the contract's once for each component, and not once for each
//! sandbox as generated bindings do: the comparison goes by the names of all fields, and took a sixth of a decision.

use std::{marker::PhantomData, sync::OnceLock};

use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Func, InstancePre, Lift, Lower, TypedFunc,
};

use super::{
    super::super::host_state::HostState,
    super::{Store, Version},
    wit,
};

/// A policy's component with its imports resolved.
pub(crate) struct Component {
    pre: InstancePre<HostState>,
    functions: Functions,
    /// Whether a sandbox of this component has shown that its functions are of the contract's types.
    is_checked: OnceLock<()>,
}

/// Where a component's exports hold the contract's functions.
#[derive(Clone, Copy)]
struct Functions {
    describe: ComponentExportIndex,
    check_settings: ComponentExportIndex,
    choose: ComponentExportIndex,
    validate: ComponentExportIndex,
    permit: ComponentExportIndex,
}

/// A policy in a sandbox, whose functions are of the contract's types.
pub(crate) struct Instance {
    instance: wasmtime::component::Instance,
    functions: Functions,
}

type Violations = Vec<wit::Violation>;
type Describe = Signature<(), (wit::About,)>;
type CheckSettings<'a> = Signature<(&'a str,), (Result<(), String>,)>;
type Choose<'a> =
    Signature<(wit::Request<'a>, wit::LaunchParam<'a>), (Result<wit::LaunchResult, Violations>,)>;
type Validate<'a> = Signature<(wit::Request<'a>, wit::LaunchParam<'a>), (Violations,)>;
type Permit<'a> = Signature<
    (wit::Request<'a>, wit::Running<'a>, wit::Operation<'a>, wit::Actor<'a>),
    (Violations,),
>;

/// The parameter and result types of one of the contract's functions.
struct Signature<P, R>(PhantomData<(P, R)>);

impl<P, R> Signature<P, R>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift + 'static,
{
    fn check(function: Func, store: &Store) -> wasmtime::Result<()> {
        function.typed::<P, R>(store).map(drop)
    }

    #[expect(
        unsafe_code,
        reason = "the check would be of the component again, which Component::instantiate has made"
    )]
    fn call(function: Func, store: &mut Store, params: P) -> wasmtime::Result<R> {
        // SAFETY: a sandbox of the same component has shown that the function is of these types.
        unsafe { TypedFunc::<P, R>::new_unchecked(function) }.call(store, params)
    }
}

impl Component {
    pub(in super::super) fn new(pre: InstancePre<HostState>) -> wasmtime::Result<Self> {
        let (component, interface) = (pre.component(), Version::V0_2.decide());
        let decide = component
            .get_export_index(None, interface)
            .ok_or_else(|| wasmtime::Error::msg(format!("it exports no {interface}")))?;
        let function = |name: &str| {
            component
                .get_export_index(Some(&decide), name)
                .ok_or_else(|| wasmtime::Error::msg(format!("its {interface} exports no {name}")))
        };
        let functions = Functions {
            describe: function("describe")?,
            check_settings: function("check-settings")?,
            choose: function("choose")?,
            validate: function("validate")?,
            permit: function("permit")?,
        };
        Ok(Self { pre, functions, is_checked: OnceLock::new() })
    }

    /// Starts the policy in a fresh sandbox.
    pub(in super::super) fn instantiate(&self, store: &mut Store) -> wasmtime::Result<Instance> {
        let instance = self.pre.instantiate(&mut *store)?;
        let instance = Instance { instance, functions: self.functions };
        // All sandboxes of a component have its types, so that checking one sandbox is enough.
        if self.is_checked.get().is_none() {
            instance.check(store)?;
            self.is_checked.get_or_init(|| ());
        }
        Ok(instance)
    }
}

impl Instance {
    fn check(&self, store: &mut Store) -> wasmtime::Result<()> {
        let Functions { describe, check_settings, choose, validate, permit } = self.functions;
        Describe::check(self.function(describe, store)?, store)?;
        CheckSettings::check(self.function(check_settings, store)?, store)?;
        Choose::check(self.function(choose, store)?, store)?;
        Validate::check(self.function(validate, store)?, store)?;
        Permit::check(self.function(permit, store)?, store)
    }

    fn function(&self, index: ComponentExportIndex, store: &mut Store) -> wasmtime::Result<Func> {
        let none = || wasmtime::Error::msg("a function of the policy's is no function");
        self.instance.get_func(&mut *store, index).ok_or_else(none)
    }

    pub(super) fn describe(&self, store: &mut Store) -> wasmtime::Result<wit::About> {
        let function = self.function(self.functions.describe, store)?;
        Describe::call(function, store, ()).map(|(about,)| about)
    }

    pub(in super::super) fn check_settings(
        &self,
        store: &mut Store,
        settings: &str,
    ) -> wasmtime::Result<Result<(), String>> {
        let function = self.function(self.functions.check_settings, store)?;
        CheckSettings::call(function, store, (settings,)).map(|(checked,)| checked)
    }

    pub(super) fn choose(
        &self,
        store: &mut Store,
        request: wit::Request<'_>,
        so_far: wit::LaunchParam<'_>,
    ) -> wasmtime::Result<Result<wit::LaunchResult, Violations>> {
        let function = self.function(self.functions.choose, store)?;
        Choose::call(function, store, (request, so_far)).map(|(chosen,)| chosen)
    }

    pub(super) fn validate(
        &self,
        store: &mut Store,
        request: wit::Request<'_>,
        launch: wit::LaunchParam<'_>,
    ) -> wasmtime::Result<Violations> {
        let function = self.function(self.functions.validate, store)?;
        Validate::call(function, store, (request, launch)).map(|(violations,)| violations)
    }

    pub(super) fn permit(
        &self,
        store: &mut Store,
        request: wit::Request<'_>,
        vm: wit::Running<'_>,
        operation: wit::Operation<'_>,
        actor: wit::Actor<'_>,
    ) -> wasmtime::Result<Violations> {
        let function = self.function(self.functions.permit, store)?;
        let params = (request, vm, operation, actor);
        Permit::call(function, store, params).map(|(violations,)| violations)
    }
}
