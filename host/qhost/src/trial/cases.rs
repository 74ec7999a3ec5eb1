//! Files of cases: questions and expectations, in TOML that a person can read and write.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use qhost_model::{
    host_facts::HostFacts,
    job::{self, DEFAULT_TENANT},
    launch::PortRange,
};
use qhost_policy::{Actor, Door, Occasion, Operation, OperationRecord, Request, Table, Tables};

use super::{Expect, TrialError, example, unreadable};

/// A file of cases.
#[derive(Debug)]
pub struct CaseFile {
    /// The file.
    pub path: PathBuf,
    /// The file's text.
    pub(super) text: String,
    /// The file's cases.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// The case's name, which says what it shows.
    pub name: String,
    /// The line of its file where the case begins, from 1.
    pub line: usize,
    /// The policy's settings.
    pub settings: Value,
    /// Whether the policy is granted WASI.
    pub wasi: bool,
    /// Whether the policy is granted the texts of a seed.
    pub seed_text: bool,
    /// The operator's tables.
    pub tables: Tables,
    /// The request.
    pub request: Request,
    /// The operation on a VM of the request's task that is asked about; absent if the launch is.
    pub operation: Option<OperationRecord>,
    /// The expectations.
    pub expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Settings of every case that has none of its own.
    settings: Option<Map<String, Value>>,
    /// The settings of such cases in a JSON file, relative to the file's folder.
    settings_file: Option<PathBuf>,
    /// Whether the policy is granted WASI.
    #[serde(default)]
    wasi: bool,
    /// The operator's tables, each an object of values by key.
    #[serde(default)]
    tables: BTreeMap<String, Map<String, Value>>,
    #[serde(default)]
    case: Vec<Spanned<Given>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    name: String,
    /// Keys that are laid over the example job.
    #[serde(default)]
    job: Map<String, Value>,
    /// A job file instead of the example, relative to the file's folder.
    job_file: Option<PathBuf>,
    /// Keys that are laid over the facts of the example host.
    #[serde(default)]
    host: Map<String, Value>,
    /// The host ports that tasks may use.
    allowed_ports: Option<Vec<PortRange>>,
    tenant: Option<String>,
    settings: Option<Map<String, Value>>,
    /// The case's settings in a JSON file, relative to the file's folder.
    settings_file: Option<PathBuf>,
    /// The time of the decision: the request's `time`, and the clock of a policy with WASI.
    time: Option<Timestamp>,
    /// The occasion of the request: a launch, unless it says otherwise, or there is an operation.
    occasion: Option<Occasion>,
    /// An operation on a VM of the job, which is asked about instead of the launch.
    operation: Option<GivenOperation>,
    /// Whether the policy is granted the texts of a seed.
    #[serde(default)]
    seed_text: bool,
    #[serde(default)]
    expect: Expect,
}

/// An operation, and its actor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenOperation {
    /// The operation in the contract's form; `{ exec = ["id"] }`.
    #[serde(rename = "do")]
    operation: Operation,
    /// The name of the actor.
    actor: Option<String>,
    /// The tenant that the actor belongs to; an operator has none.
    tenant: Option<String>,
}

impl GivenOperation {
    fn record(&self) -> OperationRecord {
        let name = self.actor.clone().unwrap_or_else(|| "uid 1000".into());
        OperationRecord {
            vm: "example-Abc123".into(),
            since: Some(example::time()),
            operation: self.operation.clone(),
            actor: Actor { name, tenant: self.tenant.clone(), door: Door::Cli },
        }
    }
}

impl CaseFile {
    /// Reads a file of cases.
    pub fn read(path: &Path) -> Result<Self, TrialError> {
        let text = fs::read_to_string(path).map_err(unreadable(path))?;
        let wrong =
            |place: String, reason: String| TrialError::Case { path: path.into(), place, reason };
        let file: File = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line(&text, span.start));
            wrong(line.to_string(), error.message().into())
        })?;
        let mut cases = vec![];
        for given in &file.case {
            let line = line(&text, given.span().start);
            let case = given.get_ref().read(&file, line, path);
            cases.push(case.map_err(|reason| wrong(line.to_string(), reason))?);
        }
        Ok(Self { path: path.into(), text, cases })
    }
}

fn line(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

impl Given {
    fn read(&self, file: &File, line: usize, path: &Path) -> Result<Case, String> {
        let name = &self.name;
        let settings = settings(path, self.settings.as_ref(), self.settings_file.as_deref());
        let settings = settings.map_err(|reason| format!("case {name:?}: {reason}"))?;
        let settings = match settings {
            Some(settings) => settings,
            None => settings_of(path, file)?,
        };
        if self.occasion == Some(Occasion::Operation) && self.operation.is_none() {
            return Err(format!(
                "case {name:?}: occasion is operation, but the case has no operation; add one, as operation = {{ do = \"stop\" }}, or leave occasion out"
            ));
        }
        let request = self.request(path).map_err(|reason| format!("case {name:?}: {reason}"))?;
        Ok(Case {
            name: name.clone(),
            line,
            settings,
            wasi: file.wasi,
            seed_text: self.seed_text,
            tables: tables(file)?,
            request,
            operation: self.operation.as_ref().map(GivenOperation::record),
            expect: self.expect.clone(),
        })
    }

    fn request(&self, path: &Path) -> Result<Request, String> {
        let (file, bytes) = self.job(path)?;
        let tenant = self.tenant.as_deref().unwrap_or(DEFAULT_TENANT);
        let task = job::parse(&file, &bytes, tenant, None).map_err(|error| error.to_string())?;
        let mut host = example::host();
        example::lay_over(&mut host, &Value::Object(self.host.clone()), true)
            .map_err(|key| format!("host.{key} is no fact of a host"))?;
        let host: HostFacts =
            serde_json::from_value(host).map_err(|error| format!("host: {error}"))?;
        let ports = self.allowed_ports.clone().unwrap_or_else(|| vec![PortRange::UNPRIVILEGED]);
        let rules = example::rules(ports, &task.args, &task.asked.machine);
        Ok(Request {
            task,
            host,
            rules,
            time: self.time.unwrap_or_else(example::time),
            occasion: match (self.occasion, &self.operation) {
                (Some(occasion), _) => occasion,
                (None, Some(_)) => Occasion::Operation,
                (None, None) => Occasion::Launch,
            },
        })
    }

    /// The job's name for errors, and its text.
    fn job(&self, path: &Path) -> Result<(String, Vec<u8>), String> {
        let Some(file) = &self.job_file else {
            let mut job = example::job();
            example::lay_over(&mut job, &Value::Object(self.job.clone()), false)
                .map_err(|key| format!("job.{key}"))?;
            return Ok(("job".into(), job.to_string().into_bytes()));
        };
        if !self.job.is_empty() {
            return Err("expected job or job_file, found both".into());
        }
        let file = path.parent().unwrap_or(Path::new("")).join(file);
        let unreadable = |error| format!("cannot read {}: {error}", file.display());
        let size = fs::metadata(&file).map_err(unreadable)?.len();
        if size > qhost_model::limits::JOB_FILE_BYTES {
            return Err(format!("{} has {size} bytes, more than a job may have", file.display()));
        }
        Ok((file.display().to_string(), fs::read(&file).map_err(unreadable)?))
    }
}

fn tables(file: &File) -> Result<Tables, String> {
    let table = |(name, entries): (&String, &Map<String, Value>)| {
        let json = Value::Object(entries.clone()).to_string();
        let table = Table::read(json.as_bytes());
        table
            .map(|table| (name.clone(), Arc::new(table)))
            .map_err(|error| format!("tables.{name}: {error}"))
    };
    file.tables.iter().map(table).collect()
}

/// Reads settings that are written out, or are in a file; none if there are neither.
fn settings(
    cases: &Path,
    here: Option<&Map<String, Value>>,
    file: Option<&Path>,
) -> Result<Option<Value>, String> {
    match (here, file) {
        (Some(_), Some(_)) => Err("expected settings or settings_file, found both".into()),
        (here, None) => Ok(here.map(|settings| Value::Object(settings.clone()))),
        (None, Some(file)) => {
            let file = cases.parent().unwrap_or(Path::new("")).join(file);
            let text = fs::read_to_string(&file);
            let text = text.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let settings = qhost_policy::settings(&text).and_then(|settings| {
                serde_json::from_str(&settings).map_err(|error| error.to_string())
            });
            settings.map(Some).map_err(|reason| format!("{}: {reason}", file.display()))
        }
    }
}

/// The settings of all cases of a file that have none of their own.
fn settings_of(cases: &Path, file: &File) -> Result<Value, String> {
    let settings = settings(cases, file.settings.as_ref(), file.settings_file.as_deref())?;
    Ok(settings.unwrap_or_else(|| Value::Object(Map::new())))
}

impl Case {
    /// The case of the plain example.
    pub(super) fn example() -> Result<Self, TrialError> {
        let given = Given {
            name: "the example".into(),
            job: Map::new(),
            job_file: None,
            host: Map::new(),
            allowed_ports: None,
            tenant: None,
            settings: None,
            settings_file: None,
            time: None,
            occasion: None,
            operation: None,
            seed_text: false,
            expect: Expect::default(),
        };
        let file = File {
            settings: None,
            settings_file: None,
            wasi: false,
            tables: BTreeMap::new(),
            case: vec![],
        };
        let wrong = |reason| TrialError::Case { path: "example".into(), place: "1".into(), reason };
        given.read(&file, 1, Path::new("")).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_case() {
        assert_eq!(Case::example().unwrap().request.task.name, "example");
    }
}
