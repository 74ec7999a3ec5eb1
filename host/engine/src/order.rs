//! What is ordered of the engine: a job, whose it is, and what is asked about it besides what the configuration says.

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
    /// Whose task it is, a name that a tenant can have.
    pub tenant: String,
    /// Which task of a Nomad job that has several, `TASK` or `GROUP/TASK`.
    pub task: Option<String>,
    /// Policies that are asked before the configuration's. The door that makes the order answers for them.
    pub policies: Vec<Source>,
    /// Networks that the image may come from, besides the configuration's.
    pub image_networks: Vec<IpNet>,
    /// Whether the job must have a ready check, which is going to be waited for.
    pub ready_check: bool,
    /// How long the guest has to power off when it is stopped, instead of what the job says of that.
    pub grace: Option<Grace>,
    /// Pipes that another program reads the console from. The door that makes the order answers for them.
    pub log_pipes: Option<LogPipes>,
    /// Who asks for it, for the record of the decision.
    pub actor: Option<Actor>,
    /// The operation of a service's that it is for, by which the service finds its VM again after it was killed.
    pub operation: Option<String>,
    /// What a scheduler has set aside for the VM on this host.
    pub resources: LinuxResources,
}

/// A job file that was read.
#[derive(Debug, Clone)]
pub struct JobFile {
    /// What it is called in errors.
    pub name: String,
    /// Its text: at most [`qhost_model::limits::JOB_FILE_BYTES`], else the order is refused.
    pub bytes: Vec<u8>,
}

impl JobFile {
    /// A job that came in a request's body.
    pub fn of_body(bytes: Vec<u8>) -> Self {
        Self { name: "the request's body".into(), bytes }
    }
}

impl Order {
    /// A tenant's job, with the configuration's policies alone.
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
