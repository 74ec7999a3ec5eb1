//! The progress of a run, on standard error, and its report at the end, on standard output.

mod terminal;

use std::{
    io::{IsTerminal as _, stderr, stdout},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tracing_subscriber::filter::LevelFilter;

use qhost_engine::{Observation, Observer};
use qhost_image::{Progress, Step, VerifiedImage};
use qhost_model::{job::Task, printable};
use qhost_policy::Decision;
use qhost_vm::{Spec, State, Status, VmRecord};

use super::RunError;
use crate::{
    cli::{DecideArgs, Shared},
    exit::Exit,
    limits,
    outcome::{ErrorReport, Report, VmReport},
};

/// Sends logs to standard error: warnings, or with -v the steps.
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

/// Prints text for people that contains foreign text: no line of that can look like one of qhost's own.
pub(super) fn tell(text: &str) {
    print(&terminal::folded(text, terminal::width(stdout())));
}

/// Prints a message beside a command's output.
pub(super) fn say(text: &str) {
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

/// The JSON of a report, on one line; programs that want it pretty have jq.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    // A report is plain data with text keys, which JSON can always hold.
    printable::json(&serde_json::to_string(value).unwrap_or_default()) + "\n"
}

/// Ends a run: JSON or the summary on standard output; an error without JSON on standard error.
pub(super) fn report(shared: &Shared, report: &Report) {
    if shared.json {
        return print(&json(report));
    }
    tell(&report.to_string());
    if let Some(error) = &report.error {
        say(&error.to_string());
    }
}

/// Ends a command whose environment is wrong.
pub(super) fn usage(wrong: &str) -> Exit {
    let error = RunError::Usage(wrong.into());
    say(&ErrorReport::from(&error).to_string());
    error.exit()
}

/// Ends a command that has no report of its own.
pub(super) fn failure(shared: &Shared, error: &RunError) -> Exit {
    let (exit, decision) = (error.exit(), error.verdict());
    let error = ErrorReport::from(error);
    if shared.json {
        let mut report =
            serde_json::json!({"outcome": exit, "exit_code": exit.code(), "error": error});
        if let (Some(report), Some(decision)) = (report.as_object_mut(), decision) {
            report.insert("decision".into(), serde_json::json!(decision));
        }
        print(&json(&report));
    } else {
        say(&error.to_string());
    }
    exit
}

/// Says that a policy is compiled, which takes half a minute for an interpreter, once.
pub(super) fn compiling(terminal: bool, name: &str) {
    if terminal {
        say(&format!("policy    compiling {name}, once"));
    }
}

/// The progress and the report of a run. Progress is for terminals; that the guest runs, and where its ports are, is said in any case.
pub(super) struct Shown {
    quiet: bool,
    /// Whether the report comes as soon as the guest runs, and says that it does.
    detached: bool,
    terminal: bool,
    bar: ProgressBar,
    told: Mutex<Told>,
}

/// The observations so far.
#[derive(Default)]
struct Told {
    report: Option<Report>,
    spec: Option<Spec>,
    console: Option<PathBuf>,
    /// The time up to which changes have been told.
    up_to: Timestamp,
    /// The start of QEMU for which the guest was already said to be ready.
    ready: Option<Timestamp>,
}

impl Shown {
    /// Shows a run or a plan.
    pub(super) fn new(shared: &Shared, args: &DecideArgs) -> Self {
        let mut report = Report::new();
        report.image_allow.clone_from(&args.networks.image_allow);
        let shown = Self::progress(shared);
        shown.told().report = Some(report);
        shown
    }

    /// Shows a command that has no report of its own.
    pub(super) fn progress(shared: &Shared) -> Self {
        let told = Mutex::new(Told { up_to: Timestamp::now(), ..Told::default() });
        let terminal = on_terminal(shared);
        let quiet = shared.json;
        Self { quiet, detached: false, terminal, bar: ProgressBar::hidden(), told }
    }

    /// Sets whether the report tells that the guest runs, instead of a line when it does.
    pub(super) fn detached(self, detached: bool) -> Self {
        Self { detached, ..self }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The report so far.
    pub(super) fn report(&self) -> Report {
        self.clear();
        self.told().report.take().unwrap_or_else(Report::new)
    }

    fn note(&self, what: impl FnOnce(&mut Report)) {
        if let Some(report) = &mut self.told().report {
            what(report)
        }
    }

    /// Takes the VM's end into the report.
    pub(super) fn ended(&self, vm: &VmRecord) {
        let is_launched = self.told().spec.is_some();
        if is_launched {
            let failed = vm.status.ended.as_ref().is_some_and(|ended| ended.end.is_failure());
            let tail = if failed { qhost_vm::console_tail(&vm.folder) } else { String::new() };
            self.note(|report| report.vm = Some(VmReport::new(vm, tail)));
        }
    }

    /// Says once which parts of the job were not looked at, even if the job is decided twice.
    fn understood(&self, task: &Task) {
        let mut is_first = true;
        self.note(|report| is_first = report.task.replace(task.clone()).is_none());
        if is_first && !task.not_looked_at.is_empty() {
            let places = task.not_looked_at.join(", ");
            self.say("note", &format!("not looked at, as only Nomad acts on them: {places}"));
        }
    }

    fn allowed(&self, decision: &Decision) {
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

    /// Shows a step on a terminal, until the next one.
    pub(super) fn doing(&self, step: &str) {
        tracing::info!(step, "doing");
        if !self.terminal {
            return;
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner}         {wide_msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        self.bar.enable_steady_tick(limits::SPINNER);
        self.bar.set_message(printable::line(step, limits::SHOWN_CAUSE_CHARS).to_string());
    }

    /// Shows the task as another host's service understood it.
    pub(super) fn understood_there(&self, task: &Task) {
        self.understood(task);
    }

    /// Takes in the decision of another host's service.
    pub(super) fn decided_there(&self, decision: Decision) {
        self.note(|report| report.decision = Some(decision));
    }

    /// Takes in the end of a VM of another host.
    pub(super) fn ended_there(&self, vm: VmReport) {
        self.note(|report| report.vm = Some(vm));
    }

    /// Removes the progress bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Tells the states that began since the last status, and whether the guest is ready.
    fn status(&self, status: &Status) {
        let mut told = self.told();
        let up_to = told.up_to;
        if let Some(change) = status.changes().last() {
            told.up_to = change.at;
        }
        let Some(spec) = told.spec.clone() else { return };
        let is_ready = status.ready_at.is_some() && told.ready != status.started_at;
        if is_ready {
            told.ready = status.started_at;
        }
        drop(told);
        for change in status.changes().iter().filter(|change| change.at > up_to) {
            match (change.state, &change.reason) {
                (State::Running, _) => self.running(&spec),
                (State::Starting, Some(reason)) => self.say("starting", reason),
                (_, _) => {}
            }
        }
        if is_ready {
            self.say("ready", "the job's ready check holds");
        }
    }

    fn running(&self, spec: &Spec) {
        tracing::info!(vm = spec.vm, "running");
        if self.quiet || self.detached {
            return;
        }
        let name = printable::line(&spec.task, 40).to_string();
        say(&format!("running   {name} as VM {}", spec.vm));
        for forward in &spec.forwards {
            say(&format!("port      {forward}"));
        }
        let summary = spec.cage.summary();
        let summary = if spec.cage.lacks.is_empty() { summary } else { warning(&summary) };
        say(&format!("cage      {summary}"));
        if self.terminal {
            if let Some(console) = &self.told().console {
                say(&format!("console   {}", console.display()));
            }
            say("          Ctrl-C stops it");
        }
    }

    /// Shows a message about a step.
    pub(super) fn say(&self, what: &str, doing: &str) {
        tracing::info!(doing, what);
        if !self.quiet {
            let doing = printable::line(doing, limits::SHOWN_CAUSE_CHARS);
            say(&format!("{what:<9} {doing}"));
        }
    }
}

impl Observer for Shown {
    fn observe(&self, observation: Observation<'_>) {
        match observation {
            Observation::Waiting { tenant } => {
                self.say("waiting", &format!("for other starts of tenant {tenant}"));
            }
            Observation::Fingerprinting => {
                tracing::info!("no fingerprint is kept that still holds");
                if self.terminal {
                    say("host      looking at what QEMU can do here, once; up to some seconds");
                }
            }
            Observation::Compiling { policy } => compiling(self.terminal, policy),
            Observation::Understood { task, secrets: _ } => self.understood(task),
            Observation::Decided { decision, .. } => {
                self.note(|report| report.decision = Some(decision.clone()));
            }
            Observation::Allowed(decision) => self.allowed(decision),
            Observation::Verified(image) => {
                self.verified(image);
                self.note(|report| report.image = Some(image.clone()));
            }
            Observation::Launched { spec, console } => {
                let mut told = self.told();
                told.spec = Some(spec.clone());
                told.console = Some(console.to_owned());
            }
            Observation::Status(status) => self.status(status),
            Observation::Stopping(step) => self.say("stopping", step),
            Observation::Silent { vm, killed } if !self.quiet => say(&silence(vm, killed)),
            Observation::Turn | Observation::Admitted { .. } | Observation::Silent { .. } => {}
        }
    }
}

/// The message about a supervisor that does not answer.
pub(super) fn silence(vm: &str, killed: bool) -> String {
    let seconds = qhost_engine::limits::CONTROL_SILENT.as_secs();
    let done = if killed {
        "SIGKILL was sent to QEMU, and SIGTERM to it".to_owned()
    } else {
        format!("SIGTERM was sent to it; if that does not help: qhost kill {vm}")
    };
    format!(
        "waiting   {vm}: its supervisor has not answered for {seconds} s; {done}. Ctrl-C ends this wait, and takes nothing back"
    )
}

impl Progress for Shown {
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
            Step::Copying => "copying",
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

/// Lays rows out in columns, the first row in bold.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    terminal::table(rows, terminal::width(stdout()))
}

/// Cuts a line where the terminal ends.
pub(super) fn one_line(text: &str) -> String {
    terminal::width(stdout()).map_or_else(|| text.to_owned(), |width| terminal::cut(text, width))
}

/// Colours a word green.
pub(super) fn good(word: &str) -> String {
    let style = anstyle::AnsiColor::Green.on_default().bold();
    format!("{style}{word}{style:#}")
}

/// Colours a word yellow.
pub(super) fn warning(word: &str) -> String {
    let style = anstyle::AnsiColor::Yellow.on_default();
    format!("{style}{word}{style:#}")
}

/// Colours a word red.
pub(super) fn bad(word: &str) -> String {
    let style = anstyle::AnsiColor::Red.on_default().bold();
    format!("{style}{word}{style:#}")
}
