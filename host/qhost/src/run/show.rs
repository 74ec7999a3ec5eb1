//! What a run shows while it goes on, on standard error, and its report at the end, on standard output.

mod terminal;

use std::{
    io::{IsTerminal as _, stderr, stdout},
    path::Path,
};

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::filter::LevelFilter;

use qhost_image::{Progress, Step, VerifiedImage};
use qhost_model::printable;
use qhost_policy::Decision;
use qhost_vm::Spec;

use super::RunError;
use crate::{
    cli::Shared,
    limits,
    outcome::{ErrorReport, Exit, Report},
};

/// Logs go to standard error: warnings, or with -v what is done.
pub(super) fn log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| printable::LogWriter(stderr()))
        .with_ansi(false)
        .init();
}

/// Prints text or JSON to standard output. A closed pipe is the reader's choice and no error of ours.
pub(super) fn print(text: &str) {
    use std::io::Write as _;
    let written = anstream::stdout().lock().write_all(text.as_bytes());
    if let Err(error) = written {
        tracing::info!(%error, "standard output was not written");
    }
}

/// Prints text for people, among which is text of others': no line of it can look like one of ours.
pub(super) fn tell(text: &str) {
    print(&terminal::folded(text, terminal::width(stdout())));
}

/// Says something beside what a command prints.
pub(super) fn aside(shared: &Shared, text: &str) {
    if !shared.json {
        say(text);
    }
}

fn say(text: &str) {
    use std::io::Write as _;
    let text = terminal::folded(text, terminal::width(stderr()));
    let written = writeln!(anstream::stderr().lock(), "{text}");
    if let Err(error) = written {
        tracing::info!(%error, "standard error was not written");
    }
}

/// Whether progress may be shown.
pub(super) fn on_terminal(shared: &Shared) -> bool {
    stderr().is_terminal() && !shared.json
}

/// The JSON of anything that is a report, on one line; programs that want it pretty have jq.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    // A report is plain data with text keys, which JSON can always hold.
    printable::json(&serde_json::to_string(value).unwrap_or_default()) + "\n"
}

/// The end of a run: JSON or the summary on standard output; an error without JSON on standard error.
pub(super) fn report(shared: &Shared, report: &Report) {
    if shared.json {
        return print(&json(report));
    }
    tell(&report.to_string());
    if let Some(error) = &report.error {
        say(&error.to_string());
    }
}

/// The end of a command that has no report of its own.
pub(super) fn failure(shared: &Shared, error: &RunError) -> Exit {
    let exit = error.exit();
    let error = ErrorReport::new(error, error.problems());
    if shared.json {
        print(&json(
            &serde_json::json!({"outcome": exit, "exit_code": exit.code(), "error": error}),
        ));
    } else {
        say(&error.to_string());
    }
    exit
}

/// Compiling an interpreter takes half a minute, once.
pub(super) fn compiling(terminal: bool, name: &str) {
    if terminal {
        say(&format!("policy    compiling {name}, once"));
    }
}

/// The steps of a run. Progress is for terminals; that the guest runs, and where its ports are, is said in any case.
pub(super) struct Steps {
    quiet: bool,
    terminal: bool,
    bar: ProgressBar,
}

impl Steps {
    pub(super) fn new(shared: &Shared) -> Self {
        let terminal = on_terminal(shared);
        Self { quiet: shared.json, terminal, bar: ProgressBar::hidden() }
    }

    pub(super) fn looking(&self) {
        tracing::info!("no fingerprint is kept that still holds");
        if self.terminal {
            say("host      looking at what QEMU can do here, once; up to some seconds");
        }
    }

    pub(super) fn decided(&self, decision: &Decision) {
        tracing::info!(policies = decision.policies.len(), "allowed");
        if self.terminal {
            let by = match decision.policies.len() {
                0 => "the host's own rules".to_owned(),
                1 => "1 policy and the host's own rules".into(),
                n => format!("{n} policies and the host's own rules"),
            };
            say(&format!("allowed   by {by}"));
        }
    }

    pub(super) fn verified(&self, image: &VerifiedImage) {
        self.bar.finish_and_clear();
        let how = if image.cached() { "in the store" } else { "fetched and checked" };
        tracing::info!(path = %image.path().display(), how, "image");
        if self.terminal {
            say(&format!("image     {how}"));
        }
    }
}

impl Steps {
    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Steps {
    fn waiting(&self) {
        tracing::info!("another process is at this image; waiting for it");
        if self.terminal {
            say("image     another process is at it; waiting");
        }
    }

    fn begins(&self, doing: Step, total: Option<u64>) {
        if !self.terminal {
            return;
        }
        let (template, length) = match total {
            Some(total) => (
                "{prefix:9} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left",
                total,
            ),
            None => ("{prefix:9} {spinner} {binary_bytes} {binary_bytes_per_sec}", 0),
        };
        self.bar.set_prefix(match doing {
            Step::Fetching => "image",
            Step::Checking => "checking",
        });
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        self.bar.set_length(length);
        self.bar.reset();
    }

    fn done(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    fn retrying(&self, why: &str) {
        tracing::info!(why, "fetching again");
        if self.terminal {
            let why = printable::line(why, limits::SHOWN_CAUSE_CHARS).to_string();
            self.bar.suspend(|| say(&format!("image     {why}")));
        }
    }
}

impl Steps {
    /// The guest runs.
    pub(super) fn running(&self, spec: &Spec, console: &Path) {
        tracing::info!(vm = spec.vm, "running");
        if self.quiet {
            return;
        }
        let name = printable::line(&spec.task, 40).to_string();
        say(&format!("running   {name} as VM {}", spec.vm));
        for forward in &spec.forwards {
            say(&format!("port      {forward}"));
        }
        if !spec.cage.lacks.is_empty() {
            say(&format!("cage      {}", warning(&spec.cage.summary())));
        }
        if self.terminal {
            say(&format!("console   {}", console.display()));
            say("          Ctrl-C stops it");
        }
    }

    /// Something else that its supervisor does.
    pub(super) fn doing(&self, what: &str, doing: &str) {
        tracing::info!(doing, what);
        if !self.quiet {
            let doing = printable::line(doing, limits::SHOWN_CAUSE_CHARS);
            say(&format!("{what:<9} {doing}"));
        }
    }
}

/// Rows in columns; the first row in bold.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    terminal::table(rows, terminal::width(stdout()))
}

/// A line that is cut where the terminal ends.
pub(super) fn one_line(text: &str) -> String {
    terminal::width(stdout()).map_or_else(|| text.to_owned(), |width| terminal::cut(text, width))
}

/// A word in green.
pub(super) fn good(word: &str) -> String {
    let style = anstyle::AnsiColor::Green.on_default().bold();
    format!("{style}{word}{style:#}")
}

/// A word in yellow.
pub(super) fn warning(word: &str) -> String {
    let style = anstyle::AnsiColor::Yellow.on_default();
    format!("{style}{word}{style:#}")
}

/// A word in red.
pub(super) fn bad(word: &str) -> String {
    let style = anstyle::AnsiColor::Red.on_default().bold();
    format!("{style}{word}{style:#}")
}
