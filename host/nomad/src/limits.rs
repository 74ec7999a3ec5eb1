//! Bounds of this door, each with its reason.

use std::time::Duration;

/// The most bytes of msgpack of a task's configuration: a seed's parts of 64 KiB each, as often as a job may have them.
pub const CONFIG_BYTES: usize = 1 << 20;
/// The deepest nesting of a configuration's values: a job's own values lie some six deep.
pub const CONFIG_DEPTH: usize = 32;
/// How often QEMU, the configuration and the disk are checked for changes.
pub const FINGERPRINT: Duration = Duration::from_secs(5);
/// How many events a stream that is not read may be behind; the oldest are left out.
pub const EVENTS: usize = 1024;
/// The shortest time between two samples of what a task uses, whatever the agent asks for.
pub const STATS_LEAST: Duration = Duration::from_millis(250);
/// How long calls may still take when the agent asks the plugin to leave; the agent kills the plugin after 2 s.
pub const LEAVE: Duration = Duration::from_millis(1000);
/// The most files of an agent's configuration that are read.
pub const AGENT_FILES: usize = 256;
/// The most bytes of a file of an agent's configuration.
pub const AGENT_FILE_BYTES: u64 = 1 << 20;
/// How long the agent may take to make a connection by TLS.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most connections that are being made at one time; an agent makes one.
pub const HANDSHAKES: usize = 16;
/// How long a command's standard input is waited for, if the client does not end it.
pub const EXEC_STDIN: Duration = Duration::from_secs(1);
/// How long a streamed command may take: a person may be watching it.
pub const EXEC_STREAMING: Duration = Duration::from_secs(3600);
/// The free bytes of the state folder's disk below which no task is sent here.
pub const DISK_LEAST: u64 = 1 << 30;
/// The longest wait that a call may ask for.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long a configuration that does not load is left alone, unless one of its files changes: a policy may take half a minute to compile.
pub const LOAD_AGAIN: Duration = Duration::from_secs(60);
/// How often a configuration is read whose files change meanwhile: an editor writes a file once or twice.
pub const LOADS: usize = 8;
/// The most bytes of a call's message: a task's configuration and its variables.
pub const CALL_BYTES: usize = 4 << 20;
/// The most bytes of an error's text: it is sent twice, once with each byte as three and once as base64, in headers of 16 KiB.
pub const STATUS_BYTES: usize = 2048;
/// The most characters of a task's name in an error.
pub const NAME_CHARS: usize = 64;
/// The most characters of an event or an attribute, which names policies, places and ports.
pub const TEXT_CHARS: usize = 1024;
