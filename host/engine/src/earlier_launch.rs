//! A VM's earlier task and launch, read from its folder, and what policies say of them now.

use std::{io, path::Path};

use qhost_model::{
    job::Task,
    launch::{Forward, Launch},
    limits,
    secrets::MASK,
};
use qhost_policy::Decision;
use qhost_vm::{Spec, VmError, error::io_error, records::read_whole};

use crate::{
    config::Configured,
    decide::Deciding,
    error::Failure,
    order::{JobFile, Order},
    refusal::Understood,
    run::{DECISION, TASK},
};

/// The place of a task's text that was masked as a secret in its record.
fn masked(task: &Task) -> Option<String> {
    let meta = task.meta.iter().map(|(key, value)| (format!("meta.{key}"), value));
    let args =
        task.args.iter().enumerate().map(|(index, arg)| (format!("config.args.{index}"), arg));
    let mut all = meta.chain(args);
    all.find(|(_, text)| text.contains(MASK)).map(|(place, _)| place)
}

/// A VM's earlier task, and its earlier launch.
pub(crate) struct EarlierLaunch {
    pub(crate) task: Task,
    pub(crate) launch: Launch,
}

impl EarlierLaunch {
    pub(crate) fn of(folder: &Path) -> Result<Self, VmError> {
        let spec = Spec::read(folder)?;
        let mut task: Task = read_whole(&folder.join(TASK))?;
        let Decision { mut launch, .. } = read_whole(&folder.join(DECISION))?;
        // A port that the host had picked stays the VM's.
        for port in &mut launch.ports {
            let is_its = |forward: &&Forward| {
                (&forward.label, forward.guest, forward.protocol)
                    == (&port.label, port.guest, port.protocol)
            };
            let forward = spec.forwards.iter().find(is_its).ok_or_else(|| {
                let missing = format!("it has no port {}, which {DECISION} has", port.label);
                io_error("use the plan in", folder)(io::Error::other(missing))
            })?;
            port.host = Some(forward.host);
        }
        // A decision that an earlier version wrote lacks these fields.
        launch.persist = spec.keeps_overlay();
        launch.grace_s.seconds = u32::try_from(spec.grace_s).unwrap_or(limits::GRACE_MOST_S);
        if task.image.checksum.is_indirect() {
            // The VM had the image of this digest, whatever a list of checksums says now.
            task = task.with_image(spec.image.sha256);
        }
        Ok(Self { task, launch })
    }

    /// A part of the task that was masked as a secret in the record, and that a policy may need.
    pub(crate) fn missing(&self, policies: &[Configured]) -> Option<String> {
        let has_text = self.launch.seed.is_some();
        let wants_text = || policies.iter().any(|policy| policy.allowance.seed_text);
        masked(&self.task).or_else(|| (has_text && wants_text()).then(|| "seed".into()))
    }

    /// The order by which the task is decided again.
    pub(crate) fn order(&self) -> Order {
        Order::new(JobFile { name: TASK.into(), bytes: vec![] }, &*self.task.tenant)
    }

    /// Asks the policies configured now about the VM's launch: by a task that asks for exactly that launch or, if they refuse it, by the
    /// task as it was.
    pub(crate) async fn decided_again(
        &self,
        deciding: &Deciding,
        understood: &mut Understood,
    ) -> Result<Decision, Failure> {
        let asking = Task { asked: self.launch.asked(), ..self.task.clone() };
        let refused = match self.allowed(deciding, asking, understood).await {
            Err(refused) if is_refusal(&refused) => refused,
            answer => return answer,
        };
        // A policy may refuse a task that names the very port which the policy had chosen for the task without one.
        match self.allowed(deciding, self.task.clone(), understood).await {
            Err(again) if is_refusal(&again) => Err(refused),
            answer => answer,
        }
    }

    /// Decides about a task, and fails unless the VM gets its earlier launch.
    async fn allowed(
        &self,
        deciding: &Deciding,
        task: Task,
        understood: &mut Understood,
    ) -> Result<Decision, Failure> {
        let approved = deciding.make(Some(task), understood).await?;
        let mut launch = approved.launch().clone();
        let allow = deciding.generation.config.rules().ports;
        for port in launch.ports.iter_mut().filter(|port| port.host.is_none()) {
            // A port that the host would pick can be the VM's, if tasks may use that port.
            let its = self.launch.ports.iter().find(|its| its.label == port.label);
            let its = its.and_then(|its| its.host);
            port.host = its.filter(|host| allow.iter().any(|range| range.contains(*host)));
        }
        let mut changes = self.launch.changes_to(&launch);
        // Neither of these fields changes what QEMU is started with.
        changes.retain(|change| {
            !["warnings", "extensions"].iter().any(|field| change.field.starts_with(field))
        });
        if changes.is_empty() {
            Ok(qhost_policy::masked(&understood.secrets, approved.decision().clone()))
        } else {
            Err(Failure::LaunchDiffers { changes })
        }
    }
}

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Denied(_) | Failure::LaunchDiffers { .. })
}
