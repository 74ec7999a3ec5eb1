//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// Fetching an image.

/// The largest image in bytes, unless configured: 64 GiB.
pub const IMAGE_BYTES: u64 = 64 << 30;
/// The longest that establishing a connection may take, TLS included.
pub const FETCH_CONNECT: Duration = Duration::from_secs(10);
/// An attempt ends when next to no bytes arrive for this long.
pub const FETCH_IDLE: Duration = Duration::from_secs(30);
/// Less than this in [`FETCH_IDLE`] is next to nothing, in bytes: 9 kB/s.
pub const FETCH_IDLE_BYTES: u64 = 256 << 10;
/// The longest that a whole fetch may take, with all its attempts: Nomad's artifact limit.
pub const FETCH_TOTAL: Duration = Duration::from_secs(30 * 60);
/// The most redirects followed in one attempt.
pub const FETCH_REDIRECTS: usize = 5;
/// The most addresses of one name that are tried: the name's owner can give it thousands.
pub const ADDRESSES: usize = 16;
/// The most addresses of one name that a message shows.
pub const ADDRESSES_SHOWN: usize = 4;
/// The most attempts after failures that may pass.
pub const FETCH_ATTEMPTS: u32 = 4;
/// The wait before the second attempt, of which half is random; it doubles with each further attempt.
pub const FETCH_BACKOFF: Duration = Duration::from_millis(500);
/// The longest `Retry-After` that is honoured; a longer one ends the fetch.
pub const FETCH_RETRY_AFTER: Duration = Duration::from_secs(30);
/// How many bytes an attempt must add for the next attempt to count as the first.
pub const FETCH_PROGRESS_BYTES: u64 = 1 << 20;
/// How often a run looks whether another run has finished fetching the same image.
pub const FETCH_LOCK_POLL: Duration = Duration::from_millis(20);
/// How long another run's fetch is waited for before the user is told.
pub const FETCH_LOCK_TOLD: Duration = Duration::from_millis(100);
/// The most pieces of a body between two stages. With pieces of up to half a MiB, this bounds how far a slow disk may lag
/// behind.
pub const FETCH_PIECES: usize = 32;
/// The connections to one source, unless configured.
pub const FETCH_CONNECTIONS: usize = 4;
/// The most connections that can be configured.
pub const FETCH_CONNECTIONS_MOST: u64 = 16;
/// The longest wait that can be configured for any part of a fetch.
pub const FETCH_TIMEOUT_MOST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long one connection is watched before more are tried.
pub const FETCH_ALONE: Duration = Duration::from_secs(1);
/// How many bytes one of several connections asks for at a time; all of them are in memory until their turn.
pub const FETCH_SEGMENT_BYTES: u64 = 8 << 20;
/// How long an unfinished image is kept to be resumed by another fetch.
pub const FETCH_PART_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most unfinished images of one tenant that are kept; the oldest go first.
pub const UNFINISHED_KEPT: usize = 8;
/// How many bytes of a quota are claimed at a time for an image of unknown size: at 1 GB/s, some hundred claims a second.
pub const CLAIM_BYTES: u64 = 8 << 20;
/// The most bytes of a claim in a lock's file: a tenant's name and a number.
pub const CLAIM_RECORD_BYTES: u64 = 4096;
/// The most bytes of a list of checksums: a distribution's has some ten thousand.
pub const SUMS_BYTES: u64 = 1 << 20;
/// The most lists of checksums of one tenant that are kept; the oldest go first.
pub const SUMS_KEPT: usize = 64;
/// The most bytes of a file of credentials.
pub const CREDENTIALS_BYTES: u64 = 1 << 20;
/// How many times larger an image may become when unpacked, unless configured: an installed system in a disk that is
/// mostly empty reaches some 50.
pub const UNPACK_RATIO: u64 = 200;
/// How many bytes may be unpacked whatever the ratio, for small images that are all but empty.
pub const UNPACK_FREE_BYTES: u64 = 64 << 20;
/// The most memory of a decoder in KiB: xz -9 needs 65 MiB, zstd -19 its window of 8 MiB.
pub const UNPACK_MEMORY_KIB: u32 = 128 << 10;
/// How many bytes are unpacked or read at a time.
pub const BLOCK_BYTES: usize = 256 << 10;
/// After how many written bytes the kernel is told to begin writing them to the disk.
pub const WRITE_BEHIND_BYTES: u64 = 32 << 20;
/// How many bytes stay free on a disk that an image is written to.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// The most origins of one image that are remembered for one tenant; the latest stay.
pub const IMAGE_ORIGINS: usize = 32;
/// The most of all tenants: with names as long as there are, they take half of an image's record.
pub const IMAGE_ORIGINS_OF_ALL: usize = 768;
/// How long an image's lock is waited for where it is held for moments only: by a sweep, by publishing, by removal.
pub const IMAGE_LOCK: Duration = Duration::from_secs(2);
/// How often a stored image is hashed, if its times change during each hash.
pub const IMAGE_HASHES: u32 = 3;
/// The most bytes of a stored image's record.
pub const IMAGE_RECORD_BYTES: u64 = 1 << 20;
