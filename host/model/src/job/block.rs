//! The blocks of a job file that a task's launch is read from, in either form.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::cursor::{Cursor, Object};

/// The form of a job file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// qhost's own form: one task.
    Own,
    /// Nomad's job JSON.
    Nomad,
}

impl Form {
    /// Tells the form by its keys: Nomad's start with a capital letter, qhost's do not.
    pub(super) fn of(root: &Value) -> Self {
        let has = |key| root.get(key).is_some();
        if ["Job", "TaskGroups", "ID"].into_iter().any(has) { Self::Nomad } else { Self::Own }
    }
}

/// The blocks of a task. A block is absent where it could not be read; a problem was noted then.
pub struct TaskBlock<'a> {
    pub(crate) form: Form,
    /// The `config` block.
    pub(crate) config: Option<Object<'a>>,
    /// The `resources` block, which in Nomad's form is `Resources`.
    pub(crate) resources: Option<Object<'a>>,
    /// The ports that networks of a Nomad job declare.
    pub(crate) declared: Option<Vec<Declared<'a>>>,
    /// The time to power off that the task gives outside its `config`, in seconds; the inner option is absent where it gives none.
    pub(crate) grace_s: Option<Option<u32>>,
    /// The files that a guest gets of its task; none in qhost's own form.
    pub(crate) files: Option<Vec<GuestFile>>,
}

/// A file for the guest.
pub(crate) struct GuestFile {
    pub(crate) path: String,
    /// The permissions in octal digits.
    pub(crate) permissions: String,
    /// The text, which may be secret.
    pub(crate) text: String,
}

/// A port that a Nomad network declares.
pub(crate) struct Declared<'a> {
    pub(crate) label: String,
    pub(crate) host: Option<u16>,
    /// The address of the port's network.
    pub(crate) bind: Option<Ipv4Addr>,
    pub(crate) to: Option<u16>,
    pub(crate) reserved: bool,
    pub(crate) here: Cursor<'a>,
}
