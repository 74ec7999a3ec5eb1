//! `qhost drain`: no VM is started any more, and the running ones are waited for or stopped.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::{self, Instant};

use qhost_engine::{Context, Draining, Engine, Termination, Until};
use qhost_vm::{VmError, VmRecord};

use super::{RunError, show, stop::Asides, stop::summary};
use crate::{
    cli::{DrainArgs, Shared},
    exit::Exit,
};

pub(super) async fn drain(
    shared: &Shared,
    engine: &Engine,
    args: &DrainArgs,
) -> Result<Exit, RunError> {
    if args.end {
        return end(shared, engine).await;
    }
    // VMs whose supervisors were killed are waited for too.
    engine.recover().await;
    let Draining { drain, running } = engine.drain().await?;
    if !shared.json {
        let since = drain.since;
        show::say(&format!("draining  since {since:.0}; VMs that run: {}", running.len()));
    }
    let ended = if args.no_wait { vec![] } else { ended(shared, engine, args, &running).await? };
    if shared.json {
        let running = if args.no_wait { running } else { vec![] };
        show::print(&show::json(&json!({ "drain": drain, "ended": ended, "running": running })));
    } else if !args.no_wait {
        show::say("drained   nothing runs; qhost drain --end lets VMs start again");
    }
    Ok(Exit::Done)
}

async fn end(shared: &Shared, engine: &Engine) -> Result<Exit, RunError> {
    let was = engine.end_drain().await?;
    if shared.json {
        show::print(&show::json(&json!({ "drain": null, "was_drained": was })));
    } else {
        let said = if was { "ended; VMs may be started again" } else { "there was none" };
        show::print(&format!("drain     {said}\n"));
    }
    Ok(Exit::Done)
}

/// Waits for the ends of VMs, and tells each as it comes.
async fn ended(
    shared: &Shared,
    engine: &Engine,
    args: &DrainArgs,
    running: &[VmRecord],
) -> Result<Vec<VmRecord>, RunError> {
    let context = Context { observer: Arc::new(Asides::of(shared)), ..Context::default() };
    let ending = Termination::Stop(args.grace.map(Duration::from_secs));
    let ends: FuturesUnordered<_> = running
        .iter()
        .map(|record| {
            let (vm, context) = (engine.handle(record), &context);
            async move {
                let ended = if args.stop {
                    vm.end(ending, context).await
                } else {
                    vm.wait(Until::End, context).await
                };
                (record, ended)
            }
        })
        .collect();
    let mut ends = std::pin::pin!(ends);
    let by = Instant::now() + Duration::from_secs(args.timeout);
    let (mut ended, mut left) = (vec![], running.iter().map(|vm| &vm.id).collect::<Vec<_>>());
    while let Some(id) = left.first() {
        let next = time::timeout_at(by, ends.next()).await;
        let stays = |_| VmError::Stays { id: (*id).clone(), seconds: args.timeout };
        let Some((record, end)) = next.map_err(stays)? else { break };
        let vm = end?;
        left.retain(|id| **id != record.id);
        if !shared.json {
            show::tell(&summary(&vm));
        }
        ended.push(vm);
    }
    Ok(ended)
}
