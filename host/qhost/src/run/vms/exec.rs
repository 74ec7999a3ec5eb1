//! `qhost exec`: a command in a guest, by the guest's agent.

use std::{
    io::{self, Read as _, stderr, stdin, stdout},
    time::Duration,
};

use serde_json::json;

use qhost_engine::{Context, Engine, Exec, ExecStatus};
use qhost_model::printable;
use qhost_policy::Operation;

use super::{RunError, actor, show};
use crate::{
    cli::{ExecArgs, Shared},
    exit::ExitStatus,
};

pub(super) async fn exec(
    shared: &Shared,
    args: &ExecArgs,
    engine: &Engine,
) -> Result<ExitStatus, RunError> {
    let exec = Exec {
        command: args.command.clone(),
        stdin: if args.stdin { given()? } else { vec![] },
        timeout: Duration::from_secs(args.timeout),
    };
    let vm = engine.live_vm(&args.which.name()).await?;
    let operation = Operation::Exec(exec.command.clone());
    vm.permit(operation, actor(args.which.of.tenant.clone()), &Context::default()).await?;
    let output = vm.exec(&exec).await?;
    let status = ExitStatus::of_guest(match output.status {
        // A Windows program may have exited with more than a process here can.
        ExecStatus::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
        // As shells say it.
        ExecStatus::Signal(signal) => {
            u8::try_from(signal).map_or(u8::MAX, |it| it.saturating_add(128))
        }
    });
    if shared.json {
        show::print(&show::json(&json!({ "exec": output.report(vm.id()) })));
    } else {
        write(&output.stdout, &mut stdout());
        write(&output.stderr, &mut stderr());
        if output.truncated {
            show::say("the agent has left a part of the output out");
        }
    }
    Ok(status)
}

/// What is to be the command's standard input.
fn given() -> Result<Vec<u8>, RunError> {
    let most = qhost_engine::limits::EXEC_STDIN_BYTES;
    let mut bytes = vec![];
    let read = stdin().lock().take(most as u64 + 1).read_to_end(&mut bytes);
    let failed = |error: io::Error| RunError::Usage(format!("cannot read standard input: {error}"));
    read.map_err(failed)?;
    if bytes.len() > most {
        return Err(RunError::Usage(format!(
            "standard input has more than {} KiB, the most that a guest's agent is given; put the file where the guest can fetch it",
            most >> 10
        )));
    }
    Ok(bytes)
}

/// The guest's bytes, with what would steer a terminal escaped on one.
fn write(bytes: &[u8], to: &mut (impl io::Write + io::IsTerminal)) {
    let written = if to.is_terminal() {
        let text = String::from_utf8_lossy(bytes);
        to.write_all(printable::lines(&text, usize::MAX).to_string().as_bytes())
    } else {
        to.write_all(bytes)
    };
    if written.and_then(|()| to.flush()).is_err() {
        tracing::debug!("the output was not written");
    }
}
