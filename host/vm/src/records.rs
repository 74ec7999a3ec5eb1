//! The records of a VM's folder, and the ids that folders are named by.

use std::{io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use qhost_model::{job::Task, quota::Usage};
use qhost_sys::state;

use super::{Status, VmError, error::io_error};

/// The VM's status.
pub const STATUS: &str = "status.json";
pub(super) const TASK: &str = "task.json";
pub(super) const RESERVED: &str = "reserved.json";
/// Characters of an id that are random.
pub const RANDOM_BYTES: usize = 8;

/// What a VM has reserved, and for whom.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reserved {
    pub(super) tenant: String,
    #[serde(default)]
    pub(super) job: String,
    #[serde(default)]
    pub(super) task: String,
    #[serde(flatten)]
    pub(super) takes: Usage,
    /// The operation of a service's that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<String>,
}

impl Reserved {
    pub(super) fn new(task: &Task, takes: Usage, operation: Option<String>) -> Self {
        let (tenant, job, task) = (task.tenant.clone(), task.job.clone(), task.name.clone());
        Self { tenant, job, task, takes, operation }
    }
}

/// Reads a record of a VM's folder; nothing where it is absent or damaged.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&state::read(path).ok()?).ok()
}

/// Reads a record that a VM's folder must have.
pub fn read_whole<T: DeserializeOwned>(path: &Path) -> Result<T, VmError> {
    let read = || io::Result::Ok(serde_json::from_slice(&state::read(path)?)?);
    read().map_err(io_error("read", path))
}

/// How a folder's VM is doing, as far as is written down.
pub(super) fn read_status(path: &Path) -> Status {
    match state::read(&path.join(STATUS)) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| Status::unknown()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Status::unwritten(),
        Err(_) => Status::unknown(),
    }
}

/// Letters and digits of a name, for an id that people recognise and that needs no quoting anywhere.
pub fn slug(name: &str) -> String {
    let kept =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let slug: String = kept.take(24).collect();
    match slug.trim_matches('-') {
        "" => "vm".into(),
        slug => slug.to_owned(),
    }
}

/// Whether a folder's name is an id: of a [`slug`] and characters by chance.
pub(super) fn is_id(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The id of a folder's VM.
pub fn name_of(vm: &Path) -> String {
    vm.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_need_no_quoting() {
        for (name, expected) in [
            ("web", "web"),
            ("Web Server,if=x", "web-server-if-x"),
            ("../../etc", "etc"),
            ("é", "vm"),
            ("a-name-that-is-much-longer-than-an-id", "a-name-that-is-much-long"),
        ] {
            assert_eq!(slug(name), expected);
        }
    }
}
