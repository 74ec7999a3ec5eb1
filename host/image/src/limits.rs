//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// Fetching an image.

/// The largest image in bytes, unless configured: 64 GiB.
pub const IMAGE_BYTES: u64 = 64 << 30;
/// Establishing a connection, TLS included.
pub const FETCH_CONNECT: Duration = Duration::from_secs(10);
/// Next to no bytes arriving for this long ends an attempt.
pub const FETCH_IDLE: Duration = Duration::from_secs(30);
/// What next to nothing is, in bytes: less than this in [`FETCH_IDLE`], which is 9 kB/s.
pub const FETCH_IDLE_BYTES: u64 = 256 << 10;
/// A whole fetch with all its attempts: Nomad's artifact limit.
pub const FETCH_TOTAL: Duration = Duration::from_secs(30 * 60);
/// Redirects followed in one attempt.
pub const FETCH_REDIRECTS: usize = 5;
/// Addresses of one name that are tried: its owner can give it thousands.
pub const ADDRESSES: usize = 16;
/// How many of them a message shows.
pub const ADDRESSES_SHOWN: usize = 4;
/// Attempts at what is worth retrying.
pub const FETCH_ATTEMPTS: u32 = 4;
/// The wait before the second attempt, half of it by chance; each further one doubles it.
pub const FETCH_BACKOFF: Duration = Duration::from_millis(500);
/// The longest `Retry-After` that is honoured; a longer one ends the fetch.
pub const FETCH_RETRY_AFTER: Duration = Duration::from_secs(30);
/// What an attempt must add for the next to be counted as the first, in bytes.
pub const FETCH_PROGRESS_BYTES: u64 = 1 << 20;
/// How often a run looks whether another has finished fetching the same image.
pub const FETCH_LOCK_POLL: Duration = Duration::from_millis(20);
/// How long another run's fetch is waited for before that is said.
pub const FETCH_LOCK_TOLD: Duration = Duration::from_millis(100);
/// Pieces of a body between two of its stages: with a piece of up to half a MiB, what a slow disk may lag behind.
pub const FETCH_PIECES: usize = 32;
/// Connections to one source, unless configured.
pub const FETCH_CONNECTIONS: usize = 4;
/// The most that can be configured.
pub const FETCH_CONNECTIONS_MOST: u64 = 16;
/// The longest wait that can be configured for any part of a fetch.
pub const FETCH_TIMEOUT_MOST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long one connection is watched before more are tried.
pub const FETCH_ALONE: Duration = Duration::from_secs(1);
/// What one of several connections asks for at a time, in bytes; all of that is in memory until its turn.
pub const FETCH_SEGMENT_BYTES: u64 = 8 << 20;
/// How long an unfinished image is kept for a fetch that goes on from there.
pub const FETCH_PART_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Unfinished images of one tenant that are kept; the oldest go first.
pub const UNFINISHED_KEPT: usize = 8;
/// What is claimed of a quota at a time for an image whose size is not known, in bytes: at 1 GB/s, some hundred claims a second.
pub const CLAIM_BYTES: u64 = 8 << 20;
/// What the lock of a fetch says of its claim, in bytes: a tenant's name and a number.
pub const CLAIM_RECORD_BYTES: u64 = 4096;
/// A list of checksums in bytes: a distribution's has some ten thousand.
pub const SUMS_BYTES: u64 = 1 << 20;
/// Lists of checksums that are kept of one tenant; the oldest go first.
pub const SUMS_KEPT: usize = 64;
/// A file of credentials in bytes.
pub const CREDENTIALS_BYTES: u64 = 1 << 20;
/// How many times larger an image may become when unpacked, unless configured: an installed system in a disk that is
/// mostly empty reaches some 50.
pub const UNPACK_RATIO: u64 = 200;
/// What may be unpacked whatever the ratio, in bytes: small images that are all but empty.
pub const UNPACK_FREE_BYTES: u64 = 64 << 20;
/// A decoder's memory in KiB: xz -9 needs 65 MiB, zstd -19 its window of 8 MiB.
pub const UNPACK_MEMORY_KIB: u32 = 128 << 10;
/// What is unpacked or read at a time in bytes.
pub const BLOCK_BYTES: usize = 256 << 10;
/// How much is written before the disk is told to begin with it, in bytes.
pub const WRITE_BEHIND_BYTES: u64 = 32 << 20;
/// What stays free of a disk that an image is written to, in bytes.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// Origins of one image that are remembered; the latest stay.
pub const IMAGE_ORIGINS: usize = 256;
/// How long an image's lock is waited for that is held for moments only: by a sweep, while it is published or removed.
pub const IMAGE_LOCK: Duration = Duration::from_secs(2);
/// How often a stored image is hashed, where its times change meanwhile each time.
pub const IMAGE_HASHES: u32 = 3;
/// A stored image's record in bytes.
pub const IMAGE_RECORD_BYTES: u64 = 1 << 20;
