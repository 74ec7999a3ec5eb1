//! `qhost stats`.

use std::{
    io::{self, IsTerminal as _, Write as _, stdout},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

use qhost_engine::{Engine, Vm, Which, limits};
use qhost_model::printable;
use qhost_sys::stop::Stop;
use qhost_vm::{AskError, Stats, VmError, VmRecord};

use super::{RunError, going_on, show};
use crate::{
    cli::{Shared, StatsArgs},
    exit::Exit,
};

/// The use of one VM.
#[derive(Serialize)]
pub(in crate::run) struct Used {
    pub(in crate::run) id: String,
    pub(in crate::run) task: String,
    #[serde(flatten)]
    pub(in crate::run) stats: Stats,
}

/// The use of VMs at one time.
pub(in crate::run) struct Sample {
    pub(in crate::run) at: Instant,
    pub(in crate::run) used: Vec<Used>,
}

pub(super) async fn stats(
    shared: &Shared,
    engine: &Engine,
    args: &StatsArgs,
) -> Result<Exit, RunError> {
    let names = args.names();
    let named = match names.as_slice() {
        [] => None,
        names => Some(going_on(engine, names).await?),
    };
    let take = async |silent| Sample::take(engine, args, named.as_deref(), silent).await;
    let has_ended = async || match &named {
        Some(vms) => records(vms).await.iter().all(|vm| vm.status.state().is_final()),
        None => true,
    };
    sampled(shared, args, take, has_ended).await
}

/// Prints what VMs use: once, or again and again until the named ones have ended.
pub(in crate::run) async fn sampled(
    shared: &Shared,
    args: &StatsArgs,
    take: impl AsyncFn(Silent) -> Result<Sample, RunError>,
    has_ended: impl AsyncFn() -> bool,
) -> Result<Exit, RunError> {
    let mut last = take(Silent::Fails).await?;
    let Some(seconds) = args.watch else {
        show::print(&if shared.json { last.json() } else { last.table(None) });
        return Ok(Exit::Done);
    };
    // On a terminal each sample replaces the last; in a pipe, one follows the other.
    let clear = if stdout().is_terminal() { CLEAR } else { "" };
    show::print(&if shared.json { last.json() } else { format!("{clear}{}", last.table(None)) });
    // Ctrl-C is how a person ends the samples, and is no interruption.
    let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            () = stop.asked(1) => return Ok(Exit::Done),
        }
        let next = take(Silent::IsLeftOut).await?;
        if !args.names().is_empty() && next.used.is_empty() && has_ended().await {
            return Ok(Exit::Done);
        }
        let text =
            if shared.json { next.json() } else { format!("{clear}{}", next.table(Some(&last))) };
        // A closed pipe is the reader's choice and no error of ours.
        if anstream::stdout().lock().write_all(text.as_bytes()).is_err() {
            return Ok(Exit::Done);
        }
        last = next;
    }
}

/// How a named VM that does not answer is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::run) enum Silent {
    /// The command fails.
    Fails,
    /// The VM is left out of this sample, since it may be starting again.
    IsLeftOut,
}

/// Moves the cursor to the upper left corner, and clears what follows (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

async fn records(vms: &[Vm]) -> Vec<VmRecord> {
    join_all(vms.iter().map(Vm::record)).await
}

impl Sample {
    async fn take(
        engine: &Engine,
        args: &StatsArgs,
        named: Option<&[Vm]>,
        silent: Silent,
    ) -> Result<Self, RunError> {
        let mut vms = match named {
            None => engine.vms(Which::GoingOn).await,
            Some(vms) => records(vms).await,
        };
        // VMs that were not named, and are only beginning or have just ended, are left out.
        let is_left_out = named.is_none() || silent == Silent::IsLeftOut;
        vms.retain(|vm| args.of.includes(&vm.tenant));
        let at = Instant::now();
        let mut used = vec![];
        // All VMs are asked at once, so that a supervisor that does not answer delays no other VM.
        let asked = join_all(vms.into_iter().map(async |vm| {
            let stats = engine.handle(&vm).stats().await;
            (vm, stats)
        }));
        for (vm, stats) in asked.await {
            match stats {
                Ok(stats) => used.push(Used { id: vm.id, task: vm.task, stats }),
                Err(AskError::Unanswered(error))
                    if is_left_out && error.kind() == io::ErrorKind::TimedOut =>
                {
                    let seconds = limits::CONTROL_STATS.as_secs();
                    let id = &vm.id;
                    show::say(&format!("silent    {id}: no answer within {seconds} s"));
                }
                Err(AskError::Unanswered(_) | AskError::Refused(_)) if is_left_out => {}
                Err(error) => {
                    return Err(VmError::Refused { id: vm.id, reason: error.to_string() }.into());
                }
            }
        }
        Ok(Self { at, used })
    }

    fn json(&self) -> String {
        show::json(&json!({ "vms": self.used }))
    }

    /// Makes a table, with the share of a CPU since the sample before, if there is one.
    fn table(&self, before: Option<&Self>) -> String {
        let header = [
            "ID",
            "TASK",
            "CPU TIME",
            "CPU",
            "MEMORY",
            "READ",
            "WRITTEN",
            "CONNECTIONS",
            "THREADS",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.used.iter().map(|Used { id, task, stats }| {
            let bytes = |bytes: u64| indicatif::BinaryBytes(bytes).to_string();
            let number =
                |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
            let cpu = stats.cpu_ms.map(|ms| Duration::from_millis(ms).as_secs_f64());
            let share = before.and_then(|before| self.cpu_share(before, id));
            [
                id.clone(),
                printable::line(task, 40).to_string(),
                cpu.map_or("-".into(), |seconds| format!("{seconds:.1} s")),
                share.map_or("-".into(), |share| format!("{:.0} %", share * 100.0)),
                stats.resident_bytes.map_or("-".into(), bytes),
                bytes(stats.disks.iter().map(|disk| disk.read_bytes).sum()),
                bytes(stats.disks.iter().map(|disk| disk.written_bytes).sum()),
                number(stats.connections),
                number(stats.threads),
            ]
        }));
        show::table(&rows)
    }

    fn cpu_share(&self, before: &Self, id: &str) -> Option<f64> {
        let cpu_ms = |sample: &Self| {
            sample.used.iter().find(|used| used.id == id).and_then(|used| used.stats.cpu_ms)
        };
        // The clock of a VM that was started again in between began anew.
        let took = cpu_ms(self)?.checked_sub(cpu_ms(before)?)?;
        let passed = self.at.duration_since(before.at).as_secs_f64() * 1e3;
        Some(took as f64 / passed)
    }
}
