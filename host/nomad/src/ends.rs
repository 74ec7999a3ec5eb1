//! How tasks end, in the terms of Nomad.

use qhost_vm::{End, VmRecord};

use crate::proto::driver::{ExitResult, TaskState, WaitTaskResponse};

/// The exit code of a task whose VM failed, the same as of `qhost run`.
const FAILED: i32 = 20;

/// The result of a task whose VM has ended.
pub(crate) fn result_of(record: &VmRecord) -> WaitTaskResponse {
    let end = record.status.ended.as_ref().map(|ended| &ended.end);
    let is_failure = end.is_none_or(End::is_failure);
    let result = ExitResult {
        exit_code: if is_failure { FAILED } else { 0 },
        signal: 0,
        oom_killed: end.is_some_and(|end| *end == End::OutOfMemory),
    };
    let err = if is_failure { end_of(record) } else { String::new() };
    WaitTaskResponse { result: Some(result), err }
}

fn end_of(record: &VmRecord) -> String {
    let told = record.status.ended.as_ref().map(|ended| ended.end.to_string());
    let last = || record.status.changes().last().and_then(|change| change.reason.clone());
    told.or_else(last).unwrap_or_else(|| "how the VM ended is not known".into())
}

/// The state of a task.
pub(crate) fn state_of(record: Option<&VmRecord>) -> TaskState {
    match record.map(|record| record.status.state()) {
        None => TaskState::Unknown,
        Some(state) if state.is_final() => TaskState::Exited,
        Some(_) => TaskState::Running,
    }
}
