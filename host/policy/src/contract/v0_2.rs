//! The contract's version 0.2, `wit/`. An answer is refused where it asks for something that the contract can say and this
//! host does not support.

mod disks;
mod functions;
mod given;
mod lent;

use wasmtime::component::{HasSelf, Linker};

use super::{
    super::{Operation, OperationRecord, OperationRequest, host_state::HostState, log::Level},
    Asking, GivenAbout, GivenViolation, Operating, Shown, Store, form,
};

pub(super) use functions::{Component, Instance};
pub(super) use given::launch_in;
pub(super) use lent::{LaunchTexts, LaunchView, RequestTexts, RequestView};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "policy",
        // What the host hands over is lent, not copied.
        ownership: Borrowing { duplicate_if_necessary: true },
        additional_derives: [PartialEq, Clone],
    });
}

use bindings::qhost::policy::{log, tables, types as wit};

pub(super) type GivenLaunch = wit::LaunchResult;

/// The name of the disk that a guest boots from.
const ROOT: &str = "root";
/// The one rate that this host supports: it limits no disk and no network device.
const UNLIMITED: wit::Rate = wit::Rate { operations: None, kib: None };

pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    bindings::Policy::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
}

pub(super) fn describe(policy: &Instance, store: &mut Store) -> wasmtime::Result<GivenAbout> {
    let wit::About { name, version, description, settings_schema, tables, extensions: _ } =
        policy.describe(store)?;
    Ok(GivenAbout { name, version, description, settings_schema, tables })
}

pub(super) fn choose(
    policy: &Instance,
    store: &mut Store,
    asking: &Asking<'_>,
    so_far: &Shown<'_>,
) -> wasmtime::Result<Result<super::GivenLaunch, Vec<GivenViolation>>> {
    let (request, so_far) = (form(asking.request.v0_2.as_ref())?, form(so_far.v0_2.as_ref())?);
    let request = request.with(asking);
    let chosen = policy.choose(store, request, so_far.param())?;
    Ok(chosen.map(|chosen| super::GivenLaunch::V0_2(chosen.into())).map_err(given))
}

pub(super) fn validate(
    policy: &Instance,
    store: &mut Store,
    asking: &Asking<'_>,
    launch: &Shown<'_>,
) -> wasmtime::Result<Vec<GivenViolation>> {
    let (request, launch) = (form(asking.request.v0_2.as_ref())?, form(launch.v0_2.as_ref())?);
    let request = request.with(asking);
    policy.validate(store, request, launch.param()).map(given)
}

pub(super) fn permit(
    policy: &Instance,
    store: &mut Store,
    asking: &Asking<'_>,
    operating: &Operating<'_>,
) -> wasmtime::Result<Vec<GivenViolation>> {
    let request = form(asking.request.v0_2.as_ref())?.with(asking);
    let OperationRequest { of: OperationRecord { vm, since, operation, actor }, .. } =
        operating.asked;
    let running = wit::Running {
        id: vm,
        launch: form(operating.vm.v0_2.as_ref())?.param(),
        since_unix_seconds: since
            .and_then(|since| u32::try_from(since.as_second()).ok())
            .unwrap_or_default(),
    };
    let actor =
        wit::Actor { name: &actor.name, tenant: actor.tenant.as_deref(), door: actor.door.name() };
    let command: Vec<&str>;
    let operation = match operation {
        Operation::Console => wit::Operation::Console,
        Operation::Screenshot => wit::Operation::Screenshot,
        Operation::Exec(arguments) => {
            command = arguments.iter().map(String::as_str).collect();
            wit::Operation::Exec(&command)
        }
        Operation::Stop => wit::Operation::Stop,
        Operation::Restart => wit::Operation::Restart,
        Operation::Pause => wit::Operation::Pause,
        Operation::Snapshot => wit::Operation::Snapshot,
    };
    policy.permit(store, request, running, operation, actor).map(given)
}

fn given(violations: Vec<wit::Violation>) -> Vec<GivenViolation> {
    let one = |violation| {
        let wit::Violation { code, field, message, hint, extensions: _ } = violation;
        GivenViolation { code, field, message, hint }
    };
    violations.into_iter().map(one).collect()
}

/// The interface has types only, and the bindings still want it implemented.
impl wit::Host for HostState {}

impl log::Host for HostState {
    fn log(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.note(level, &message);
    }
}

impl tables::Host for HostState {
    fn get(&mut self, table: String, key: String) -> Option<String> {
        self.table(&table)?.get(&key).map(str::to_owned)
    }

    fn size(&mut self, table: String) -> u32 {
        self.table(&table).map_or(0, |table| table.size())
    }
}
