//! The records of a VM's folder, and the ids that folders are named by.

use std::{io, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use qhost_sys::state;

use super::{Status, VmError, error::io_error, reservation::Reservation};

/// The VM's status.
pub const STATUS: &str = "status.json";
pub(super) const TASK: &str = "task.json";
/// An earlier version's file of what is reserved, which the status has now.
pub(super) const RESERVED: &str = "reserved.json";
/// The number of random characters in an id.
pub const RANDOM_CHARS: usize = 8;

/// Reads what is reserved for a folder's VM, and no more of its status.
pub(super) fn read_reservation(path: &Path) -> Option<Reservation> {
    #[derive(Deserialize)]
    struct Reserving {
        reservation: Reservation,
    }
    let status: Option<Reserving> = read_record(&path.join(STATUS));
    status.map(|status| status.reservation).or_else(|| read_record(&path.join(RESERVED)))
}

/// Reads a record of a VM's folder; nothing if the record is absent or damaged.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&state::read(path).ok()?).ok()
}

/// Reads a record that a VM's folder must have.
pub fn read_whole<T: DeserializeOwned>(path: &Path) -> Result<T, VmError> {
    let read = || io::Result::Ok(serde_json::from_slice(&state::read(path)?)?);
    read().map_err(io_error("read", path))
}

/// Reads the status of a folder's VM, as far as it is recorded.
pub(super) fn read_status(path: &Path) -> Status {
    match state::read(&path.join(STATUS)) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| Status::unknown()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Status::unwritten(),
        Err(_) => Status::unknown(),
    }
}

/// Gives the letters and digits of a name, for an id that people recognise and that needs no quoting.
pub fn slug(name: &str) -> String {
    let kept =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let slug: String = kept.take(24).collect();
    match slug.trim_matches('-') {
        "" => "vm".into(),
        slug => slug.to_owned(),
    }
}

/// Whether a folder's name can be an id, which is a [`slug`] and random characters.
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
