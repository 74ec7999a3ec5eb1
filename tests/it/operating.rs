//! An operator's work on a host: finds VMs, looks at them, starts them again, drains the host.

use std::fs;

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    command, configured, succeed, wait_for,
};

use crate::{decisions::records, qhost, snapshot};

/// A job for a guest that says its name, with notes.
fn job(qhost: &Qhost, server: &ImageServer, name: &str, then: Then) -> String {
    let text = format!("I am {name}\nand that is\nall\n");
    let image = server.serve(&format!("/{name}"), boot_sector::disk(&text, then));
    let path = qhost.job(&image, json!({}));
    let mut job: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    job["name"] = name.into();
    job["meta"] = json!({"team": name, "stage": "test"});
    qhost.file(&format!("{name}.json"), job.to_string())
}

fn ids(qhost: &Qhost, filter: &[&str]) -> Vec<String> {
    let ids = qhost.run(&[&["ps", "-q"], filter].concat()).exits(0).stdout;
    ids.lines().map(str::to_owned).collect()
}

#[test]
fn names_mean_the_latest_and_lists_are_filtered() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let web = job(&qhost, &server, "web", Then::PowerOff);
    qhost.run(&["run", &web]).exits(0);
    let first = ids(&qhost, &["--all"]).remove(0);
    qhost.run(&["run", &web]).exits(0);
    let both = ids(&qhost, &["--all"]);
    let latest = both.iter().find(|id| **id != first).expect("another VM").clone();
    assert_eq!(both, [latest.clone(), first.clone()], "the latest first");
    let db = job(&qhost, &server, "db", Then::Hang);
    qhost.run(&["run", "--detach", &db]).exits(0);
    let running = ids(&qhost, &[]);

    // A name means the latest VM to look at, a VM that has not ended to end it, and a single VM to remove it.
    let inspected = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    assert_eq!(inspected["id"], *latest);
    qhost.run(&["wait", "web"]).exits(0).says(&latest);
    for command in ["stop", "kill", "pause", "resume", "stats", "console"] {
        let says = format!("the VM {latest} has ended: exited");
        qhost.run(&[command, "web"]).exits(2).says(&says);
    }
    qhost.run(&["rm", "web"]).exits(2).says("several VMs are meant by \"web\"");

    for (filter, expected) in [
        (&["--all", "--task", "web"][..], both.clone()),
        (&["--task", "web"], vec![]),
        (&["--state", "exited"], both.clone()),
        (&["--state", "running"], running.clone()),
        (&["--all", "--meta", "team=db"], running.clone()),
        (&["--all", "--meta", "team=web", "--meta", "stage=test"], both.clone()),
        (&["--all", "--meta", "team=web", "--meta", "stage=live"], vec![]),
        (&["--all", "--tenant", "other"], vec![]),
    ] {
        assert_eq!(ids(&qhost, filter), expected, "{filter:?}");
    }
    let digests = qhost.run(&["image", "ls", "-q"]).exits(0).stdout;
    assert_eq!(digests.lines().map(str::len).collect::<Vec<_>>(), [64, 64]);
    let none = qhost.run(&["image", "ls", "-q", "--tenant", "other"]).exits(0).stdout;
    assert_eq!(
        (none.as_str(), qhost.run(&["overlay", "ls", "-q"]).exits(0).stdout.as_str()),
        ("", "")
    );
    let decisions = qhost.run(&["decisions", "-q", "--task", "web"]).exits(0).stdout;
    let decision = decisions.lines().next().expect("a decision");
    qhost.run(&["decisions", decision]).exits(0).says("default");
    qhost.run(&["ps", "--state", "dead"]).exits(2).says("expected one of created, fetching");
    qhost.run(&["ps", "--meta", "team"]).exits(2).says("expected KEY=VALUE");

    let lines = |args: &[&str]| qhost.run(args).exits(0).stdout.lines().count();
    assert_eq!(lines(&["events", "--event", "exited"]), 2);
    assert_eq!(lines(&["events", "--event", "exited", "--event", "running"]), 5);
    assert_eq!(lines(&["events", "--task", "db", "--event", "running"]), 1);
    assert_eq!(lines(&["events", "--vm", &first]), lines(&["events", "--vm", &latest]));
    assert_eq!(lines(&["events", "--tail", "3"]), 3);
    let last = qhost.run(&["events", "--tail", "1"]).exits(0);
    last.says("running").says("default/db");
    let all = qhost.run(&["logs", "web"]).exits(0).stdout;
    assert!(all.contains("I am web"), "{all}");
    let tail = qhost.run(&["logs", "--tail", "2", "web"]).exits(0).stdout;
    assert!(all.ends_with(&tail) && !tail.contains("I am web"), "{tail:?} of {all:?}");
    assert!(tail.contains("all"), "{tail:?}");
}

#[test]
fn inspect_says_what_was_asked_and_decided() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let limits = configured("limits", "limits", json!({"memory_mib": 64}), "");
    qhost.config(&format!("{limits}[host]\nchain = [\"limits\"]\n"));
    let web = job(&qhost, &server, "web", Then::Hang);
    qhost.run(&["run", "--detach", &web]).exits(0);
    let json = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    assert_eq!(json["asked"]["meta"]["team"], "web");
    assert_eq!(json["decision"]["policies"][0]["name"], "limits");
    assert_eq!(json["restart"]["policy"], "never");
    assert_eq!(json["supervisor_is_current"], true);
    assert!(json["disk"]["used_bytes"].as_u64() > Some(0), "{}", json["disk"]);
    let text = qhost.run(&["inspect", "web"]).exits(0).stdout;
    for says in [
        "restart    never",
        "meta       stage=test team=web",
        "decision   policy    allowed by limits",
        "written, of",
    ] {
        assert!(text.contains(says), "{says:?} is not in\n{text}");
    }
    assert!(text.contains(&format!("           {}", server.url("/web"))), "{text}");
}

/// The current configuration counts, and a VM gets the launch that it had or is not started.
#[test]
fn an_ended_vm_is_decided_again() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let limit = |mib: u64| {
        let limits = configured("limits", "limits", json!({ "memory_mib": mib }), "");
        qhost.config(&format!("{limits}[host]\nchain = [\"limits\"]\n"));
    };
    let sets = |settings: Value| {
        let sets = configured("sets", "probe-sets", settings, "");
        qhost.config(&format!("{sets}[host]\nchain = [\"sets\"]\n"));
    };
    let web = job(&qhost, &server, "web", Then::Hang);
    limit(64);
    qhost.run(&["run", "--detach", &web]).exits(0);
    let kill = || drop(qhost.run(&["kill", "web"]).exits(0));
    kill();
    limit(16);
    let refused = qhost.run(&["restart", "web"]).exits(11);
    let refused = refused.says("refused by limits");
    refused.says("memory-limit resources.memory-mib: 32 MiB is more than the 16");
    qhost.run(&["events", "--tail", "1"]).exits(0).says("refused").says("by limits");
    qhost.run(&["decisions", "--outcome", "denied"]).exits(0).says("default/web");
    assert_eq!(ids(&qhost, &[]), [""; 0]);
    // A policy is told why it is asked.
    sets(json!({"refuse_on": "restart"}));
    qhost.run(&["restart", "web"]).exits(11).says("occasion request: restart");
    let record = records(&qhost).pop().unwrap();
    assert_eq!((&record["occasion"], &record["outcome"]), (&json!("restart"), &json!("denied")));
    // The decision after which the VM runs is the one that is told of it.
    limit(48);
    qhost.run(&["restart", "web"]).exits(0).says("running");
    kill();
    sets(json!({"memory_mib": 48}));
    let otherwise = qhost.run(&["restart", "web"]).exits(11);
    otherwise.says("would now launch this VM differently: resources.memory_mib from 32 to 48");
    sets(json!({"memory_mib": 32, "warn": "a remark is nothing"}));
    qhost.run(&["restart", "web"]).exits(0).says("running");
    let json = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    assert_eq!(json["decision"]["policies"][0]["name"], "sets");
    kill();
    // A VM whose launch was lowered is not raised by a restart.
    qhost.run(&["rm", "web"]).exits(0);
    sets(json!({"memory_mib": 24}));
    qhost.run(&["run", "--detach", &web]).exits(0);
    kill();
    limit(24);
    qhost.run(&["restart", "web"]).exits(0).says("running");
    let json = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    assert_eq!(json["takes"]["resources"]["memory_mib"], 24);
    kill();
    qhost.assert_nothing_left();
}

/// A port that the host picked stands behind the named ones, in the VM's record, and not in the decision.
#[test]
fn a_vm_that_is_decided_again_has_the_ports_that_it_had() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = job(&qhost, &server, "web", Then::Hang);
    let mut web: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    web["config"]["port_map"] = json!({"http": 8080, "ssh": {"guest": 22, "host": free}});
    let path = qhost.file("web.json", web.to_string());
    qhost.run(&["run", "--detach", &path]).exits(0);
    let host_of = |of: &Value, label: &str| {
        let ports = of.as_array().expect("ports");
        ports.iter().find(|port| port["label"] == label).expect("the port")["host"].clone()
    };
    let before = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    qhost.run(&["kill", "web"]).exits(0);
    qhost.run(&["restart", "web"]).exits(0);
    let after = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    for label in ["http", "ssh"] {
        let had = host_of(&before["takes"]["forwards"], label);
        assert_eq!(host_of(&after["takes"]["forwards"], label), had);
        assert_eq!(host_of(&after["decision"]["launch"]["ports"], label), had);
    }
    qhost.run(&["kill", "web"]).exits(0);
}

/// The values that the operator calls secret are shown to no command that looks at a VM.
#[test]
fn inspect_masks_what_is_secret() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let path = job(&qhost, &server, "web", Then::PowerOff);
    let mut web: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    web["meta"]["deploy-token"] = "hunter2hunter2".into();
    let path = qhost.file("web.json", web.to_string());
    qhost.config("[decisions]\nmask_meta = [\"*token*\"]\n");
    qhost.run(&["run", &path]).exits(0);
    let inspected = |says: &str| {
        for more in [&["--json"][..], &[]] {
            let done = qhost.run(&[&["inspect", "web"], more].concat()).exits(0);
            assert!(!done.stdout.contains("hunter2"), "{}", done.stdout);
            assert!(done.stdout.contains(says), "{}", done.stdout);
        }
    };
    inspected("test");
    // Without the configuration the secrets are not known, so that every value may be one.
    qhost.config("not a configuration");
    inspected("***");
    let done = qhost.run(&["inspect", "web"]).exits(0);
    assert!(!done.stdout.contains("stage=test"), "{}", done.stdout);
}

#[test]
fn doctor_misses_the_supervisor() {
    let qhost = qhost();
    let alone = qhost.folder().join("alone");
    fs::create_dir(&alone).unwrap();
    let program = alone.join("qhost");
    // Another process copies the program: a file that this process writes is open in children that other tests start just then, and could
    // not be run.
    let [from, to] = [qhost.program(), &program].map(|path| path.to_str().unwrap());
    qhost_tests::succeed("install", &[from, to]);
    let mut doctor = qhost_tests::command(program.to_str().unwrap());
    let plain = qhost.command(&[]);
    doctor.arg("doctor").current_dir(qhost.folder()).env_clear();
    doctor.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let done = qhost_tests::Done::of(doctor.output().expect("qhost runs")).exits(16);
    done.says("bad   supervisor")
        .says("alone/qhost-supervisor: No such file")
        .says("put qhost-supervisor");
    qhost.run(&["doctor"]).exits(0).says("good  supervisor").says("and this is qhost");
}

#[test]
fn a_drained_host_starts_nothing() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let web = job(&qhost, &server, "web", Then::Hang);
    let done = job(&qhost, &server, "done", Then::PowerOff);
    qhost.run(&["run", &done]).exits(0);
    qhost.run(&["run", "--detach", &web]).exits(0);
    let drained = qhost.run(&["drain", "--no-wait", "--json"]).exits(0).json();
    assert_eq!(drained["running"][0]["task"], "web");
    for refused in [&["run", &done][..], &["plan", &done], &["restart", "done"]] {
        qhost.run(refused).exits(16).says("this host has been draining since");
    }
    qhost
        .run(&["events", "--tail", "1"])
        .exits(0)
        .says("refused")
        .says("by the drain of this host");
    qhost.run(&["doctor"]).exits(16).says("no VM is started; qhost drain --end");
    // Running VMs go on.
    qhost.run(&["restart", "--grace", "0", "web"]).exits(0).says("running");
    qhost.run(&["drain", "--timeout", "0"]).exits(1).says("has not ended within 0 s");
    let waiting = qhost.start(&["drain"]);
    waiting.says("draining");
    qhost.run(&["kill", "web"]).exits(0);
    waiting.end().exits(0).says("exited").says("drained   nothing runs");
    qhost.run(&["drain", "--end"]).exits(0).says("VMs may be started again");
    qhost.run(&["drain", "--end"]).exits(0).says("there was none");
    qhost.run(&["run", "--detach", &web]).exits(0);
    let stopped = qhost.run(&["drain", "--stop", "--grace", "0", "--json"]).exits(0).json();
    assert_eq!(stopped["ended"][0]["task"], "web");
    qhost.assert_nothing_left();
}

#[test]
fn stats_go_on_until_they_are_ended() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.run(&["run", "--detach", &job(&qhost, &server, "web", Then::Hang)]).exits(0);
    let mut watching = qhost.start(&["stats", "--watch=1", "web"]);
    watching.says(" % ");
    assert!(!watching.has_ended());
    // A named VM that is started again is waited for; its end ends the watch.
    qhost.run(&["restart", "--grace", "0", "web"]).exits(0);
    assert!(!watching.has_ended());
    let other = qhost.start(&["stats", "--watch=1", "web"]);
    other.says("CPU TIME");
    watching.signal("INT");
    let watched = watching.end().exits(0);
    assert!(watched.stdout.matches("CPU TIME").count() >= 2, "{}", watched.stdout);
    assert!(!watched.stdout.contains('\u{1b}'), "a pipe was steered");
    qhost.run(&["kill", "web"]).exits(0);
    other.end().exits(0);
}

/// The configuration as shown can be written down, and is the same then.
#[test]
fn what_is_configured_is_shown_whole() {
    let qhost = qhost();
    qhost.config("[ports]\nallow = [\"20000-20999\"]\n[tenants.acme]\nquota = { vms = 3 }\n");
    let shown = qhost.run(&["config", "show"]).exits(0).stdout;
    snapshot("config-show", &shown, &qhost);
    qhost.config(&shown);
    qhost.run(&["config", "check"]).exits(0).says("ok");
    assert_eq!(qhost.run(&["config", "show"]).exits(0).stdout, shown);
    let json = qhost.run(&["config", "show", "--json"]).exits(0).json();
    assert_eq!(json["config"]["tenants"]["acme"]["quota"]["vms"], 3);
}

/// A shell is offered the names that exist.
#[test]
fn completions_know_vms_images_and_tenants() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[tenants.acme]\n[tenants.umbrella]\n");
    let web = job(&qhost, &server, "web", Then::PowerOff);
    qhost.run(&["run", "--tenant", "acme", &web]).exits(0);
    let id = ids(&qhost, &["--all"]).remove(0);
    // The words are those that the script for bash asks with.
    let offered = |words: &[&str]| {
        let asked = [&["--", "qhost"], words].concat();
        let mut command = qhost.command(&asked);
        command.env("QHOST_COMPLETE", "bash").env("_CLAP_IFS", "\n");
        command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        let output = command.output().expect("qhost runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = offered(&[""]);
    assert!(all.contains(&"drain".to_owned()), "{all:?}");
    assert!(!all.iter().any(|word| word.starts_with("__")), "{all:?}");
    assert_eq!(offered(&["logs", "web-"]), [id.as_str()]);
    assert_eq!(offered(&["logs", "acme/"]), ["acme/web"]);
    assert_eq!(offered(&["stats", "web"]), [""; 0]);
    assert_eq!(offered(&["run", "--tenant", "u"]), ["umbrella"]);
    let images = offered(&["image", "path", ""]);
    let digest = images.iter().find(|word| word.len() == 12).expect("a digest").clone();
    qhost.run(&["image", "path", &digest]).exits(0);
}

/// A usage line is about what was typed, whatever the environment has.
#[test]
fn usage_does_not_change_with_the_environment() {
    let qhost = qhost().env("QHOST_STATE_DIR", "/tmp").env("QHOST_CONFIG", "/tmp/qhost.toml");
    let usage = qhost.run(&["run"]).exits(2).stderr;
    assert!(usage.contains("Usage: qhost run <JOB>"), "{usage}");
}

/// Another file takes the place of a running supervisor's program: the VM goes on, and doctor names it.
#[test]
fn a_vm_under_an_older_supervisor_is_named() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let bin = qhost.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    let supervisor = qhost.program().with_file_name("qhost-under-test-supervisor");
    let install = |from: &std::path::Path, name: &str| {
        let to = bin.join(name);
        qhost_tests::succeed("install", &[from.to_str().unwrap(), to.to_str().unwrap()]);
    };
    install(qhost.program(), "qhost");
    install(&supervisor, "qhost-supervisor");
    let run = |args: &[&str]| {
        let mut installed = qhost_tests::command(bin.join("qhost").to_str().unwrap());
        let plain = qhost.command(args);
        installed.args(args).current_dir(qhost.folder()).env_clear();
        installed.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
        qhost_tests::Done::of(installed.output().expect("qhost runs"))
    };
    let web = job(&qhost, &server, "web", Then::Hang);
    run(&["run", "--detach", &web]).exits(0);
    let id = ids(&qhost, &[]).remove(0);
    assert!(!run(&["doctor"]).stdout.contains("another build"));
    let busy = fs::File::options().write(true).open(bin.join("qhost-supervisor"));
    assert_eq!(busy.unwrap_err().kind(), std::io::ErrorKind::ExecutableFileBusy);
    install(&supervisor, "qhost-supervisor");
    let says = format!("1 of 1 VMs run under another build of qhost-supervisor: {id}");
    run(&["doctor"]).exits(0).says(&says);
    run(&["inspect", "web"]).exits(0).says("of another build than the installed qhost-supervisor");
    run(&["restart", "--grace", "0", "web"]).exits(0).says("running");
    run(&["kill", "web"]).exits(0);
    qhost.assert_nothing_left();
}

/// An absent folder would look like an idle host, so that a mistyped name is an error.
#[test]
fn a_state_folder_or_a_configuration_that_is_not_there_is_an_error() {
    let qhost = qhost();
    for command in [
        &["ps"][..],
        &["stats"],
        &["events"],
        &["decisions"],
        &["quota"],
        &["image", "ls"],
        &["overlay", "ls"],
    ] {
        qhost
            .run(&[command, &["--state-dir", "/no/such/folder"]].concat())
            .exits(2)
            .says("cannot read the state folder /no/such/folder");
        qhost
            .run(&[command, &["--config", "/no/such/qhost.toml"]].concat())
            .exits(2)
            .says("cannot read the configuration /no/such/qhost.toml");
    }
    let wrong = qhost.env("QHOST_IMAGE_ALLOW", "127.0.0.0/8,10.x");
    wrong.run(&["plan", "job.json"]).exits(2).says("QHOST_IMAGE_ALLOW: \"10.x\"");
}

/// A detached run tells each fact once, the decision first.
#[test]
fn what_a_detached_run_says() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let path = job(&qhost, &server, "web", Then::Hang);
    let mut web: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    web["config"]["port_map"] = json!({"http": 80});
    let path = qhost.file("web.json", web.to_string());
    let done = qhost.run(&["run", "--detach", &path]).exits(0);
    let id = ids(&qhost, &[]).remove(0);
    let said = done.stderr + &done.stdout;
    for begins in ["images    also", "host      allowed", "running   web as VM", "cage ", &id] {
        assert!(said.matches(begins).count() >= 1, "{begins:?} is not in\n{said}");
    }
    for begins in ["host ", "running ", "port ", "cage ", "console "] {
        let lines = said.lines().filter(|line| line.starts_with(begins));
        assert_eq!(lines.count(), 1, "{begins:?} in\n{said}");
    }
    let places = ["host ", "running ", "port ", "cage ", "console "].map(|word| said.find(word));
    assert!(places.is_sorted(), "{places:?} in\n{said}");
    // An error of the configuration is shown once.
    qhost.config("[image]\nmax_byte = 1\n");
    let wrong = qhost.run(&["plan", &path]).exits(2);
    assert_eq!(wrong.stderr.matches("max_byte = 1").count(), 1, "{}", wrong.stderr);
    assert_eq!(wrong.stderr.matches("unknown field").count(), 1, "{}", wrong.stderr);
    wait_for("the VM to be killed", || qhost.run(&["kill", "web"]).code.eq(&0).then_some(()));
}

/// A supervisor may not kill its QEMU, as another user's if a service's unit has no `CAP_KILL`: the command says so within a bound.
#[test]
fn a_kill_that_does_not_end_a_vm_is_told() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (qhost, server) = (qhost(), ImageServer::start());
    let web = job(&qhost, &server, "web", Then::Hang);
    let without = |args: &[&str]| {
        let plain = qhost.command(args);
        // Without a bound of its own the command would wait for ever.
        let mut setpriv = command("timeout");
        setpriv.args(["180", "setpriv", "--bounding-set=-kill", "--inh-caps=-kill"]);
        setpriv.arg(plain.get_program()).args(plain.get_args());
        setpriv.current_dir(qhost.folder()).env_clear();
        setpriv.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        setpriv.output().unwrap()
    };
    let run = without(&["run", "--detach", &web]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let killed = without(&["kill", "web"]);
    let said = String::from_utf8_lossy(&killed.stderr);
    assert_eq!(killed.status.code(), Some(1), "{said}");
    assert!(said.contains("has not ended within 60 s"), "{said}");
    for qemu in qhost.qemus() {
        succeed("kill", &["-KILL", &qemu]);
    }
    wait_for("its end", || qhost.supervisors().is_empty().then_some(()));
    qhost.assert_nothing_left();
}
