//! All keys of a Nomad job, and what becomes of each here: a key that changes what a person expects is read or refused, and a key that
//! only Nomad acts on is ignored, which a run says.

use super::super::cursor::Object;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// The value is acted on, or refused.
    Read,
    /// Only Nomad acts on the value. A run says that it was ignored, where it asks for something.
    Ignored,
    /// Nomad's server writes the value, which asks for nothing.
    Server,
    /// The value asks for what qhost does not do, for this reason.
    Refused(&'static str),
}

use Treatment::{Ignored, Read, Refused, Server};

/// The keys of one kind of object in a Nomad job.
#[derive(Debug)]
pub struct Keys {
    /// The kind of object.
    pub of: &'static str,
    /// The keys of the object, with what becomes of each.
    pub keys: &'static [(&'static str, Treatment)],
}

const NOT_IN_THE_GUEST: &str =
    "qhost gives a guest its image and nothing else; put this into the image";
const NO_TOKEN: &str = "a guest gets no token and no secret; put a client into the image";
const BY_DISPATCH: &str = "a parameterized job runs once it is dispatched; write the values into the job and leave this out";
const NO_DEVICES: &str = "qhost passes no host devices to guests";
const USER_NETWORK: &str = "a guest's network is QEMU's user-mode network";

/// The keys around a job in the body of a request to an agent's `/v1/jobs`.
pub(super) const REQUEST: Keys = Keys {
    of: "the request",
    keys: &[
        ("Job", Read),
        ("EnforceIndex", Server),
        ("EvalPriority", Server),
        ("Diff", Server),
        ("JobModifyIndex", Server),
        ("Namespace", Server),
        ("PolicyOverride", Server),
        ("PreserveCounts", Server),
        ("PreserveResources", Server),
        ("Region", Server),
        ("SecretID", Server),
        ("Submission", Server),
    ],
};

pub(super) const JOB: Keys = Keys {
    of: "job",
    keys: &[
        ("ID", Read),
        ("Name", Read),
        ("TaskGroups", Read),
        ("Meta", Read),
        ("Affinities", Ignored),
        ("AllAtOnce", Ignored),
        ("Constraints", Read),
        ("ConsulNamespace", Ignored),
        ("ConsulToken", Ignored),
        ("CreateIndex", Server),
        ("Datacenters", Ignored),
        ("DispatchIdempotencyToken", Server),
        ("Dispatched", Read),
        ("JobModifyIndex", Server),
        ("Migrate", Ignored),
        ("ModifyIndex", Server),
        ("Multiregion", Ignored),
        ("Namespace", Ignored),
        ("NodePool", Ignored),
        ("NomadTokenID", Server),
        ("ParameterizedJob", Read),
        ("ParentID", Server),
        ("Payload", Refused(BY_DISPATCH)),
        ("Periodic", Read),
        ("Priority", Ignored),
        ("Region", Ignored),
        ("Reschedule", Ignored),
        ("Spreads", Ignored),
        ("Stable", Server),
        ("Status", Server),
        ("StatusDescription", Server),
        ("Stop", Read),
        ("SubmitTime", Server),
        ("Type", Read),
        ("UI", Server),
        ("Update", Ignored),
        ("VaultNamespace", Ignored),
        ("VaultToken", Ignored),
        ("Version", Server),
        ("VersionTag", Server),
    ],
};

pub(super) const GROUP: Keys = Keys {
    of: "group",
    keys: &[
        ("Name", Read),
        ("Tasks", Read),
        ("Networks", Read),
        ("Meta", Read),
        ("Affinities", Ignored),
        ("Constraints", Read),
        ("Consul", Ignored),
        ("Count", Read),
        ("Disconnect", Ignored),
        ("EphemeralDisk", Ignored),
        ("MaxClientDisconnect", Ignored),
        ("Migrate", Ignored),
        ("PreventRescheduleOnLost", Ignored),
        ("ReschedulePolicy", Ignored),
        ("RestartPolicy", Read),
        ("Scaling", Ignored),
        ("Services", Read),
        ("ShutdownDelay", Ignored),
        ("Spreads", Ignored),
        ("StopAfterClientDisconnect", Ignored),
        ("Update", Ignored),
        ("Volumes", Ignored),
    ],
};

pub(super) const TASK: Keys = Keys {
    of: "task",
    keys: &[
        ("Name", Read),
        ("Driver", Read),
        ("Config", Read),
        ("Resources", Read),
        ("Meta", Read),
        ("Actions", Ignored),
        ("Affinities", Ignored),
        ("Artifacts", Read),
        ("CSIPluginConfig", Refused("a guest is no plugin of a Nomad client")),
        ("Constraints", Read),
        ("Consul", Ignored),
        ("DispatchPayload", Refused(NOT_IN_THE_GUEST)),
        ("Env", Read),
        ("Identities", Refused(NO_TOKEN)),
        ("Identity", Ignored),
        ("KillSignal", Read),
        ("KillTimeout", Read),
        ("Kind", Ignored),
        ("Leader", Ignored),
        (
            "Lifecycle",
            Refused(
                "qhost runs this task alone, and knows no order among a group's tasks; leave lifecycle out",
            ),
        ),
        ("LogConfig", Ignored),
        ("RestartPolicy", Read),
        ("ScalingPolicies", Ignored),
        (
            "Schedule",
            Refused(
                "qhost run starts the task now; call it from a timer, and leave the schedule out",
            ),
        ),
        ("Secrets", Refused(NOT_IN_THE_GUEST)),
        ("Services", Read),
        ("ShutdownDelay", Ignored),
        ("Templates", Read),
        (
            "User",
            Refused("the operator's configuration says as what user a VM runs; leave user out"),
        ),
        ("Vault", Refused(NO_TOKEN)),
        ("VolumeMounts", Refused(NOT_IN_THE_GUEST)),
    ],
};

pub(super) const TEMPLATE: Keys = Keys {
    of: "template",
    keys: &[
        ("EmbeddedTmpl", Read),
        ("DestPath", Read),
        ("Perms", Read),
        (
            "SourcePath",
            Refused("qhost reads no file of this host for a job: put the text into data"),
        ),
        ("Envvars", Refused("write the variables into env")),
        ("Uid", Refused("the file is root's; leave uid out")),
        ("Gid", Refused("the file is root's; leave gid out")),
        ("ChangeMode", Ignored),
        ("ChangeScript", Ignored),
        ("ChangeSignal", Ignored),
        ("ErrMissingKey", Ignored),
        ("LeftDelim", Ignored),
        ("Once", Ignored),
        ("RightDelim", Ignored),
        ("Splay", Ignored),
        ("VaultGrace", Ignored),
        ("Wait", Ignored),
    ],
};

pub(super) const RESOURCES: Keys = Keys {
    of: "resources",
    keys: &[
        ("CPU", Ignored),
        ("Cores", Read),
        ("MemoryMB", Read),
        ("Networks", Read),
        ("DiskMB", Ignored),
        ("Devices", Refused(NO_DEVICES)),
        ("IOPS", Ignored),
        ("MemoryMaxMB", Ignored),
        ("NUMA", Refused(NO_DEVICES)),
        ("SecretsMB", Ignored),
    ],
};

pub(super) const NETWORK: Keys = Keys {
    of: "network",
    keys: &[
        ("ReservedPorts", Read),
        ("DynamicPorts", Read),
        ("CIDR", Ignored),
        ("CNI", Refused(USER_NETWORK)),
        ("DNS", Refused(USER_NETWORK)),
        ("Device", Ignored),
        ("Hostname", Ignored),
        ("IP", Read),
        ("MBits", Ignored),
        ("Mode", Read),
    ],
};

pub(super) const PORT: Keys = Keys {
    of: "port",
    keys: &[
        ("Label", Read),
        ("Value", Read),
        ("To", Read),
        ("HostNetwork", Ignored),
        ("IgnoreCollision", Ignored),
    ],
};

pub(super) const RESTART: Keys = Keys {
    of: "restart",
    keys: &[
        ("Attempts", Read),
        ("Delay", Read),
        ("Interval", Ignored),
        ("Mode", Read),
        ("RenderTemplates", Ignored),
    ],
};

/// The kinds of objects whose keys are all known, for the reference page.
pub const OBJECTS: [&Keys; 8] =
    [&JOB, &GROUP, &TASK, &TEMPLATE, &RESOURCES, &NETWORK, &PORT, &RESTART];

impl Keys {
    /// The names of all keys.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|(name, _)| *name).collect()
    }

    /// The names of the keys whose treatment is wanted.
    pub fn which(&self, wanted: impl Fn(Treatment) -> bool) -> Vec<&'static str> {
        self.keys.iter().filter(|(_, what)| wanted(*what)).map(|(name, _)| *name).collect()
    }

    /// Notes a problem for each key that is refused and asks for something.
    pub(super) fn refuse(&self, object: &Object<'_>) {
        for (name, treatment) in self.keys {
            if let Refused(why) = treatment {
                object.unsupported(&[name], why);
            }
        }
    }
}
