//! The attributes and blocks of a job specification, and the keys that an agent's JSON has for them.

/// The attributes and blocks that a block of a job specification may hold.
pub(super) struct Shape {
    /// The attributes, with their keys in JSON.
    pub(super) attributes: &'static [(&'static str, &'static str)],
    /// The blocks within this one.
    pub(super) blocks: &'static [Nested],
}

/// A block within another.
pub(super) struct Nested {
    pub(super) name: &'static str,
    /// The block's key in JSON.
    pub(super) key: &'static str,
    pub(super) what: What,
}

/// The JSON that a block is turned into.
pub(super) enum What {
    /// An object.
    One(&'static Shape),
    /// An item of a list of objects; its label, if it has one, becomes its `Name`.
    Many(&'static Shape),
    /// An object of texts; it may be written as an attribute too.
    Texts,
    /// An object of any values, under the keys that are written.
    Free,
    /// A port of a network, which is reserved if it has `static`.
    Port,
    /// An object of which only the keys are kept, because only Nomad acts on it, or it is refused.
    Unread,
    /// A list of objects of which only the keys are kept.
    UnreadMany,
    /// A task that is a group of its own.
    Alone,
}

use What::{Alone, Free, Many, One, Port, Texts, Unread, UnreadMany};

const fn nested(name: &'static str, key: &'static str, what: What) -> Nested {
    Nested { name, key, what }
}

const CONSTRAINTS: Nested = nested(
    "constraint",
    "Constraints",
    Many(&Shape {
        attributes: &[("attribute", "LTarget"), ("operator", "Operand"), ("value", "RTarget")],
        blocks: &[],
    }),
);
const META: Nested = nested("meta", "Meta", Texts);
const NETWORKS: Nested = nested(
    "network",
    "Networks",
    Many(&Shape {
        attributes: &[
            ("mode", "Mode"),
            ("hostname", "Hostname"),
            ("device", "Device"),
            ("mbits", "MBits"),
        ],
        blocks: &[
            nested("port", "", Port),
            nested("dns", "DNS", Unread),
            nested("cni", "CNI", Unread),
        ],
    }),
);
const RESTART: Nested = nested(
    "restart",
    "RestartPolicy",
    One(&Shape {
        attributes: &[
            ("attempts", "Attempts"),
            ("interval", "Interval"),
            ("delay", "Delay"),
            ("mode", "Mode"),
            ("render_templates", "RenderTemplates"),
        ],
        blocks: &[],
    }),
);
/// The attributes of a port.
pub(super) const PORT: &[(&str, &str)] = &[
    ("static", "Value"),
    ("to", "To"),
    ("host_network", "HostNetwork"),
    ("ignore_collision", "IgnoreCollision"),
];

/// The shape of a job.
pub(super) const JOB: Shape = Shape {
    attributes: &[
        ("id", "ID"),
        ("name", "Name"),
        ("type", "Type"),
        ("region", "Region"),
        ("namespace", "Namespace"),
        ("priority", "Priority"),
        ("all_at_once", "AllAtOnce"),
        ("datacenters", "Datacenters"),
        ("node_pool", "NodePool"),
        ("consul_token", "ConsulToken"),
        ("vault_token", "VaultToken"),
    ],
    blocks: &[
        META,
        CONSTRAINTS,
        nested("group", "TaskGroups", Many(&GROUP)),
        nested("task", "TaskGroups", Alone),
        nested("affinity", "Affinities", UnreadMany),
        nested("spread", "Spreads", UnreadMany),
        nested("update", "Update", Unread),
        nested("migrate", "Migrate", Unread),
        nested("reschedule", "Reschedule", Unread),
        nested("multiregion", "Multiregion", Unread),
        nested("parameterized", "ParameterizedJob", Unread),
        nested(
            "periodic",
            "Periodic",
            One(&Shape {
                attributes: &[
                    ("enabled", "Enabled"),
                    ("cron", "Spec"),
                    ("crons", "Specs"),
                    ("prohibit_overlap", "ProhibitOverlap"),
                    ("time_zone", "TimeZone"),
                ],
                blocks: &[],
            }),
        ),
        nested("ui", "UI", Unread),
    ],
};

const GROUP: Shape = Shape {
    attributes: &[
        ("count", "Count"),
        ("shutdown_delay", "ShutdownDelay"),
        ("stop_after_client_disconnect", "StopAfterClientDisconnect"),
        ("max_client_disconnect", "MaxClientDisconnect"),
        ("prevent_reschedule_on_lost", "PreventRescheduleOnLost"),
    ],
    blocks: &[
        META,
        CONSTRAINTS,
        NETWORKS,
        RESTART,
        nested("task", "Tasks", Many(&TASK)),
        nested("affinity", "Affinities", UnreadMany),
        nested("spread", "Spreads", UnreadMany),
        nested("service", "Services", UnreadMany),
        nested("volume", "Volumes", Unread),
        nested("ephemeral_disk", "EphemeralDisk", Unread),
        nested("update", "Update", Unread),
        nested("migrate", "Migrate", Unread),
        nested("reschedule", "ReschedulePolicy", Unread),
        nested("disconnect", "Disconnect", Unread),
        nested("scaling", "Scaling", Unread),
        nested("consul", "Consul", Unread),
    ],
};

/// The shape of a task.
pub(super) const TASK: Shape = Shape {
    attributes: &[
        ("driver", "Driver"),
        ("user", "User"),
        ("kill_timeout", "KillTimeout"),
        ("kill_signal", "KillSignal"),
        ("leader", "Leader"),
        ("shutdown_delay", "ShutdownDelay"),
        ("kind", "Kind"),
    ],
    blocks: &[
        META,
        CONSTRAINTS,
        RESTART,
        nested("config", "Config", Free),
        nested(
            "resources",
            "Resources",
            One(&Shape {
                attributes: &[
                    ("cpu", "CPU"),
                    ("cores", "Cores"),
                    ("memory", "MemoryMB"),
                    ("memory_max", "MemoryMaxMB"),
                    ("disk", "DiskMB"),
                    ("iops", "IOPS"),
                    ("secrets", "SecretsMB"),
                ],
                blocks: &[
                    NETWORKS,
                    nested("device", "Devices", UnreadMany),
                    nested("numa", "NUMA", Unread),
                ],
            }),
        ),
        nested(
            "artifact",
            "Artifacts",
            Many(&Shape {
                attributes: &[
                    ("source", "GetterSource"),
                    ("destination", "RelativeDest"),
                    ("mode", "GetterMode"),
                    ("insecure", "GetterInsecure"),
                    ("chown", "Chown"),
                ],
                blocks: &[
                    nested("options", "GetterOptions", Texts),
                    nested("headers", "GetterHeaders", Texts),
                ],
            }),
        ),
        nested("env", "Env", Texts),
        nested(
            "template",
            "Templates",
            Many(&Shape {
                attributes: &[
                    ("data", "EmbeddedTmpl"),
                    ("destination", "DestPath"),
                    ("perms", "Perms"),
                    ("source", "SourcePath"),
                    ("env", "Envvars"),
                    ("uid", "Uid"),
                    ("gid", "Gid"),
                    ("change_mode", "ChangeMode"),
                    ("change_signal", "ChangeSignal"),
                    ("error_on_missing_key", "ErrMissingKey"),
                    ("left_delimiter", "LeftDelim"),
                    ("once", "Once"),
                    ("right_delimiter", "RightDelim"),
                    ("splay", "Splay"),
                    ("vault_grace", "VaultGrace"),
                ],
                blocks: &[
                    nested("change_script", "ChangeScript", Unread),
                    nested("wait", "Wait", Unread),
                ],
            }),
        ),
        nested("lifecycle", "Lifecycle", Unread),
        nested("logs", "LogConfig", Unread),
        nested("service", "Services", UnreadMany),
        nested("affinity", "Affinities", UnreadMany),
        nested("vault", "Vault", Unread),
        nested("consul", "Consul", Unread),
        nested("identity", "Identities", UnreadMany),
        nested("volume_mount", "VolumeMounts", UnreadMany),
        nested("csi_plugin", "CSIPluginConfig", Unread),
        nested("dispatch_payload", "DispatchPayload", Unread),
        nested("scaling", "ScalingPolicies", UnreadMany),
        nested("action", "Actions", UnreadMany),
        nested("schedule", "Schedule", Unread),
        nested("secret", "Secrets", UnreadMany),
    ],
};

/// The operators of constraints that may be written as attributes, with the operand as the value.
pub(super) const OPERATORS: [&str; 7] = [
    "distinct_hosts",
    "distinct_property",
    "regexp",
    "semver",
    "set_contains",
    "set_contains_any",
    "version",
];
/// The attributes that are numbers and may be written as texts.
pub(super) const NUMBERS: [&str; 12] = [
    "attempts",
    "count",
    "cores",
    "cpu",
    "disk",
    "iops",
    "mbits",
    "memory",
    "memory_max",
    "priority",
    "static",
    "to",
];
