//! Runs `qhost` on a terminal, which util-linux' `script` gives it.

use std::process::{Command, Stdio};

use crate::{Done, Qhost, command};

/// The command with these arguments on a terminal of so many columns; its output is what reaches the terminal.
pub fn on_terminal(qhost: &Qhost, columns: usize, args: &[&str]) -> Command {
    let inner = qhost.command(args);
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<_> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| quoted(word.to_str().expect("UTF-8")))
        .collect();
    let mut outer = command("script");
    outer
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty cols {columns} -opost && exec {}", words.join(" ")))
        .arg("/dev/null")
        .current_dir(qhost.folder())
        .env_clear()
        .env("TERM", "xterm-256color")
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    outer
}

/// Runs qhost on a terminal to its end. Its standard error is on the terminal, too.
pub fn run_on_terminal(qhost: &Qhost, columns: usize, args: &[&str]) -> Done {
    let output = on_terminal(qhost, columns, args).output().expect("script is installed");
    Done {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on the terminal"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A text without the sequences that set colours, which are the only ones that qhost writes.
pub fn plain(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_digit() && c != ';');
        let (_, rest) = piece.split_at(end.unwrap_or(piece.len()));
        plain += rest.strip_prefix('m').unwrap_or_else(|| panic!("ESC [{piece:?}"));
    }
    plain
}

/// Asserts that nothing in a text steers a terminal, and that no line of it begins with `forged`.
#[track_caller]
pub fn assert_harmless(text: &str, forged: &str) {
    let text = plain(text);
    let steers = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(text.chars().find(steers), None, "{text:?}");
    let line = text.lines().find(|line| line.starts_with(forged));
    assert_eq!(line, None, "{text}");
}
