//! Asks one policy about one job: `cargo run --package qhost-policy --example decide -- POLICY.wasm JOB.json`

use std::{env, error::Error, fs, path::PathBuf};

use qhost_model::{host_facts::HostFacts, job, launch::Rules};
use qhost_policy::{Loader, Request, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args_os().skip(1).map(PathBuf::from);
    let (Some(policy), Some(file)) = (args.next(), args.next()) else {
        return Err("usage: decide POLICY.wasm JOB.json".into());
    };
    let chain = Loader::in_process()?.chain(vec![Source::new("my-policy", policy)])?;
    let task = job::parse(&file.to_string_lossy(), &fs::read(&file)?, "a-tenant", None)?;
    let (host, rules) = (HostFacts::default(), Rules::default());
    let verdict = chain.decide(Request::now(task, host, rules));
    println!("{}", serde_json::to_string_pretty(verdict.decision())?);
    Ok(())
}
