//! `qhost exec`: a command in a guest, by the guest's agent.

use std::{
    io::{self, Read as _, stderr, stdin, stdout},
    time::Duration,
};

use serde_json::json;

use qhost_engine::{Context, Engine, Exec, ExecReport};
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
    let exec = asked(args)?;
    let vm = engine.live_vm(&args.which.name()).await?;
    let operation = Operation::Exec(exec.command.clone());
    let actor = actor(args.which.of.tenant.clone());
    vm.permit(operation, actor.clone(), &Context::default()).await?;
    vm.note_request("exec", &actor).await;
    let output = vm.exec(&exec).await?;
    let report = output.report(vm.id());
    Ok(told(shared, &report, &output.stdout, &output.stderr))
}

/// Makes the request to the guest.
pub(in crate::run) fn asked(args: &ExecArgs) -> Result<Exec, RunError> {
    Ok(Exec {
        command: args.command.clone(),
        stdin: if args.stdin { given()? } else { vec![] },
        timeout: Duration::from_secs(args.timeout),
    })
}

/// Prints what the command has printed, and gives its exit code.
pub(in crate::run) fn told(
    shared: &Shared,
    report: &ExecReport,
    out: &[u8],
    err: &[u8],
) -> ExitStatus {
    if shared.json {
        show::print(&show::json(&json!({ "exec": report })));
    } else {
        write(out, &mut stdout());
        write(err, &mut stderr());
        if report.truncated {
            show::say("the agent has left a part of the output out");
        }
    }
    ExitStatus::of_guest(match (report.exit_code, report.signal) {
        // A Windows program may have exited with a code that does not fit an exit code here.
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        // Shells give a command that a signal ended 128 and the signal's number.
        (None, Some(signal)) => u8::try_from(signal).map_or(u8::MAX, |it| it.saturating_add(128)),
        (None, None) => u8::MAX,
    })
}

/// Reads the command's standard input.
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

/// Writes the guest's bytes; to a terminal, with its control characters escaped.
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
