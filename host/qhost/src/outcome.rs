//! The end of a command: one report for people, programs and the shell. Does no I/O.

use std::fmt;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use qhost_cage::Cage;
use qhost_image::VerifiedImage;
use qhost_model::{
    job::{Problem, Task},
    launch::{Change, Forward, Violation},
    printable,
};
use qhost_policy::{Answer, Conflict, Decision, Mode, OtherPlace, PolicyRecord, Writer};
use qhost_vm::{End, State, VmRecord};

use crate::{exit::Exit, limits};

/// Everything that is known at the end of a run, or of a plan.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How the command ended.
    pub outcome: Exit,
    /// The outcome as a number.
    pub exit_code: u8,
    /// The task, once the job was understood, without its secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// The decision, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Networks that images may come from for this command alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_allow: Vec<IpNet>,
    /// The image, once it was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<VerifiedImage>,
    /// The VM, if one ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmReport>,
    /// The error, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// A VM that ran.
#[derive(Debug, Serialize)]
pub struct VmReport {
    /// The VM's id.
    pub id: String,
    /// The VM's folder.
    pub folder: String,
    /// The log of the VM's console.
    pub console_log: String,
    /// The VM's forwarded ports.
    pub ports: Vec<Forward>,
    /// The VM's state.
    pub state: State,
    /// How the VM ended; absent if it goes on, or its end is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// When QEMU was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When QEMU had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The mechanisms that confine QEMU.
    pub cage: String,
    /// The end of the VM's console, if the VM failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub console_tail: String,
    /// The host that the VM ran on, if it is another one; programs know which host they asked.
    #[serde(skip)]
    host: Option<String>,
}

/// An error with its causes.
#[derive(Debug, Serialize)]
pub struct ErrorReport {
    /// What could not be done.
    pub message: String,
    /// The causes, each under the one before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about the error, if the message does not say that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The part of the host that refused the order: a policy, a quota, the ports, the image's checksum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<String>,
    /// The problems of a job file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl ErrorReport {
    /// Reports an error with all its sources.
    pub fn new(error: &dyn std::error::Error, problems: &[Problem]) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self {
            message: error.to_string(),
            causes: causes.map(ToString::to_string).collect(),
            hint: None,
            refused_by: None,
            problems: problems.to_vec(),
        }
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = printable::lines(&self.message, limits::SHOWN_ERROR_CHARS).to_string();
        let (first, more) = message.split_once('\n').unwrap_or((&message, ""));
        write!(f, "{RED}error{PLAIN}: {first}")?;
        for line in more.lines() {
            // The text of another host's service has no line that looks like one of qhost's own.
            let indent = if line.starts_with(' ') { "" } else { "  " };
            write!(f, "\n{indent}{line}")?;
        }
        for cause in &self.causes {
            let cause = printable::line(cause, limits::SHOWN_CAUSE_CHARS);
            write!(f, "\n  because: {cause}")?;
        }
        match &self.hint {
            Some(hint) => {
                write!(f, "\n  hint: {}", printable::line(hint, limits::SHOWN_CAUSE_CHARS))
            }
            None => Ok(()),
        }
    }
}

/// The option and the variable that let images come from more networks than the configuration does.
pub const IMAGE_ALLOW: &str = "by --image-allow or QHOST_IMAGE_ALLOW";

const RED: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
const GREEN: anstyle::Style = anstyle::AnsiColor::Green.on_default().bold();
const YELLOW: anstyle::Style = anstyle::AnsiColor::Yellow.on_default();
const DIM: anstyle::Style = anstyle::Style::new().dimmed();
const PLAIN: anstyle::Reset = anstyle::Reset;

/// The summary of a run, for people. The run's error goes to standard error, and is not in it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(decision) = &self.decision {
            write!(f, "{}", Shown(decision))?;
        }
        if self.decision.is_some() && !self.image_allow.is_empty() {
            let networks: Vec<_> = self.image_allow.iter().map(IpNet::to_string).collect();
            let networks = networks.join(", ");
            writeln!(f, "images    {YELLOW}also from {networks}{PLAIN}, {IMAGE_ALLOW}")?;
        }
        if let (Some(vm), Some(task)) = (&self.vm, &self.task) {
            return vm.summary(f, &printable::line(&task.name, 40).to_string());
        }
        match (self.outcome, &self.task, &self.decision) {
            (Exit::Denied, Some(task), Some(decision)) => {
                let name = printable::line(&task.name, 40);
                let by = self.error.as_ref().and_then(|error| error.refused_by.clone());
                let by = by.unwrap_or_else(|| decision.refused_by().join(", "));
                writeln!(f, "{RED}denied{PLAIN}    {name}: refused by {by}")
            }
            (Exit::CannotRun, Some(task), Some(_)) if self.error.is_none() => {
                let name = printable::line(&task.name, 40);
                writeln!(f, "{RED}cannot{PLAIN}    {name}: allowed, but this host cannot run it")
            }
            (_, _, _) => Ok(()),
        }
    }
}

impl VmReport {
    /// Reports what is known of a VM.
    pub fn new(vm: &VmRecord, console_tail: String) -> Self {
        let ended = vm.status.ended.clone();
        let takes = vm.takes.get();
        let cage = takes.and_then(|takes| takes.cage.as_ref());
        Self {
            id: vm.id.clone(),
            folder: vm.folder.display().to_string(),
            console_log: vm.console_log().display().to_string(),
            ports: takes.map(|takes| takes.forwards.clone()).unwrap_or_default(),
            state: vm.status.state(),
            started_at: vm.status.started_at,
            ended_at: ended.as_ref().map(|ended| ended.ended_at),
            end: ended.map(|ended| ended.end),
            cage: cage.map(Cage::summary).unwrap_or_default(),
            console_tail,
            host: None,
        }
    }

    /// Marks the report as about a VM of another host.
    pub fn on(self, host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..self }
    }

    fn summary(&self, f: &mut fmt::Formatter<'_>, task: &str) -> fmt::Result {
        let id = &self.id;
        match (&self.end, self.state.is_final()) {
            (Some(end), _) => {
                let style = match end {
                    End::ShutDown => GREEN,
                    End::Stopped { .. } => YELLOW,
                    End::Panicked
                    | End::OutOfMemory
                    | End::Unseen
                    | End::Failed { .. }
                    | End::NotStarted { .. } => RED,
                };
                let ran = self.started_at.zip(self.ended_at);
                let ran = ran.map_or(0.0, |(from, to)| to.duration_since(from).as_secs_f64());
                // QEMU's own text may have several lines.
                let end = end.to_string();
                let (end, more) = end.split_once('\n').unwrap_or((&end, ""));
                let end = printable::line(end, qhost_vm::limits::QEMU_STDERR_BYTES);
                writeln!(
                    f,
                    "{style}ended{PLAIN}     {task}: {end} {DIM}(ran {ran:.1} s, VM {id}){PLAIN}"
                )?;
                quote(f, more)?;
            }
            (None, true) => {
                writeln!(f, "{RED}lost{PLAIN}      {task}: how VM {id} ended is not known")?
            }
            (None, false) => {
                let state = self.state.name();
                writeln!(f, "{GREEN}{state:<9}{PLAIN} {task} as VM {id}")?;
                for forward in &self.ports {
                    writeln!(f, "port      {forward}")?;
                }
                writeln!(f, "cage      {}", self.cage)?;
            }
        }
        if !self.console_tail.is_empty() {
            writeln!(f, "{DIM}the console's last lines:{PLAIN}")?;
            quote(f, &self.console_tail)?;
        }
        match &self.host {
            Some(host) => writeln!(f, "console   {} of {host}", self.console_log),
            None => writeln!(f, "console   {}", self.console_log),
        }
    }
}

/// Quotes lines of QEMU or a guest, so that they do not look like qhost's own.
fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for line in text.lines() {
        writeln!(f, "          | {}", printable::line(line, qhost_vm::limits::QEMU_STDERR_BYTES))?;
    }
    Ok(())
}

/// A part of a decision as people read it.
pub struct Shown<'a, T>(pub &'a T);

impl fmt::Display for Shown<'_, Decision> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(decision) = self;
        if let Some(place) = &decision.place {
            writeln!(f, "about     {}", qhost_image::shown(place))?;
        }
        if decision.policies.is_empty() {
            writeln!(f, "policy    {YELLOW}none{PLAIN}: the host's own rules decided alone")?;
        }
        for policy in &decision.policies {
            write!(f, "{}", Shown(policy))?;
        }
        conflicts(f, &decision.conflicts)?;
        let (style, answer) = word(decision.host.answer);
        writeln!(f, "host      {style}{answer}{PLAIN} by the host's own rules")?;
        violations(f, &decision.host.violations)?;
        warnings(f, &decision.launch.warnings)?;
        decision.places.iter().try_for_each(|other| write!(f, "{}", Shown(other)))
    }
}

/// Shows the notable answers of policies about this place alone; nothing if there are none.
impl fmt::Display for Shown<'_, OtherPlace> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(other) = self;
        let notable = |policy: &&PolicyRecord| {
            let watched = policy.mode == Mode::Monitor && !policy.changes.is_empty();
            watched || !policy.violations.is_empty() || policy.fault.is_some()
        };
        let policies: Vec<_> = other.policies.iter().filter(notable).collect();
        if policies.is_empty() && other.conflicts.is_empty() && other.warnings.is_empty() {
            return Ok(());
        }
        writeln!(f, "place     {}", qhost_image::shown(&other.place))?;
        policies.iter().try_for_each(|policy| write!(f, "{}", Shown(*policy)))?;
        conflicts(f, &other.conflicts)?;
        warnings(f, &other.warnings)
    }
}

fn conflicts(f: &mut fmt::Formatter<'_>, conflicts: &[Conflict]) -> fmt::Result {
    for Conflict { field, writers } in conflicts {
        let one = |Writer { policy, to }: &Writer| format!("{} wrote {}", said(policy), shown(to));
        let writers: Vec<_> = writers.iter().map(one).collect();
        let (field, writers) = (said(field), writers.join(", then "));
        writeln!(f, "          {YELLOW}conflict{PLAIN} {field}: {writers}")?;
    }
    Ok(())
}

fn warnings(f: &mut fmt::Formatter<'_>, warnings: &[String]) -> fmt::Result {
    let mut warnings = warnings.iter();
    warnings
        .try_for_each(|warning| writeln!(f, "          {YELLOW}warning{PLAIN} {}", said(warning)))
}

impl fmt::Display for Shown<'_, PolicyRecord> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(policy) = self;
        let (style, answer) = word(policy.answer);
        let digest: String = policy.sha256.to_string().chars().take(12).collect();
        let [by, changed] = match policy.mode {
            Mode::Enforce => ["by", "changed"],
            Mode::Monitor => ["in monitor mode by", "would change"],
        };
        let (name, version) = (said(&policy.name), said(&policy.version));
        writeln!(
            f,
            "policy    {style}{answer}{PLAIN} {by} {name} {version} {DIM}sha256:{digest}{PLAIN}"
        )?;
        for Change { field, from, to } in &policy.changes {
            let (field, from, to) = (said(field), shown(from), shown(to));
            writeln!(f, "          {changed} {field}: {from} → {to}")?;
        }
        if let (Mode::Monitor, Some(fault)) = (policy.mode, &policy.fault) {
            writeln!(f, "          {RED}failed{PLAIN} {}", said(fault))?;
        }
        violations(f, &policy.violations)?;
        for line in &policy.log {
            let (level, message) = (line.level, said(&line.message));
            writeln!(f, "          {DIM}{level} {message}{PLAIN}")?;
        }
        match policy.log_dropped {
            0 => Ok(()),
            dropped => writeln!(
                f,
                "          {DIM}… and {dropped} more log lines, beyond the limit{PLAIN}"
            ),
        }
    }
}

/// Shows a policy's text, or another host's service's text about a policy, on one line.
fn said(text: &str) -> printable::Printable<'_> {
    printable::line(text, qhost_policy::limits::POLICY_TEXT_BYTES)
}

fn shown(value: &serde_json::Value) -> String {
    printable::line(&value.to_string(), qhost_policy::limits::POLICY_TEXT_BYTES).to_string()
}

fn word(answer: Answer) -> (anstyle::Style, &'static str) {
    match answer {
        Answer::Allowed => (GREEN, "allowed"),
        Answer::Refused => (RED, "refused"),
        Answer::Failed => (RED, "failed"),
        Answer::NotAsked => (YELLOW, "not decided"),
    }
}

fn violations(f: &mut fmt::Formatter<'_>, violations: &[Violation]) -> fmt::Result {
    for Violation { code, field, message, hint } in violations {
        let (code, field, message) = (said(code), said(field), said(message));
        writeln!(f, "          {RED}{code}{PLAIN} {field}: {message}")?;
        if let Some(hint) = hint {
            writeln!(f, "          hint: {}", said(hint))?;
        }
    }
    Ok(())
}
