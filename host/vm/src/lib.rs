//! A VM from its launch to its end: its folder, its ports, its supervisor, and its end.
//!
//! ```text
//!          command                     supervisor                            QEMU
//! folder, ports, image ──locks──▶ cage, start, greet, cont ──QMP──▶ runs, exits
//!    │                                │  ▲      │                    │
//!    └── subscribes, asks ────────────┘  │      └── console.log ◀────┘
//!        (control.sock)                  └── killed: another adopts QEMU, by its sockets
//! ```
//!
//! The command first holds the VM's folder, its ports, its image and its overlay, each by a lock on a file, and hands the open files over
//! to the supervisor. So the kernel releases what is not used any more, whichever process is killed.

pub mod limits;
pub mod error;
mod end;
pub mod files;
pub mod argv;
mod token_bucket;
mod qmp;
mod process;
mod status;
mod spare;
mod events;
pub mod records;
mod reservation;
pub mod lock;
mod spec;
pub mod dir;
pub mod list;
mod console;
mod console_copy;
mod console_reader;
mod sockets;
mod request;
pub mod control;
mod qemu;
mod agent;
mod freeze;
mod screenshot;
mod ready;
mod stats;
mod exit;
mod pending;
mod session;
mod monitor;
mod answers;
mod shutdown;
#[cfg(test)]
mod scripted;
mod supervise;
mod attach;
mod published;
mod subscription;
pub mod supervisor;

pub use agent::{Agent, AgentError, Command};
pub use argv::{argv, descriptors};
pub use attach::{Begin, start_supervisor};
pub use console::{tail as console_tail, text_of as console_text};
pub use console_reader::{Position, Reader};
pub use control::{AskError, ask, attach, freeze_guest, take_screenshot};
pub use dir::VmDir;
pub use end::{End, Ended, StoppedBy};
pub use error::VmError;
pub use events::{Event, Events};
pub use files::{CONSOLE_SOCKET, OVERLAY, QMP_SOCKET};
pub use freeze::Frozen;
pub use list::{Allocation, Scan, VmRecord, running};
pub use process::Process;
pub use published::Notification;
pub use qmp::QmpError;
pub use request::Request;
pub use spec::{DiskOf, ImageOf, LogPipes, Spec};
pub use stats::{Disk, Stats};
pub use status::{Change, State, Status};
pub use subscription::{Subscription, subscribe};
pub use supervise::supervise;
pub use token_bucket::Rate;
