//! How long a task may take to stop, and when it is started again: Nomad's `KillTimeout`, `KillSignal` and `RestartPolicy`.

use std::time::Duration;

use jiff::SignedDuration;

use super::{
    super::{
        Restart, RestartWhen,
        cursor::{Cursor, Object},
    },
    ignored::Ignored,
    keys,
};
use crate::limits;

/// The signals upon which QEMU quits in order, as it does when qhost stops it.
const QUITTING: [&str; 3] = ["SIGINT", "SIGTERM", "SIGHUP"];

/// Reads a length of time as Nomad's HCL writes it, such as `1h30m` or `500ms`, in nanoseconds.
pub(in crate::job) fn nanoseconds(text: &str) -> Option<u64> {
    let duration: SignedDuration = text.parse().ok()?;
    u64::try_from(duration.as_nanos()).ok()
}

/// Reads a length of time in seconds, rounded up to whole ones.
fn seconds(cursor: &Cursor<'_>, most: Duration, what: &str) -> Option<u64> {
    let nanoseconds = match cursor.value().as_str() {
        Some(text) => nanoseconds(text),
        None => cursor.value().as_u64(),
    };
    let seconds = nanoseconds.map(|length| length.div_ceil(1_000_000_000));
    match seconds.filter(|seconds| *seconds <= most.as_secs()) {
        Some(seconds) => Some(seconds),
        None => cursor.refuse(format!(
            "{what}: whole nanoseconds, or a text such as \"30s\"; at most {} s",
            most.as_secs()
        )),
    }
}

/// Reads the grace of a task in seconds; the outer option is absent after a problem was noted.
pub(super) fn grace_s(task: &Object<'_>) -> Option<Option<u32>> {
    // An agent writes 0 where no time was given.
    let given = task.optional("KillTimeout").filter(|given| given.value().as_u64() != Some(0));
    match given {
        Some(given) => {
            let most = Duration::from_secs(limits::GRACE_MOST_S.into());
            let seconds = seconds(&given, most, "the time to power off")?;
            Some(Some(u32::try_from(seconds).unwrap_or(limits::GRACE_MOST_S)))
        }
        None => Some(None),
    }
}

/// Checks the kill signal. A guest is stopped by its power button, and QEMU quits after its grace, so that any signal by which
/// QEMU quits means the same.
pub(super) fn check_kill_signal(task: &Object<'_>) {
    let Some(given) = task.optional("KillSignal") else { return };
    let is_fine =
        |signal: &str| signal.is_empty() || QUITTING.contains(&signal.to_uppercase().as_str());
    if !given.value().as_str().is_some_and(is_fine) {
        given.refuse_with_hint::<()>(
            format!("one of {}", QUITTING.join(", ")),
            "a guest gets no signals: its power button is pressed, and after the grace QEMU quits; leave kill_signal out",
        );
    }
}

/// Reads when a task is started again: from its own restart policy, else from its group's, else from Nomad's defaults for the
/// type of job. Gives nothing where neither task nor group has a restart policy.
pub(super) fn restart(
    kind: JobType,
    group: &Object<'_>,
    task: &Object<'_>,
    ignored: &Ignored,
) -> Option<Option<Restart>> {
    let mut policies = vec![];
    for object in [task, group] {
        if let Some(policy) = object.optional("RestartPolicy") {
            let policy = policy.object(&keys::RESTART.names())?;
            ignored.keys(&policy, &keys::RESTART);
            policies.push(policy);
        }
    }
    if policies.is_empty() {
        return Some(None);
    }
    let given = |key: &str| policies.iter().find_map(|policy| policy.optional(key));
    let attempts = match given("Attempts") {
        Some(attempts) => attempts.number(0..=limits::RESTART_ATTEMPTS_MOST, "restarts"),
        None => Some(kind.attempts()),
    };
    let delay_s = match given("Delay") {
        Some(delay) => seconds(&delay, limits::LIFECYCLE_MOST, "the wait before a restart"),
        None => Some(limits::NOMAD_RESTART_DELAY.as_secs()),
    };
    let mode = match given("Mode") {
        Some(mode) => mode.word(&["fail", "delay"], |mode| mode),
        None => Some("fail"),
    };
    let (attempts, delay_s, mode) = (attempts?, delay_s?, mode?);
    let policy = if attempts == 0 { RestartWhen::Never } else { kind.restarted() };
    Some(Some(match mode {
        // Nomad restarts such a task for ever, and here the waits grow.
        "delay" => Restart {
            policy,
            attempts: limits::RESTART_ATTEMPTS_MOST,
            delay_s,
            max_delay_s: delay_s.max(limits::RESTART_DELAY_MOST.as_secs()),
        },
        _ => Restart { policy, attempts, delay_s, max_delay_s: delay_s },
    }))
}

/// The type of a job, as far as restarts depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobType {
    /// The job is to run for ever.
    Service,
    /// The job is to run to its end.
    Batch,
}

impl JobType {
    pub(super) fn of(job: &Object<'_>) -> Option<Self> {
        let Some(given) = job.optional("Type") else { return Some(Self::Service) };
        match given.word(&["service", "batch", "system", "sysbatch"], |word| word)? {
            "batch" | "sysbatch" => Some(Self::Batch),
            _ => Some(Self::Service),
        }
    }

    fn attempts(self) -> u32 {
        match self {
            Self::Service => 2,
            Self::Batch => 3,
        }
    }

    fn restarted(self) -> RestartWhen {
        match self {
            Self::Service => RestartWhen::Always,
            Self::Batch => RestartWhen::OnFailure,
        }
    }
}
