//! The sandbox: a fresh instance for every decision, with bounds on time, memory, stack, copied bytes, handles and log.
//!
//! One engine serves the whole process (GHSA-hgjw-h833-99q9: types of several engines must not mix). A thread of its own advances the
//! engine's epoch, so that a guest which never yields cannot stop its own clock.

use std::{
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap,
    WasmBacktrace,
    component::{Component, Linker},
};

use qhost_model::printable;

use super::{
    Allowance, Deadline,
    contract::{self, Version},
    error::Fault,
    host_state::{HostState, Memory},
    log::{Level, Log, LogLine},
    slots::{Slots, Taken},
    tables::Tables,
    wasi::{self, DecisionTime, Wasi},
};
use crate::limits;

/// The settings that compiled code depends on. The process that compiles and the process that runs the code must use the same.
pub(super) fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits::POLICY_STACK_BYTES)
        // The same request must give the same answer on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        // No policy needs these features, and each has had its advisories.
        .wasm_memory64(false)
        .concurrency_support(false);
    config
}

/// The pool of slots for sandboxes, reserved once and used again and again: `tests/benches` measured a decision at half the cost of fresh
/// mappings. Pages of a slot that were written are kept and reset; the kernel's own record tells which they are.
fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits::POLICY_SANDBOXES)
        .total_core_instances(limits::POLICY_SANDBOXES * 16)
        .total_memories(limits::POLICY_SANDBOXES)
        .total_tables(limits::POLICY_SANDBOXES * 4)
        // No asynchronous call is made here, so no stack is reserved; each of the usual thousand would be a system call at every start.
        .total_stacks(0)
        .max_memory_size(limits::POLICY_ADDRESSABLE_BYTES)
        .table_elements(limits::POLICY_TABLE_ELEMENTS)
        .linear_memory_keep_resident(limits::POLICY_KEPT_BYTES)
        .table_keep_resident(limits::POLICY_KEPT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// The engine with its clock, and the linker of all that a policy may import.
pub(super) struct Sandbox {
    engine: Engine,
    linker: Linker<HostState>,
    /// The linker for policies that are granted WASI; made when the first of them is loaded.
    with_wasi: OnceLock<Linker<HostState>>,
    slots: Slots,
    /// The clock's thread ends when this is dropped.
    _clock: mpsc::Sender<()>,
}

impl Sandbox {
    pub(super) fn new() -> wasmtime::Result<Self> {
        let mut pooling = config();
        pooling.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        // Where address space is rationed (`ulimit -v`), the pool does not fit, and sandboxes are mapped one by one.
        let engine = Engine::new(&pooling).or_else(|error| {
            tracing::info!(%error, "no pool of sandboxes");
            Engine::new(&config())
        })?;
        let mut linker = Linker::new(&engine);
        contract::add_to_linker(&mut linker)?;
        let (clock, stop) = mpsc::channel();
        let ticking = engine.clone();
        thread::Builder::new().name("policy-clock".into()).spawn(move || {
            while stop.recv_timeout(limits::POLICY_TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                ticking.increment_epoch();
            }
        })?;
        let slots = Slots::new(limits::POLICY_SANDBOXES as usize);
        Ok(Self { engine, linker, with_wasi: OnceLock::new(), slots, _clock: clock })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Takes the pool's slots for so many sandboxes, and waits for them until a deadline. A chain longer than the whole pool takes all
    /// slots, and later meets the pool's own error.
    pub(super) fn slots(&self, number: usize, deadline: Option<Deadline>) -> Option<Taken<'_>> {
        let left = deadline.map_or(limits::DECISION, |deadline| deadline.left());
        self.slots.take(number.min(limits::POLICY_SANDBOXES as usize), left)
    }

    /// Resolves a component's imports once; every sandbox starts from the result.
    pub(super) fn prepare(
        &self,
        component: &Component,
        version: Version,
        allowance: &Allowance,
    ) -> wasmtime::Result<contract::Component> {
        if !allowance.wasi {
            return contract::Component::new(version, self.linker.instantiate_pre(component)?);
        }
        let linker = match self.with_wasi.get() {
            Some(linker) => linker,
            None => {
                let mut linker = self.linker.clone();
                wasi::add_to(&mut linker)?;
                self.with_wasi.get_or_init(|| linker)
            }
        };
        contract::Component::new(version, linker.instantiate_pre(component)?)
    }

    /// Opens a fresh sandbox, in which nothing runs yet.
    pub(super) fn open<'a>(
        &self,
        policy: &'a contract::Component,
        tables: &Arc<Tables>,
        allowance: &Allowance,
        decision: Option<Deadline>,
        moment: impl FnOnce() -> DecisionTime,
    ) -> Instance<'a> {
        let wasi = allowance.wasi.then(|| Box::new(Wasi::new(&moment())));
        let memory = Memory::up_to(allowance.memory);
        let guest = HostState { memory, log: Log::default(), tables: Arc::clone(tables), wasi };
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(limits::POLICY_COPIED_BYTES);
        store.set_max_component_handles(limits::POLICY_HANDLES);
        Instance {
            store,
            component: policy,
            policy: None,
            deadline: allowance.deadline,
            decision,
            spent: Duration::ZERO,
        }
    }
}

/// One policy's sandbox, for the calls of one decision.
pub(super) struct Instance<'a> {
    store: Store<HostState>,
    component: &'a contract::Component,
    /// The policy's instance; made by the first call, so that a start function counts against a deadline too.
    policy: Option<contract::Instance>,
    /// The longest that one call may take.
    deadline: Duration,
    /// The deadline of the decision that the calls are part of, if they are part of one.
    decision: Option<Deadline>,
    spent: Duration,
}

impl Instance<'_> {
    /// Makes one call. After a call that failed, no other call succeeds.
    pub(super) fn call<R>(
        &mut self,
        call: impl FnOnce(&contract::Instance, &mut Store<HostState>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        let began = Instant::now();
        let (time, too_long) = self.time_for_a_call();
        if time.is_zero() {
            return Err(too_long);
        }
        self.store.set_epoch_deadline(ticks(time));
        let result = self.try_call(call);
        self.spent += began.elapsed();
        result.map_err(|error| self.fault(&error, too_long))
    }

    /// How long the next call may take, and the fault that taking longer is.
    fn time_for_a_call(&self) -> (Duration, Fault) {
        let own = (self.deadline, Fault::Deadline { limit: self.deadline });
        match self.decision.map(|decision| (decision.left(), decision.limit())) {
            Some((left, limit)) if left < self.deadline => (left, Fault::Overdue { limit }),
            Some(_) | None => own,
        }
    }

    fn try_call<R>(
        &mut self,
        call: impl FnOnce(&contract::Instance, &mut Store<HostState>) -> wasmtime::Result<R>,
    ) -> wasmtime::Result<R> {
        let policy = match self.policy.take() {
            Some(policy) => policy,
            None => self.component.instantiate(&mut self.store)?,
        };
        let result = call(&policy, &mut self.store);
        self.policy = Some(policy);
        result
    }

    /// Goes on in a fresh sandbox, and keeps the time that was spent so far.
    pub(super) fn reset(&mut self, fresh: Self) {
        let spent = self.spent;
        *self = fresh;
        self.spent = spent;
    }

    /// Tells which limit ended a call, if a limit did.
    fn fault(&mut self, error: &wasmtime::Error, too_long: Fault) -> Fault {
        let memory = &self.store.data().memory;
        // wasmtime's type for this error is private, so that its text is all there is to go by; a test keeps the text as it is.
        let copied_too_much = || format!("{error:#}").contains("fuel allocated for hostcalls");
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => too_long,
            Some(Trap::StackOverflow) => Fault::Stack,
            _ if memory.refused => Fault::Memory { limit: memory.most },
            Some(trap) => Fault::Trapped(self.crash(&trap.to_string(), error)),
            None if copied_too_much() => Fault::Copied,
            None => Fault::Trapped(self.crash(&error.root_cause().to_string(), error)),
        }
    }

    /// Describes a crash: what happened, in which function, and what the policy logged of it (a panic's message, or the end of a
    /// traceback).
    fn crash(&mut self, what: &str, error: &wasmtime::Error) -> String {
        let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
        let names = frames.iter().filter_map(|frame| frame.func_name()).map(|name| {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            printable::line(&name, limits::POLICY_FRAME_CHARS).to_string()
        });
        let names: Vec<_> = names.take(limits::POLICY_FRAMES).collect();
        let guest = self.store.data_mut();
        if let Some(wasi) = &mut guest.wasi {
            wasi.log(&mut guest.log);
        }
        let is_complaint = |line: &&LogLine| matches!(line.level, Level::Warn | Level::Error);
        let said = guest.log.lines.iter().rfind(is_complaint);
        let mut crash = printable::line(what, 300).to_string();
        if !names.is_empty() {
            crash += &format!(", in {}", names.join(" < "));
        }
        if let Some(said) = said {
            crash += &format!("; it said: {}", said.message);
        }
        crash
    }

    /// Takes what the policy logged since the last call of this function, whether or not its calls succeeded, and gives the cost of all
    /// its calls.
    pub(super) fn take(&mut self) -> (Log, Cost) {
        let guest = self.store.data_mut();
        if let Some(wasi) = &mut guest.wasi {
            wasi.log(&mut guest.log);
        }
        let cost = Cost {
            micros: u64::try_from(self.spent.as_micros()).unwrap_or(u64::MAX),
            peak_memory: guest.memory.used as u64,
            log_bytes: guest.log.bytes as u64,
            grown_memory: guest.memory.grown as u64,
        };
        let log = Log { bytes: guest.log.bytes, count: guest.log.count, ..Log::default() };
        (std::mem::replace(&mut guest.log, log), cost)
    }
}

/// What asking a policy cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// The time in the policy's sandbox, the sandbox's making included, in µs.
    pub micros: u64,
    /// The most memory that the policy's sandbox had, in bytes.
    pub peak_memory: u64,
    /// The log text that was kept, in bytes.
    pub log_bytes: u64,
    /// By how many bytes the policy's memory grew. Memory that a policy has from the beginning costs less: each growth is a system call
    /// that the process's other threads wait for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub grown_memory: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_micros() / limits::POLICY_TICK.as_micros();
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
