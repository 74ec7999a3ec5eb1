//! The `qhost` command, built with the tests: cargo builds the binaries of a test's own package only. It kills itself at
//! the point of a run that `QHOST_KILL_AT` names, and takes its time at the one that `QHOST_SLOW_AT` names.

use std::process::ExitCode;

use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    qhost::failpoint::at_every_point(|point| {
        if std::env::var("QHOST_KILL_AT").is_ok_and(|fatal| fatal == point) {
            kill_process(getpid(), Signal::KILL).expect("a signal to oneself");
        }
        if std::env::var("QHOST_SLOW_AT").is_ok_and(|slow| slow == point) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    qhost::main()
}
