//! The events of tasks, as their owners read them in `nomad alloc status`: each policy's answer and changes, the progress of the image, the
//! VM's admission.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::broadcast;

use qhost_engine::{Observation, Observer};
use qhost_image::{Progress, Step};
use qhost_model::{digest::Sha256, printable};
use qhost_policy::{Answer, Decision, Mode, PolicyRecord};

use crate::{
    limits,
    proto::driver::{DriverTaskEvent, TaskConfig},
};

/// The events of all tasks.
pub(crate) struct Events(broadcast::Sender<DriverTaskEvent>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(limits::EVENTS))
    }
}

impl Events {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<DriverTaskEvent> {
        self.0.subscribe()
    }

    /// The events of one task.
    pub(crate) fn of(&self, task: &TaskConfig) -> TaskEvents {
        TaskEvents {
            sender: self.0.clone(),
            task_id: task.id.clone(),
            alloc_id: task.alloc_id.clone(),
            task_name: task.name.clone(),
            progress: Mutex::default(),
        }
    }
}

/// Sends the events of one task.
pub(crate) struct TaskEvents {
    sender: broadcast::Sender<DriverTaskEvent>,
    task_id: String,
    alloc_id: String,
    task_name: String,
    progress: Mutex<Option<Fetch>>,
}

/// The progress of a download.
struct Fetch {
    step: Step,
    total: Option<u64>,
    done: u64,
    told: Instant,
}

/// How often progress is sent: a client keeps only the last ten events of a task.
const PROGRESS: Duration = Duration::from_secs(10);

impl TaskEvents {
    pub(crate) fn tell(&self, message: &str, annotations: &[(&str, &str)]) {
        let annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let event = DriverTaskEvent {
            task_id: self.task_id.clone(),
            alloc_id: self.alloc_id.clone(),
            task_name: self.task_name.clone(),
            timestamp: Some(timestamp(Timestamp::now())),
            message: printable::line(message, limits::TEXT_CHARS).to_string(),
            annotations: annotations.collect::<HashMap<_, _>>(),
        };
        if self.sender.send(event).is_err() {
            tracing::debug!(message, "no client listens to events");
        }
    }

    fn decided(&self, decision: &Decision, record: Option<Sha256>) {
        for policy in &decision.policies {
            self.tell(&said(policy), &[("policy", &policy.name)]);
        }
        for violation in &decision.host.violations {
            let hint = violation.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let text = format!("the host's rules: {}: {}{hint}", violation.code, violation.message);
            self.tell(&text, &[("code", &violation.code)]);
        }
        if let Some(id) = record.map(|id| id.to_string()) {
            self.tell(&format!("decision {id}"), &[("decision", &id)]);
        }
    }
}

/// A policy's answer in a line.
fn said(policy: &PolicyRecord) -> String {
    let PolicyRecord { name, version, answer, changes, violations, fault, mode, .. } = policy;
    let would = if *mode == Mode::Monitor { " (only watched)" } else { "" };
    let mut text = format!("policy {name} {version}{would}: ");
    text += match answer {
        Answer::Allowed => "allowed",
        Answer::Refused => "refused",
        Answer::Failed => "failed",
        Answer::NotAsked => "not asked",
    };
    for violation in violations {
        text += &format!("; {}: {}", violation.code, violation.message);
        text += &violation.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    }
    if let Some(fault) = fault {
        text += &format!("; {fault}");
    }
    if !changes.is_empty() {
        text += &format!("; changed {}", qhost_model::launch::listed(changes));
    }
    text
}

impl Observer for TaskEvents {
    fn observe(&self, observation: Observation<'_>) {
        match observation {
            Observation::Waiting { .. } => {
                self.tell("waiting for another start of this tenant", &[]);
            }
            Observation::Fingerprinting => self.tell("finding out what QEMU can do here", &[]),
            Observation::Compiling { policy } => {
                self.tell(&format!("compiling the policy {policy}, once"), &[]);
            }
            Observation::Decided { decision, record } => self.decided(decision, record),
            Observation::Admitted { vm } => self.tell(&format!("admitted as {vm}"), &[("vm", vm)]),
            Observation::Verified(image) => {
                let digest = image.sha256().to_string();
                self.tell(&format!("image verified: sha256:{digest}"), &[("sha256", &digest)]);
            }
            Observation::Turn
            | Observation::Understood { .. }
            | Observation::Allowed(_)
            | Observation::Launched { .. }
            | Observation::Status(_)
            | Observation::Stopping(_)
            | Observation::Silent { .. } => {}
        }
    }
}

impl Progress for TaskEvents {
    fn waiting(&self) {
        self.tell("waiting for another download of the same image", &[]);
    }

    fn begins(&self, step: Step, total: Option<u64>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = Some(Fetch { step, total, done: 0, told: Instant::now() });
        drop(progress);
        let doing = match step {
            Step::Fetching => "fetching the image",
            Step::Checking => "checking the stored image",
            Step::Copying => "copying the image",
        };
        let of = total.map(|total| format!(", {} MiB", total >> 20)).unwrap_or_default();
        self.tell(&format!("{doing}{of}"), &[]);
    }

    fn done(&self, bytes: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fetch) = progress.as_mut() else { return };
        fetch.done = bytes;
        if fetch.told.elapsed() < PROGRESS || fetch.step != Step::Fetching {
            return;
        }
        fetch.told = Instant::now();
        let of = fetch.total.map(|total| format!(" of {}", total >> 20)).unwrap_or_default();
        let text = format!("fetching the image: {}{of} MiB", fetch.done >> 20);
        drop(progress);
        self.tell(&text, &[]);
    }

    fn retrying(&self, why: &str) {
        self.tell(&format!("fetching the image again: {why}"), &[]);
    }
}

/// A time in the protocol's form.
pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}
