//! Commands that a guest's agent runs.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::{self, Instant};
use tonic::{Code, Status, Streaming};

use qhost_engine::{Exec, ExecStatus, Vm, limits::EXEC_STDIN_BYTES};

use crate::{
    error::{of_engine, refused},
    limits,
    proto::driver::{
        ExecTaskResponse, ExecTaskStreamingIoOperation as Operation, ExecTaskStreamingRequest,
        ExecTaskStreamingResponse, ExitResult, exec_task_streaming_request::Setup,
    },
};

/// Runs a command, and gives its output once it has ended.
pub(crate) async fn run(
    vm: &Vm,
    command: Vec<String>,
    stdin: Vec<u8>,
    timeout: Duration,
) -> Result<ExecTaskResponse, Status> {
    let exec = Exec { command, stdin, timeout };
    let output = vm.exec(&exec).await.map_err(|error| of_engine(&error))?;
    let small = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
    let result = match output.status {
        ExecStatus::Code(code) => ExitResult { exit_code: small(code), ..ExitResult::default() },
        ExecStatus::Signal(signal) => ExitResult {
            exit_code: small(signal.saturating_add(128)),
            signal: small(signal),
            oom_killed: false,
        },
    };
    let mut stderr = output.stderr;
    if output.truncated {
        stderr.extend(b"\n[qhost: the agent has left a part of the output out]\n");
    }
    Ok(ExecTaskResponse { stdout: output.stdout, stderr, result: Some(result) })
}

/// Reads the first message of a stream, with the task and the command.
pub(crate) async fn setup(
    asked: &mut Streaming<ExecTaskStreamingRequest>,
) -> Result<Setup, Status> {
    let first = asked.message().await?.and_then(|first| first.setup);
    let setup = first.ok_or_else(|| {
        refused(Code::InvalidArgument, "the first message of the stream has no setup")
    })?;
    if setup.tty {
        let message = "a guest's agent gives commands no terminal: nomad alloc exec -t=false";
        return Err(refused(Code::InvalidArgument, message));
    }
    Ok(setup)
}

/// The output of a command, which comes whole at its end: a guest's agent gives it no sooner.
pub(crate) fn stream(
    vm: Vm,
    command: Vec<String>,
    asked: Streaming<ExecTaskStreamingRequest>,
) -> impl Stream<Item = Result<ExecTaskStreamingResponse, Status>> + Send + 'static {
    let answers = async move {
        let stdin = stdin(asked).await?;
        let done = run(&vm, command, stdin, limits::EXEC_STREAMING).await?;
        let data = |data| Some(Operation { data, close: false });
        let closed = || Some(Operation { data: vec![], close: true });
        let none = ExecTaskStreamingResponse::default;
        Ok::<_, Status>([
            ExecTaskStreamingResponse { stdout: data(done.stdout), ..none() },
            ExecTaskStreamingResponse { stderr: data(done.stderr), ..none() },
            ExecTaskStreamingResponse { stdout: closed(), stderr: closed(), ..none() },
            ExecTaskStreamingResponse { exited: true, result: done.result, ..none() },
        ])
    };
    use futures_util::{StreamExt as _, TryStreamExt as _};
    stream::once(answers).map_ok(|answers| stream::iter(answers.map(Ok))).try_flatten().boxed()
}

/// The command's standard input. The agent takes it whole, so that it ends when the client ends it, or has sent nothing for a while.
async fn stdin(mut asked: Streaming<ExecTaskStreamingRequest>) -> Result<Vec<u8>, Status> {
    let (mut stdin, mut until) = (vec![], Instant::now() + limits::EXEC_STDIN);
    while let Ok(message) = time::timeout_at(until, asked.message()).await {
        let Some(message) = message? else { break };
        let Some(operation) = message.stdin else { continue };
        until = Instant::now() + limits::EXEC_STDIN;
        stdin.extend(operation.data);
        if stdin.len() > EXEC_STDIN_BYTES {
            let message = format!(
                "standard input has more than {} KiB, the most that a guest's agent is given",
                EXEC_STDIN_BYTES >> 10
            );
            return Err(refused(Code::InvalidArgument, message));
        }
        if operation.close {
            break;
        }
    }
    Ok(stdin)
}
