//! What qhost asks of the operating system: starting processes, files that are whole whatever is killed, locks, which users can
//! change a file, addresses, signals, changes in folders, memory.

pub mod memory;
pub mod spawn;
pub mod state;
pub mod trusted;
pub mod addresses;
pub mod stop;
pub mod watch;
pub mod failpoint;
pub mod limits;
