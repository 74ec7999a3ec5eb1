//! An order to the engine: a job, its tenant, and what the door adds to the configuration.

use ipnet::IpNet;

use qhost_cage::LinuxResources;
use qhost_model::launch::Grace;
use qhost_policy::{Actor, Source};
use qhost_vm::LogPipes;

/// A VM that is to be started, or planned.
#[derive(Debug, Clone)]
pub struct Order {
    /// The job file.
    pub job: JobFile,
    /// The tenant whose task it is, by a name that a tenant can have.
    pub tenant: String,
    /// The task to take from a Nomad job that has several, `TASK` or `GROUP/TASK`.
    pub task: Option<String>,
    /// Policies that are asked before the configuration's. The door that makes the order answers for these policies.
    pub policies: Vec<Source>,
    /// Networks that the image may come from, besides the configuration's.
    pub image_networks: Vec<IpNet>,
    /// Whether the job must have a ready check, because the door is going to wait for it.
    pub ready_check: bool,
    /// How long the guest has to power off when it is stopped, in place of the job's grace.
    pub grace: Option<Grace>,
    /// Pipes that another program reads the console from. The door that makes the order answers for these pipes.
    pub log_pipes: Option<LogPipes>,
    /// The actor who makes the order, for the record of the decision.
    pub actor: Option<Actor>,
    /// The service's operation that the order is for, by which a service that was killed finds the VM again.
    pub operation: Option<String>,
    /// What a scheduler has set aside for the VM on this host.
    pub resources: LinuxResources,
}

/// A job file that was read.
#[derive(Debug, Clone)]
pub struct JobFile {
    /// The file's name in errors.
    pub name: String,
    /// The file's text. An order with more than [`qhost_model::limits::JOB_FILE_BYTES`] is refused.
    pub bytes: Vec<u8>,
}

impl JobFile {
    /// A job that came in a request's body.
    pub fn of_body(bytes: Vec<u8>) -> Self {
        Self { name: "the request's body".into(), bytes }
    }
}

impl Order {
    /// The order of a tenant's job, with the configuration's policies only.
    pub fn new(job: JobFile, tenant: impl Into<String>) -> Self {
        Self {
            job,
            tenant: tenant.into(),
            task: None,
            policies: vec![],
            image_networks: vec![],
            ready_check: false,
            grace: None,
            log_pipes: None,
            actor: None,
            operation: None,
            resources: LinuxResources::default(),
        }
    }
}
