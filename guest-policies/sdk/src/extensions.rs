//! What the contract 0.1 has no member for, and hands on in `extensions`.

use crate::{Launch, Request, Task};

const DISK_BYTES: &str = "disk-bytes";
const TIME: &str = "time";

/// When a request is decided, in UTC and to the second: `2026-11-28T10:00:00Z`. `None` on a host that does not send it.
pub fn time(request: &Request) -> Option<&str> {
    request.extensions.iter().find(|(key, _)| key == TIME).map(|(_, time)| time.as_str())
}

/// The size in bytes that a task asks for its root disk; absent: the image's.
pub fn asked_disk_bytes(task: &Task) -> Option<u64> {
    disk_bytes_in(&task.extensions)
}

/// The size of a launch's root disk in bytes; absent: the image's.
pub fn disk_bytes(launch: &Launch) -> Option<u64> {
    disk_bytes_in(&launch.extensions)
}

/// Sets the size of a launch's root disk in bytes: a multiple of 512; absent: the image's.
pub fn set_disk_bytes(launch: &mut Launch, bytes: Option<u64>) {
    launch.extensions.retain(|(key, _)| key != DISK_BYTES);
    launch.extensions.extend(bytes.map(|bytes| (DISK_BYTES.to_owned(), bytes.to_string())));
}

fn disk_bytes_in(extensions: &[(String, String)]) -> Option<u64> {
    // The host writes nothing but decimal digits.
    extensions.iter().find(|(key, _)| key == DISK_BYTES)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_size_is_set_read_and_left_out() {
        let mut launch = example::launch();
        launch.extensions.push(("other".into(), "1".into()));
        for bytes in [Some(512), Some(1024), None] {
            set_disk_bytes(&mut launch, bytes);
            assert_eq!(disk_bytes(&launch), bytes);
            assert_eq!(launch.extensions.len(), 1 + usize::from(bytes.is_some()));
        }
    }
}
