//! Turns Nomad's job specification in HCL into the JSON that an agent makes of it, so that one reader and one set of rules serve both.
//! A part that needs an agent or other files is a problem with its line.

mod lines;
mod shapes;
mod blocks;
mod names;
mod values;
mod references;
mod functions;
#[cfg(test)]
mod tests;

use hcl::edit::{parser::parse_body, structure::Block};
use serde_json::{Map, Value};

use super::error::{JobError, Problem, Problems};
use crate::limits;

pub(super) use lines::Lines;

use blocks::Blocks;
use names::Names;

/// The content of a job specification.
pub(super) struct Jobspec {
    /// The job as JSON, as an agent has it.
    pub(super) job: Value,
    /// The problems of the parts that could not be turned into JSON.
    pub(super) problems: Problems,
    /// The lines at which the parts stand.
    pub(super) lines: Lines,
}

/// The hint for parts that Nomad's command can work out without an agent.
const PRINT: &str = "have it worked out by: nomad job run -output FILE > job.json";

/// Reads a job specification of at most [`limits::JOBSPEC_BYTES`].
pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Jobspec, JobError> {
    let not_hcl = |line, column, reason: String| {
        let file = file.into();
        Err(JobError::NotHcl { file, line, column, reason })
    };
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            return not_hcl(line, 1, "not UTF-8".into());
        }
    };
    let lines = Lines::of(text);
    if let Some(at) = too_many_fors(text) {
        let at = lines.position(at);
        let reason =
            format!("more than {} words that begin a for expression", limits::JOBSPEC_FORS);
        return not_hcl(at.line, at.column, reason);
    }
    let body = match parse_body(text) {
        Ok(body) => body,
        Err(error) => {
            let at = error.location();
            return not_hcl(at.line(), at.column(), error.message().into());
        }
    };
    let problems = Problems::default();
    let job = {
        let names = Names::read(&body, text, &lines, &problems);
        let blocks = Blocks { names: &names, lines: &lines, problems: &problems };
        let jobs: Vec<&Block> = body.get_blocks("job").collect();
        match jobs.as_slice() {
            [job] => blocks.job(job),
            jobs => {
                let found = if jobs.is_empty() { "no job" } else { "several jobs" };
                problems.push(Problem::new("", found, "one block: job \"NAME\" { … }"));
                Value::Object(Map::new())
            }
        }
    };
    Ok(Jobspec { job, problems, lines })
}

/// The place of one `for` expression too many, counting each word that can begin one, also in comments and texts.
fn too_many_fors(text: &str) -> Option<usize> {
    let begins = |at: &usize| {
        let (before, after) = text.split_at(*at);
        let before = before.trim_end();
        // A comment may stand between the bracket and the word.
        let line = before.rsplit('\n').next().unwrap_or_default();
        let is_first =
            before.ends_with(['[', '{', '/']) || line.contains('#') || line.contains("//");
        is_first
            && after.get(3..).is_some_and(|after| after.starts_with([' ', '\t', '#', '/', '\n']))
    };
    let mut fors = text.match_indices("for").map(|(at, _)| at).filter(begins);
    fors.nth(limits::JOBSPEC_FORS)
}
