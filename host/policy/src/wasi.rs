//! The WASI that a policy can be granted: what the languages' runtimes need to start, with nothing in it.
//!
//! It has no files, environment, arguments or input. No socket can be opened and no name looked up. Its clock stands still at the
//! decision's time, and its randomness is drawn from the request's digest, so that the same request at the same time gives the same answer.
//! The policy's standard output and error go to the policy's log.

use std::time::Duration;

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    HostWallClock, WasiCtx, WasiCtxView, WasiView,
    p2::{self, DynPollable, pipe::MemoryOutputPipe},
};

use super::log::{Level, Log};
use crate::limits;

/// The packages of WASI 0.2 that a grant covers.
const PACKAGES: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Whether a grant covers an interface.
pub(super) fn covers(interface: &str) -> bool {
    PACKAGES.iter().any(|package| interface.starts_with(package)) && interface.contains("@0.2.")
}

/// The time that a policy's clock shows, and the seed of its randomness.
#[derive(Debug, Clone)]
pub(super) struct DecisionTime {
    /// The time since 1970-01-01T00:00Z.
    pub(super) time: Duration,
    pub(super) seed: [u8; 32],
}

impl DecisionTime {
    /// The time and seed of every policy while it is loaded, so that what it says of itself and of its settings is the same on every day.
    pub(super) const NONE: Self = Self { time: Duration::ZERO, seed: [0; 32] };
}

/// What the store of a sandbox with a grant holds besides.
pub(super) struct Wasi {
    pub(super) time: Duration,
    context: WasiCtx,
    table: ResourceTable,
    output: [MemoryOutputPipe; 2],
    /// How many bytes of each output have been logged.
    logged: [usize; 2],
}

/// A clock that stands still.
struct Frozen(Duration);

impl HostWallClock for Frozen {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl Frozen {
    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Wasi {
    pub(super) fn new(moment: &DecisionTime) -> Self {
        let output = [(); 2].map(|()| MemoryOutputPipe::new(limits::POLICY_LOG_BYTES));
        let [stdout, stderr] = output.clone();
        let stream = |number| {
            let mut random = ChaCha20Rng::from_seed(moment.seed);
            random.set_stream(number);
            random
        };
        let context = WasiCtx::builder()
            .wall_clock(Frozen(moment.time))
            .secure_random(stream(0))
            .insecure_random(stream(1))
            .insecure_random_seed(u128::from(stream(2).next_u64()))
            .max_random_size(limits::POLICY_RANDOM_BYTES)
            .stdout(stdout)
            .stderr(stderr)
            // These are wasmtime's defaults, set so that no change of a default opens the network.
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::POLICY_HANDLES);
        Self { time: moment.time, context, table, output, logged: [0; 2] }
    }

    /// What wasmtime links a policy's imports to.
    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }

    /// Logs the output that was written since the last call of this function.
    pub(super) fn log(&mut self, log: &mut Log) {
        let levels = [Level::Info, Level::Warn];
        for ((pipe, logged), level) in self.output.iter().zip(&mut self.logged).zip(levels) {
            let contents = pipe.contents();
            let new = contents.get(*logged..).unwrap_or_default();
            String::from_utf8_lossy(new).lines().for_each(|line| log.line(level, line));
            *logged = contents.len();
        }
    }
}

/// The data of a store whose policy has a clock.
pub(super) trait HasTime {
    /// The time that the clock shows, since 1970-01-01T00:00Z.
    fn time(&self) -> Duration;
}

/// Links the interfaces that a grant covers.
pub(super) fn add_to<T: WasiView + HasTime + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    clock_without_waiting(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Links the monotonic clock without its functions that wait: a deadline does not end a call into the host, and on a clock that stands
/// still the awaited time would never come.
fn clock_without_waiting<T: HasTime + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut clock = linker.instance("wasi:clocks/monotonic-clock@0.2.12")?;
    clock.func_wrap("now", |store: StoreContextMut<'_, T>, ()| {
        Ok((Frozen(store.data().time()).nanoseconds(),))
    })?;
    clock.func_wrap("resolution", |_: StoreContextMut<'_, T>, ()| Ok((1_u64,)))?;
    for wait in ["subscribe-instant", "subscribe-duration"] {
        clock.func_wrap(
            wait,
            |_: StoreContextMut<'_, T>,
             (_,): (u64,)|
             -> wasmtime::Result<(Resource<DynPollable>,)> {
                Err(wasmtime::Error::msg("a policy cannot wait: its clock stands still"))
            },
        )?;
    }
    Ok(())
}
