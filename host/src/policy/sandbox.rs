//! The sandbox: a fresh instance for every call, with bounds on time, memory, stack, copied bytes, handles and log.
//!
//! One engine for the process (GHSA-hgjw-h833-99q9: types of several engines must not mix). A thread of its own makes
//! the engine's epoch advance, so that a guest which never yields cannot stop its own clock.

use std::{sync::mpsc, thread};

use serde::Serialize;
use wasmtime::{
    Config, Engine, ResourceLimiter, Store, Trap,
    component::{Component, HasSelf, Linker},
};

use super::{
    bindings::{
        Policy, PolicyPre,
        qhost::policy::{log, types},
    },
    error::Fault,
};
use crate::{limits, printable};

/// The engine with its clock, and all that a policy may import.
pub(super) struct Sandbox {
    engine: Engine,
    linker: Linker<Guest>,
    /// Dropping it ends the clock's thread.
    _clock: mpsc::Sender<()>,
}

impl Sandbox {
    pub(super) fn new() -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .epoch_interruption(true)
            .max_wasm_stack(limits::POLICY_STACK_BYTES)
            // The same request must give the same answer on every machine.
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            // No policy needs these, and each has had its advisories.
            .wasm_memory64(false)
            .concurrency_support(false);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        Policy::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
        let (clock, stop) = mpsc::channel();
        let ticking = engine.clone();
        thread::Builder::new().name("policy-clock".into()).spawn(move || {
            while stop.recv_timeout(limits::POLICY_TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                ticking.increment_epoch();
            }
        })?;
        Ok(Self { engine, linker, _clock: clock })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Resolves a component's imports once; every call starts from the result.
    pub(super) fn prepare(&self, component: &Component) -> wasmtime::Result<PolicyPre<Guest>> {
        PolicyPre::new(self.linker.instantiate_pre(component)?)
    }

    /// Makes one call in a fresh sandbox. What the policy logged is worth having whatever comes of the call.
    pub(super) fn call<R>(
        &self,
        policy: &PolicyPre<Guest>,
        call: impl FnOnce(&Policy, &mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> (Result<R, Fault>, Log) {
        let mut store = Store::new(&self.engine, Guest::default());
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(deadline_ticks());
        store.set_hostcall_fuel(limits::POLICY_COPIED_BYTES);
        store.set_max_component_handles(limits::POLICY_HANDLES);
        let result =
            policy.instantiate(&mut store).and_then(|instance| call(&instance, &mut store));
        let guest = store.into_data();
        (result.map_err(|error| fault(&error, &guest)), guest.log)
    }
}

fn deadline_ticks() -> u64 {
    let ticks = limits::POLICY_DEADLINE.as_micros() / limits::POLICY_TICK.as_micros();
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Which limit ended a call, if one did.
fn fault(error: &wasmtime::Error, guest: &Guest) -> Fault {
    // wasmtime's type for this is private, so its words are all there is; a test holds them in place.
    let copied_too_much = || format!("{error:#}").contains("fuel allocated for hostcalls");
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Fault::Deadline,
        Some(Trap::StackOverflow) => Fault::Stack,
        _ if guest.memory.refused => Fault::Memory,
        Some(trap) => Fault::Trapped(trap.to_string()),
        None if copied_too_much() => Fault::Copied,
        None => Fault::Trapped(printable::line(&format!("{error:#}"), 300).to_string()),
    }
}

/// What the host keeps for one sandbox.
#[derive(Default)]
pub(super) struct Guest {
    memory: Memory,
    log: Log,
}

/// Counts every memory and table of a store together: Wasmtime's own limits count each alone.
#[derive(Default)]
struct Memory {
    used: usize,
    refused: bool,
}

/// A table's element is a pointer or two on the host.
const TABLE_ELEMENT_BYTES: usize = 16;

impl Memory {
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let fits = used <= limits::POLICY_MEMORY_BYTES;
        if fits {
            self.used = used;
        } else {
            self.refused = true;
        }
        fits
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired)))
    }
}

/// What a policy logged in one call, up to the limits.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) lines: Vec<LogLine>,
    pub(super) dropped: u64,
    bytes: usize,
}

/// One line of a policy's log, safe to print.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The text, control characters escaped.
    pub message: String,
}

/// An interface of types only, which the bindings still want implemented.
impl types::Host for Guest {}

impl log::Host for Guest {
    fn log(&mut self, level: log::Level, message: String) {
        let log = &mut self.log;
        if log.lines.len() == limits::POLICY_LOG_LINES || log.bytes >= limits::POLICY_LOG_BYTES {
            log.dropped += 1;
            return;
        }
        let level = match level {
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        let message = printable::line(&message, limits::POLICY_LOG_LINE_BYTES).to_string();
        log.bytes += message.len();
        log.lines.push(LogLine { level, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_together() {
        let mut memory = Memory::default();
        let half = limits::POLICY_MEMORY_BYTES / 2;
        assert!(memory.memory_growing(0, half, None).unwrap());
        assert!(memory.table_growing(0, half / TABLE_ELEMENT_BYTES, None).unwrap());
        assert!(!memory.memory_growing(half, half + 1, None).unwrap(), "another byte of the first");
        assert!(!memory.memory_growing(0, 1, None).unwrap(), "a byte of another memory");
        assert!(!memory.table_growing(0, usize::MAX, None).unwrap());
    }
}
