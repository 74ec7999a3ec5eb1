//! `qhost console`: a terminal on a guest's serial port.

use std::io::{IsTerminal as _, Write as _, stdin, stdout};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use qhost_engine::Vm;

use super::RunError;
use crate::exit::Exit;

/// The key that detaches: Ctrl-], as in telnet and virsh.
const DETACH: u8 = 0x1d;

/// The terminal's settings from before, to be restored.
struct Raw(Option<Termios>);

impl Raw {
    /// Sends every key to the guest; does nothing if standard input is no terminal.
    fn begin() -> Self {
        let was = tcgetattr(stdin()).ok();
        if let Some(was) = &was {
            let mut raw = was.clone();
            raw.make_raw();
            if tcsetattr(stdin(), OptionalActions::Now, &raw).is_err() {
                return Self(None);
            }
        }
        Self(was)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(was) = &self.0
            && tcsetattr(stdin(), OptionalActions::Now, was).is_err()
        {
            tracing::warn!("the terminal stays as it is: type reset");
        }
    }
}

pub(super) async fn attach(vm: &Vm) -> Result<Exit, RunError> {
    Ok(exchange(vm.id(), vm.console().await?).await)
}

/// Joins a terminal and a console until either ends.
pub(in crate::run) async fn exchange(
    vm: &str,
    mut console: impl AsyncRead + AsyncWrite + Unpin,
) -> Exit {
    if stdin().is_terminal() {
        tracing::info!("attached");
        eprint_line(&format!("attached to {vm}; Ctrl-] detaches"));
    }
    let raw = Raw::begin();
    let (mut said, mut typed) =
        ([0; qhost_vm::limits::CONSOLE_READ_BYTES], [0; qhost_vm::limits::CONSOLE_TYPED_BYTES]);
    let mut input = Some(tokio::io::stdin());
    let done = loop {
        tokio::select! {
            read = console.read(&mut said) => match read {
                Ok(read @ 1..) => {
                    let bytes = said.get(..read).unwrap_or_default();
                    if stdout().write_all(bytes).and_then(|()| stdout().flush()).is_err() {
                        break "detached";
                    }
                }
                Ok(0) | Err(_) => break "the console was closed",
            },
            read = next(&mut input, &mut typed) => match read {
                // A pipe that has ended types no more, while the guest's output still comes.
                0 => input = None,
                read => {
                    let bytes = typed.get(..read).unwrap_or_default();
                    let until = bytes.iter().position(|byte| *byte == DETACH);
                    let send = bytes.get(..until.unwrap_or(read)).unwrap_or_default();
                    if console.write_all(send).await.is_err() || until.is_some() {
                        break "detached";
                    }
                }
            }
        }
    };
    drop(raw);
    if stdin().is_terminal() {
        eprint_line(&format!("\n{done}"));
    }
    Exit::Done
}

async fn next(input: &mut Option<tokio::io::Stdin>, buffer: &mut [u8]) -> usize {
    match input {
        Some(input) => input.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn eprint_line(text: &str) {
    if writeln!(std::io::stderr(), "{text}").is_err() {
        tracing::debug!("standard error was not written");
    }
}
