//! What the host keeps for one sandbox: what its policy uses and logs, and what its policy may import.

use std::{sync::Arc, time::Duration};

use wasmtime::ResourceLimiter;
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::{
    log::{Level, Log},
    tables::{Table, Tables},
    wasi::{DecisionTime, HasTime, Wasi},
};

/// What the host keeps for one sandbox.
pub(super) struct HostState {
    pub(super) memory: Memory,
    pub(super) log: Log,
    /// The tables that the policy names.
    pub(super) tables: Arc<Tables>,
    /// The WASI of a policy that is granted one.
    pub(super) wasi: Option<Box<Wasi>>,
}

impl HostState {
    /// Adds a line to the policy's log.
    pub(super) fn note(&mut self, level: Level, message: &str) {
        self.log.line(level, message);
    }

    /// A table, if the policy has named it.
    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name).map(|table| &**table)
    }
}

/// Counts every memory and table of a store together: Wasmtime's own limits count each alone.
pub(super) struct Memory {
    pub(super) used: usize,
    pub(super) most: usize,
    pub(super) refused: bool,
    /// By how many bytes memories have grown since they were made.
    pub(super) grown: usize,
}

/// A table's element is a pointer or two on the host.
const TABLE_ELEMENT_BYTES: usize = 16;

impl Memory {
    pub(super) fn up_to(most: usize) -> Self {
        Self { used: 0, most, refused: false, grown: 0 }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let fits = used <= self.most;
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
        let fits = self.grow(current, desired);
        // A new memory's first size is reported as growth from 0.
        if fits && current > 0 {
            self.grown += desired - current;
        }
        Ok(fits)
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

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Only a sandbox that was granted WASI has WASI linked.
        self.wasi.get_or_insert_with(|| Box::new(Wasi::new(&DecisionTime::NONE))).view()
    }
}

impl HasTime for HostState {
    fn time(&self) -> Duration {
        self.wasi.as_ref().map_or(Duration::ZERO, |wasi| wasi.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_together() {
        let most = 1 << 20;
        let mut memory = Memory::up_to(most);
        let half = most / 2;
        assert!(memory.memory_growing(0, half, None).unwrap());
        assert!(memory.table_growing(0, half / TABLE_ELEMENT_BYTES, None).unwrap());
        assert!(!memory.memory_growing(half, half + 1, None).unwrap(), "another byte of the first");
        assert!(!memory.memory_growing(0, 1, None).unwrap(), "a byte of another memory");
        assert!(!memory.table_growing(0, usize::MAX, None).unwrap());
        assert_eq!(memory.grown, 0, "each was refused or a beginning");
        let mut memory = Memory::up_to(most);
        assert!(memory.memory_growing(half, half + 7, None).unwrap());
        assert_eq!(memory.grown, 7);
    }
}
