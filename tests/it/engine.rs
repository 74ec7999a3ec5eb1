//! The engine as a program other than the command calls it.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use qhost_engine::{Context, Engine, JobFile, Options, Order, Programs, config::Config};
use qhost_model::{digest::Sha256, kind::Kind};
use qhost_sys::state::StateDir;
use qhost_tests::{
    Done, ImageServer, Qhost, Reply,
    boot_sector::{self, Then},
    configured,
};

use crate::qhost;

/// `host/engine/examples/fleet.rs`, which Cargo builds along with the tests.
fn fleet() -> std::path::PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_qhost-under-test")).with_file_name("examples/fleet");
    assert!(built.exists(), "cargo build --workspace --examples makes {}", built.display());
    built
}

#[test]
fn twenty_starts_in_one_process_half_of_them_given_up() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/fleet", boot_sector::disk("one of many", Then::Hang));
    let job = qhost.job(&image, json!({"port_map": {"http": 80}}));
    let job = qhost.file("fleet.json", fs::read_to_string(job).unwrap());
    let disk = boot_sector::disk("slow", Then::Hang);
    let sha256 = Sha256::of(&disk).to_string();
    server.set("/slow", Reply::Slow(disk.into(), Duration::from_millis(200)));
    let slow = qhost.job(&(server.url("/slow"), sha256), json!({}));
    let tenants: String = (0..20).map(|number| format!("[tenants.tenant-{number}]\n")).collect();
    let images = "[image.network]\nallow = [\"127.0.0.0/8\"]\n";
    qhost.config(&format!("{images}[tenants.waiting]\n{tenants}"));
    let config = qhost.folder().join("qhost.toml");
    let mut command = qhost_tests::command(fleet());
    command.arg(qhost.program()).arg(qhost.state()).arg(config).args([&job, &slow]);
    let done = Done::of(command.output().unwrap()).exits(0);
    done.says("10 started, 10 given up").says("0 left");
    qhost.assert_nothing_left();
}

/// A configuration whose one policy writes what its settings say.
fn config(qhost: &Qhost, module: &str, settings: Value) -> Config {
    config_with(qhost, module, settings, "")
}

fn config_with(qhost: &Qhost, module: &str, settings: Value, more: &str) -> Config {
    let chain = format!("[host]\nchain = [\"one\"]\n{more}");
    qhost.config(&(configured("one", module, settings, "") + &chain));
    Config::load(Some(&qhost.folder().join("qhost.toml"))).unwrap()
}

/// A decision goes by the configuration at the time of its order. A configuration whose policies do not load changes nothing.
#[tokio::test]
async fn another_configuration_is_gone_over_to_whole_or_not_at_all() {
    let qhost = qhost();
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let engine = Engine::open(Options {
        config: config(&qhost, "probe-sets", json!({"memory_mib": 48})),
        state: StateDir::new(&qhost.state()).unwrap(),
        programs: Some(Programs {
            qhost: qhost.program().to_owned(),
            supervisor: format!("{}-supervisor", qhost.program().display()).into(),
        }),
    })
    .unwrap();
    let plan = async || {
        let file = JobFile { name: job.clone(), bytes: fs::read(&job).unwrap() };
        let plan = engine.plan(Order::new(file, "default"), &Context::default()).await;
        let memory = |argv: Vec<String>| argv.iter().find(|arg| arg.starts_with("size=")).cloned();
        plan.map(|plan| memory(plan.argv)).map_err(|error| error.kind())
    };
    assert_eq!(plan().await, Ok(Some("size=48M".into())));
    engine.reload(config(&qhost, "probe-sets", json!({"memory_mib": 64}))).await.unwrap();
    assert_eq!(plan().await, Ok(Some("size=64M".into())));
    let wrong_settings = config(&qhost, "probe-sets", json!({"memory": 16}));
    let error = engine.reload(wrong_settings).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert_eq!(plan().await, Ok(Some("size=64M".into())), "as before");
    // A policy that is new in a configuration is compiled within that configuration's bounds.
    let little = config_with(&qhost, "limits", json!({}), "[compile]\nmemory_mib = 1\n");
    let error = engine.reload(little).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PolicyFailed, "{error}");
    engine.reload(config(&qhost, "probe-sets", json!({"refuse": "no"}))).await.unwrap();
    assert_eq!(plan().await, Err(Kind::Denied));
}
