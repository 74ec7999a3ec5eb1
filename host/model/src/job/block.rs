//! What of a job file a task's launch is read from, whichever of the two forms it has.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::cursor::{Cursor, Object};

/// The form of a job file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// qhost's own: one task.
    Own,
    /// Nomad's job JSON.
    Nomad,
}

impl Form {
    /// Nomad's keys start with a capital letter, qhost's do not; the first key of either kind that matters decides.
    pub(super) fn of(root: &Value) -> Self {
        let has = |key| root.get(key).is_some();
        if ["Job", "TaskGroups", "ID"].into_iter().any(has) { Self::Nomad } else { Self::Own }
    }
}

/// The blocks of a task. One is absent where it could not be read, which was noted as a problem then.
pub struct TaskBlock<'a> {
    pub(crate) form: Form,
    /// `config`.
    pub(crate) config: Option<Object<'a>>,
    /// `resources`, in Nomad's form `Resources`.
    pub(crate) resources: Option<Object<'a>>,
    /// The ports that networks of a Nomad job declare.
    pub(crate) declared: Option<Vec<Declared<'a>>>,
    /// What the task says beside its `config` of the time to power off, in seconds; the inner option is absent where it says nothing.
    pub(crate) grace_s: Option<Option<u32>>,
    /// What a guest is given of its task as files; none in qhost's own form.
    pub(crate) files: Option<Vec<GuestFile>>,
}

/// A file for the guest.
pub(crate) struct GuestFile {
    pub(crate) path: String,
    /// In octal digits.
    pub(crate) permissions: String,
    /// It may be secret.
    pub(crate) text: String,
}

/// A port that a Nomad network declares.
pub(crate) struct Declared<'a> {
    pub(crate) label: String,
    pub(crate) host: Option<u16>,
    /// The address of its network.
    pub(crate) bind: Option<Ipv4Addr>,
    pub(crate) to: Option<u16>,
    pub(crate) reserved: bool,
    pub(crate) here: Cursor<'a>,
}
