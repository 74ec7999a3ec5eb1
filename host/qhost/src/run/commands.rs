//! The commands that are not a run.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::{CompleteEnv, Shell, env::Shells};
use serde_json::json;

use qhost_engine::{
    config::ConfigError,
    doctor::{self, Finding, Health},
    facts,
    fingerprint::Fingerprint,
};
use qhost_model::{host_facts::Resources, job, printable};
use qhost_policy::{About, Allowance, Facts, Inspection, Product};
use qhost_sys::spawn;

use super::{RunError, engine, loader, show, state_dir};
use crate::{
    cli::{Cli, InspectArgs, PolicyCommand, Shared},
    exit::Exit,
};

/// Becomes QEMU, or says why not in the output that QEMU's own messages go to.
pub(super) fn launch(parent: i32, command: &[OsString]) -> ExitCode {
    use std::io::Write as _;
    let Some((program, args)) = command.split_first() else {
        return ExitCode::from(Exit::Usage.code());
    };
    let error = spawn::exec(parent, program, args);
    let said = writeln!(std::io::stderr(), "cannot run {}: {error}", program.display());
    // A shell answers 127 for a command that is not found; 126 tells that not even the reason could be written.
    ExitCode::from(if said.is_ok() { 127 } else { 126 })
}

/// Compiles a policy, or says why not.
pub(super) fn compile(product: Product, memory: u64, seconds: u64) -> ExitCode {
    use std::io::Write as _;
    match qhost_policy::compile_child(product, memory, seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let said = writeln!(std::io::stderr(), "{reason}");
            ExitCode::from(if said.is_ok() { 1 } else { 2 })
        }
    }
}

pub(super) async fn fingerprint(shared: &Shared) -> Exit {
    match take_fingerprint(shared).await {
        Ok((fingerprint, resources)) if shared.json => {
            let attributes: serde_json::Map<_, _> = fingerprint
                .attributes()
                .map(|(key, value)| (key.to_owned(), value.into()))
                .into_iter()
                .collect();
            show::print(&show::json(&json!({
                "attributes": attributes,
                "qemu": {"path": fingerprint.path(), "version": fingerprint.version},
                "emulators": fingerprint.emulators(),
                "accelerators": fingerprint.accelerators,
                "machine_types": fingerprint.machine_types,
                "cpus": resources.cpus,
                "memory_mib": resources.memory_mib,
            })));
            Exit::Done
        }
        Ok((fingerprint, resources)) => {
            show::print(&describe(&fingerprint, resources));
            Exit::Done
        }
        Err(error) => show::failure(shared, &error),
    }
}

/// Finds what this host lacks. A configuration that cannot be read is an error of its own.
pub(super) async fn doctor(shared: &Shared, agent: Option<&Path>) -> Exit {
    let mut findings = match engine(shared) {
        Ok(engine) => {
            let fingerprint = Fingerprint::take().await;
            doctor::examine(engine.state(), &engine.config(), fingerprint.as_ref()).await
        }
        Err(RunError::Config(error @ ConfigError::Untrusted { .. })) => {
            vec![doctor::untrusted(&error)]
        }
        Err(RunError::State(error)) => vec![doctor::untrusted(&error)],
        Err(error) => return show::failure(shared, &error),
    };
    findings.extend(agent.map(qhost_nomad::examine).into_iter().flatten());
    let bad = findings.iter().any(|finding| finding.health == Health::Bad);
    let exit = if bad { Exit::CannotRun } else { Exit::Done };
    if shared.json {
        show::print(&show::json(&json!({"outcome": exit, "findings": findings})));
        return exit;
    }
    for Finding { about, health, found, fix } in &findings {
        let word = match health {
            Health::Good => show::good("good"),
            Health::Lacking => show::warning("lack"),
            Health::Bad => show::bad("bad "),
        };
        let found = printable::line(found, 300);
        let fix = fix.as_ref().map(|fix| format!("; {fix}")).unwrap_or_default();
        show::tell(&format!("{word}  {about:<16} {found}{fix}\n"));
    }
    exit
}

/// Takes a new fingerprint, since the command asks for one, and keeps it for the runs that follow.
async fn take_fingerprint(shared: &Shared) -> Result<(Fingerprint, Resources), RunError> {
    let state = state_dir(shared)?;
    let fingerprint = Fingerprint::take().await?;
    fingerprint.keep(&state.fingerprint());
    let (resources, _) = facts::resources()?;
    Ok((fingerprint, resources))
}

fn describe(fingerprint: &Fingerprint, resources: Resources) -> String {
    let mut text = String::new();
    for (key, value) in fingerprint.attributes() {
        text += &format!("{key:<26} {value}\n");
    }
    text += &format!("{:<26} {}\n", "emulator", fingerprint.path().display());
    for accelerator in &fingerprint.accelerators {
        let works = if accelerator.works { "works" } else { "does not work" };
        text += &format!(
            "{:<26} {works}: {}\n",
            format!("accelerator {}", accelerator.name),
            accelerator.evidence
        );
    }
    text += &format!("{:<26} {}\n", "cpus", resources.cpus);
    text += &format!("{:<26} {} MiB\n", "memory", resources.memory_mib);
    text + &format!("{:<26} {}\n", "machine types", fingerprint.machine_types.join(" "))
}

pub(super) fn job_schema() -> Exit {
    show::print(&format!("{:#}\n", job::schema()));
    Exit::Done
}

pub(super) fn policy(shared: &Shared, command: &PolicyCommand) -> Exit {
    match command {
        PolicyCommand::New(args) => super::author::new(shared, args),
        PolicyCommand::Build(args) => super::author::build(shared, args),
        PolicyCommand::Inspect(args) => inspect(shared, args),
        PolicyCommand::Test(args) => super::trial::test(shared, args),
        PolicyCommand::Lint(args) => super::trial::lint(shared, args),
        PolicyCommand::Bench(args) => super::trial::bench(shared, args),
        PolicyCommand::Keygen(args) => super::trust::keygen(shared, args),
        PolicyCommand::Sign(args) => super::trust::sign(shared, args),
        PolicyCommand::Verify(args) => super::trust::verify(shared, args),
        PolicyCommand::Lock(args) => super::trust::lock(shared, args),
        PolicyCommand::Push(args) => super::wait(shared, super::trust::push(shared, args)),
        PolicyCommand::Pull(args) => super::wait(shared, super::trust::pull(shared, args)),
        PolicyCommand::Replay(args) => super::replay::replay(shared, args),
        PolicyCommand::Audit(of) => super::wait(shared, super::audit::audit(shared, of)),
    }
}

fn inspect(shared: &Shared, InspectArgs { policy }: &InspectArgs) -> Exit {
    let inspection = || -> Result<Inspection, RunError> {
        let loader = loader(shared)?;
        // Nothing is decided here, so that the policy may import any part of WASI.
        let allowance = Allowance { wasi: true, ..Allowance::default() };
        Ok(loader.inspect(&policy.name, &policy.path, &allowance)?)
    };
    match inspection() {
        Ok(inspection) if shared.json => {
            show::print(&show::json(&inspection));
            Exit::Done
        }
        Ok(inspection) => {
            show::tell(&inspected(&inspection));
            Exit::Done
        }
        Err(error) => show::failure(shared, &error),
    }
}

fn inspected(inspection: &Inspection) -> String {
    let Inspection { facts, sha256, world } = inspection;
    let Facts { about, bytes, kind, imports, exports } = facts;
    let About { name, version, description, settings_schema, tables } = about;
    let tables = if tables.is_empty() { "none".into() } else { tables.join(", ") };
    let schema = match settings_schema {
        Some(schema) => printable::lines(&format!("{schema:#}"), usize::MAX).to_string(),
        None => "none".into(),
    };
    format!(
        "name      {name} {version}\n          {description}\nfile      {kind}, {bytes} bytes, sha256:{sha256}\n\
         world     {world}\nimports   {}\nexports   {}\ntables    {tables}\nsettings  {schema}\n",
        imports.join(", "),
        exports.join(", "),
    )
}

/// The variable that a shell sets when it asks for completions.
const COMPLETE: &str = "QHOST_COMPLETE";

/// Answers a shell that asks for completions; none if no shell asked.
pub(super) fn complete() -> Option<ExitCode> {
    let asked = CompleteEnv::with_factory(Cli::command).var(COMPLETE);
    let folder = std::env::current_dir().ok();
    match asked.try_complete(std::env::args_os(), folder.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        // An error would stand in the line that is being typed.
        Err(_) => Some(ExitCode::from(Exit::Usage.code())),
    }
}

pub(super) fn completions(shared: &Shared, shell: Shell) -> Exit {
    let mut script = vec![];
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string());
    let written = completer.map_or(Ok(()), |completer| {
        completer.write_registration(COMPLETE, "qhost", "qhost", "qhost", &mut script)
    });
    match written {
        Ok(()) => {
            show::print(&String::from_utf8_lossy(&script));
            Exit::Done
        }
        Err(error) => show::failure(shared, &RunError::Runtime(error)),
    }
}

pub(super) fn man_pages(shared: &Shared, folder: &Path) -> Exit {
    match clap_mangen::generate_to(Cli::command(), folder) {
        Ok(()) => Exit::Done,
        Err(error) => {
            let place = format!("cannot write man pages to {}: {error}", folder.display());
            show::failure(shared, &RunError::Usage(place))
        }
    }
}
