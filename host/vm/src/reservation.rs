//! What is reserved for a VM, and for whom, as its status has it.

use serde::{Deserialize, Serialize};

use qhost_model::{job::Task, quota::Usage};

/// What is reserved for a VM, and for which tenant and task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reservation {
    pub(super) tenant: String,
    #[serde(default)]
    pub(super) job: String,
    #[serde(default)]
    pub(super) task: String,
    #[serde(flatten)]
    pub(super) takes: Usage,
    /// The service's operation that the VM was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<String>,
}

impl Reservation {
    pub(super) fn new(task: &Task, takes: Usage, operation: Option<String>) -> Self {
        let (tenant, job, task) = (task.tenant.clone(), task.job.clone(), task.name.clone());
        Self { tenant, job, task, takes, operation }
    }
}
