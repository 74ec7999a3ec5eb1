//! qhost as a task driver of Nomad's: the real plugin, asked as an agent asks.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use serde_json::{Value, json};
use tonic::Code;

use qhost_nomad::proto::driver::{TaskConfig, TaskHandle};
use qhost_tests::{
    ImageServer, Qhost, Reply,
    boot_sector::{self, Then},
    configured, debian_guest,
    nomad::{Plugin, Task, exit, is_recoverable, plugin_command},
    succeed, wait_for,
};

use crate::qhost;

/// The host's configuration; images come from this host.
fn configure(qhost: &Qhost, more: &str) {
    qhost.config(&format!("[image.network]\nallow = [\"127.0.0.0/8\"]\n{more}"));
}

/// The plugin's configuration for a scratch folder.
fn settings(qhost: &Qhost) -> Value {
    json!({"config": qhost.folder().join("qhost.toml"), "state_dir": qhost.state()})
}

fn image(server: &ImageServer, text: &str, then: Then) -> Value {
    let (url, sha256) = server.serve(&format!("/{text}"), boot_sector::disk(text, then));
    json!({"image_source": url, "checksum": sha256})
}

fn with(mut config: Value, more: Value) -> Value {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn a_tasks_life() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(
        &qhost,
        &configured("limits", "limits", json!({"cpus": 4}), "[host]\nchain = [\"limits\"]\n"),
    );
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let folder = fs::metadata(plugin.socket().parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700, "no other user talks to the plugin");
    let schema = plugin.task_schema();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let config = with(image(&server, "echoes", Then::Echo), json!({"port_map": [{"http": 80}]}));
    let task = Task::new(&qhost, &schema, "a1", &config).with_ports(&[("http", port, 0)]);
    let handle = plugin.start(&task.config).unwrap();
    assert_eq!((handle.version, handle.state), (1, 1));
    task.says("echoes");
    // Asked again, it is the same task.
    assert_eq!(plugin.start(&task.config).unwrap().driver_state, handle.driver_state);
    assert_eq!(qhost.qemus().len(), 1);
    let status = plugin.inspect(task.id()).unwrap();
    let pid = &status.driver.unwrap().attributes["pid"];
    assert_eq!(qhost.qemus(), std::slice::from_ref(pid));
    let vm = &qhost.run(&["ps", "--json"]).exits(0).json()["vms"][0];
    assert_eq!(vm["takes"]["forwards"][0]["host"], port, "{vm}");
    let told = qhost.run(&["inspect", "--json", "web"]).exits(0).json();
    let meta = &told["asked"]["meta"];
    assert_eq!((&meta["owner"], &meta["nomad_alloc_id"]), (&json!("ops"), &json!("a1")), "{told}");
    let stats = plugin.stats(task.id(), 2).unwrap();
    let used = stats[1].agg_resource_usage.as_ref().unwrap();
    assert!(used.memory.as_ref().unwrap().rss > 8 << 20, "{stats:?}");
    assert!(stats[1].timestamp.is_some());
    for text in ["policy limits", "admitted as web-", "image verified: sha256:"] {
        plugin.says(text);
    }
    plugin.stop(task.id(), 0).unwrap();
    let ended = plugin.wait(task.id()).unwrap();
    assert_eq!((exit(&ended).exit_code, ended.err.as_str()), (0, ""));
    plugin.destroy(task.id(), true).unwrap();
    assert_eq!(plugin.wait(task.id()).unwrap_err().code(), Code::NotFound);
    // What has gone is stopped.
    plugin.stop(task.id(), 0).unwrap();
    plugin.leave();
    qhost.assert_nothing_left();
}

/// What the tenant reads, and whether Nomad tries again.
#[test]
fn what_is_not_started_says_why() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(
        &qhost,
        &configured(
            "limits",
            "limits",
            json!({"memory_mib": 16}),
            "[host]\nchain = [\"limits\"]\n",
        ),
    );
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.task_schema();
    let good = image(&server, "up", Then::Hang);
    let start = |id: &str, config: &Value| {
        plugin.start(&Task::new(&qhost, &schema, id, config).config).unwrap_err()
    };
    let denied = start("denied", &good);
    assert_eq!(
        (denied.code(), is_recoverable(&denied)),
        (Code::PermissionDenied, false),
        "{denied}"
    );
    assert!(denied.message().contains("refused by limits"), "{denied}");
    plugin.says("policy limits");
    let wrong = start("wrong", &with(good.clone(), json!({"accelerator": "warp"})));
    assert_eq!((wrong.code(), is_recoverable(&wrong)), (Code::InvalidArgument, false), "{wrong}");
    assert!(wrong.message().contains("/config/accelerator"), "{wrong}");
    assert!(wrong.message().contains("warp"), "{wrong}");
    configure(&qhost, "");
    let absent = json!({"image_source": server.url("/absent"), "checksum": good["checksum"]});
    let absent = start("absent", &absent);
    assert_eq!((absent.code(), is_recoverable(&absent)), (Code::Unavailable, true), "{absent}");
    assert!(absent.message().contains("404"), "{absent}");
    let other = json!({"image_source": good["image_source"], "checksum": "0".repeat(64)});
    let other = start("other", &other);
    assert_eq!((other.code(), is_recoverable(&other)), (Code::DataLoss, false), "{other}");
    // Nothing of them is left, and nothing is known of them.
    assert!(qhost.run(&["ps", "--json"]).exits(0).json()["vms"].as_array().unwrap().is_empty());
    assert_eq!(plugin.wait("wrong/web/1").unwrap_err().code(), Code::NotFound);
    plugin.leave();
    qhost.assert_nothing_left();
}

/// A plugin that a person starts says how it is started.
#[test]
fn it_is_for_an_agent_to_start() {
    let qhost = qhost();
    qhost.run(&["nomad-plugin"]).exits(2).says("plugin_dir");
    let mut command = plugin_command(&qhost);
    let output = command.env("PLUGIN_PROTOCOL_VERSIONS", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("speaks 2"), "{said}");
}

/// The numbers that a guest has counted so far, as they came out of the log pipe.
fn counted(task: &Task) -> Vec<u32> {
    let console = task.console();
    // The last line may not be whole yet.
    let lines = console.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
    let number = |line: &str| u32::from_str_radix(line.trim_end(), 16).ok();
    lines.filter(|line| line.trim_end().len() == 4).filter_map(number).collect()
}

/// It counts on from here.
fn counts_on(task: &Task) {
    let before = counted(task).len();
    wait_for("the guest to count on", || (counted(task).len() > before + 3).then_some(()));
}

/// The agent restarted, the agent killed, the plugin killed: the guest counts on without a gap, and its port is listened on throughout.
#[test]
fn a_vm_outlives_plugins_and_agents() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let config = with(image(&server, "ticks", Then::Tick), json!({"port_map": [{"http": 80}]}));
    let task =
        Task::new(&qhost, &plugin.task_schema(), "a1", &config).with_ports(&[("http", port, 0)]);
    let answers = || drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let handle = plugin.start(&task.config).unwrap();
    counts_on(&task);
    answers();
    let qemus = qhost.qemus();
    // The agent is restarted: it has its plugin leave, and starts another.
    plugin.leave();
    answers();
    counts_on(&task);
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    plugin.recover(&handle).unwrap();
    assert_eq!(plugin.inspect(task.id()).unwrap().task.unwrap().state, 1);
    // The agent is killed, and the next one finds the plugin that it had.
    let plugin = plugin.attach_again();
    plugin.recover(&handle).unwrap();
    plugin.recover(&handle).unwrap();
    counts_on(&task);
    // The plugin is killed.
    plugin.kill();
    answers();
    let plugin = Plugin::launch(&qhost);
    plugin.configure(&plugin.config_schema(), &settings(&qhost)).unwrap();
    plugin.recover(&handle).unwrap();
    counts_on(&task);
    // It is killed once more, and its agent, which heard nothing of the start, asks for that again.
    plugin.kill();
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    assert_eq!(plugin.start(&task.config).unwrap().driver_state, handle.driver_state);
    assert_eq!(qhost.qemus(), qemus, "it was left alone");
    let numbers = counted(&task);
    let expected: Vec<u32> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "no line is missing");
    plugin.stop(task.id(), 0).unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    // What is gone while no plugin is there is told to the next one.
    let other =
        Task::new(&qhost, &plugin.task_schema(), "a2", &image(&server, "again", Then::Hang));
    let handle = plugin.start(&other.config).unwrap();
    plugin.leave();
    for pid in qhost.supervisors().into_iter().chain(qhost.qemus()) {
        succeed("kill", &["-KILL", &pid]);
    }
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    plugin.recover(&handle).unwrap();
    let ended = plugin.wait(other.id()).unwrap();
    assert!(
        exit(&ended).exit_code == 20 && ended.err.contains("not seen")
            || ended.err.contains("supervisor"),
        "{ended:?}"
    );
    plugin.destroy(other.id(), true).unwrap();
    // Nor is anything known of a VM whose record has gone.
    let state: Value = serde_json::from_slice(&handle.driver_state).unwrap();
    qhost.run(&["rm", state["vm"].as_str().unwrap()]).exits(0);
    assert_eq!(plugin.recover(&handle).unwrap_err().code(), Code::NotFound);
    plugin.leave();
    qhost.assert_nothing_left();
}

#[test]
fn signals_are_what_they_can_be_for_a_vm() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let config = image(&server, "ticks", Then::Tick);
    let task = Task::new(&qhost, &plugin.task_schema(), "a1", &config);
    plugin.start(&task.config).unwrap();
    let state = || qhost.run(&["ps", "--json"]).exits(0).json()["vms"][0]["state"].clone();
    counts_on(&task);
    plugin.signal(task.id(), "SIGSTOP").unwrap();
    assert_eq!(state(), "paused");
    plugin.signal(task.id(), "SIGCONT").unwrap();
    assert_eq!(state(), "running");
    counts_on(&task);
    plugin.signal(task.id(), "SIGHUP").unwrap();
    wait_for("the second start", || (task.console().matches("ticks").count() == 2).then_some(()));
    let unknown = plugin.signal(task.id(), "SIGUSR1").unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(
        unknown.message().contains("SIGUSR1") && unknown.message().contains("SIGTERM presses"),
        "{unknown}"
    );
    // Without an agent in the guest there is nothing to run a command.
    let refused = plugin.exec(task.id(), &["true"]).unwrap_err();
    assert!(refused.message().contains("guest_agent"), "{refused}");
    plugin.signal(task.id(), "SIGKILL").unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    // What has ended is not begun again behind the agent's back.
    plugin.signal(task.id(), "SIGHUP").unwrap_err();
    assert!(qhost.qemus().is_empty());
    plugin.leave();
    qhost.assert_nothing_left();
}

/// How a guest ends is the task's end, also where that comes before the start has been told.
#[test]
fn ends_are_told_as_what_they_are() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.task_schema();
    for (then, code, why) in
        [(Then::PowerOff, 0, ""), (Then::Panic, 20, "the guest's kernel panicked")]
    {
        let config = image(&server, &format!("ends{code}"), then);
        let task = Task::new(&qhost, &schema, &format!("a{code}"), &config);
        plugin.start(&task.config).unwrap();
        let ended = plugin.wait(task.id()).unwrap();
        assert_eq!((exit(&ended).exit_code, ended.err.as_str()), (code, why));
        assert_eq!(plugin.inspect(task.id()).unwrap().task.unwrap().state, 2);
        task.says(&format!("ends{code}"));
        plugin.destroy(task.id(), false).unwrap();
    }
    // A start that is stopped while its image arrives leaves nothing.
    let disk = boot_sector::disk("never", Then::Hang);
    server.set("/stalled", Reply::StallAfter(disk.into(), 512));
    let config = json!({"image_source": server.url("/stalled"), "checksum": "0".repeat(64)});
    let task = Task::new(&qhost, &schema, "stalled", &config);
    let starting = plugin.start_later(&task.config);
    wait_for("the download", || {
        let events = plugin.events();
        let mut of_it = events.iter().filter(|event| event.alloc_id == "stalled");
        of_it.any(|event| event.message.contains("fetching the image")).then_some(())
    });
    plugin.stop(task.id(), 0).unwrap();
    assert_eq!(plugin.done(starting).unwrap_err().code(), Code::Cancelled);
    assert!(qhost.run(&["ps", "--json"]).exits(0).json()["vms"].as_array().unwrap().is_empty());
    plugin.leave();
    qhost.assert_nothing_left();
}

/// While the configuration does not load, no policy can be asked, so that nothing is done that needs one; what runs can be stopped.
#[test]
fn a_recovered_task_is_held_to_the_configuration_once_that_loads() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let task = Task::new(&qhost, &plugin.task_schema(), "a1", &image(&server, "up", Then::Hang));
    let handle = plugin.start(&task.config).unwrap();
    plugin.leave();
    configure(&qhost, "[host]\nchain = [\"gone\"]\n");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    plugin.recover(&handle).unwrap();
    let refused = plugin.signal(task.id(), "SIGSTOP").unwrap_err();
    assert!(refused.message().contains("no policy can be asked"), "{refused}");
    let guests = configured("guests", "guests", json!({"operators_only": ["pause"]}), "");
    configure(&qhost, &format!("{guests}[host]\nchain = [\"guests\"]\n"));
    let denied = wait_for("the policy", || {
        let status = plugin.signal(task.id(), "SIGSTOP").err()?;
        Some(status).filter(|status| status.code() != Code::Unavailable)
    });
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    plugin.stop(task.id(), 0).unwrap();
    plugin.destroy(task.id(), false).unwrap();
    plugin.leave();
    qhost.assert_nothing_left();
}

/// Whatever is sent, there is a status, and the plugin serves on.
#[test]
fn malformed_calls() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.task_schema();
    let good = image(&server, "up", Then::Hang);
    for unknown in ["", "none", "\u{1b}[2J", &"x".repeat(1 << 20)] {
        let codes = [
            plugin.wait(unknown).unwrap_err().code(),
            plugin.destroy(unknown, false).unwrap_err().code(),
            plugin.signal(unknown, "SIGTERM").unwrap_err().code(),
            plugin.exec(unknown, &["true"]).unwrap_err().code(),
            plugin.inspect(unknown).unwrap_err().code(),
            plugin.stats(unknown, 1).unwrap_err().code(),
        ];
        assert_eq!(codes, [Code::NotFound; 6]);
        plugin.stop(unknown, -1).unwrap();
    }
    let mut number = 0;
    let mut start = |change: &dyn Fn(&mut TaskConfig)| {
        number += 1;
        let mut task = Task::new(&qhost, &schema, &format!("m{number}"), &good).config;
        change(&mut task);
        plugin.start(&task).unwrap_err()
    };
    for (change, found) in [
        (&(|task: &mut TaskConfig| task.id.clear()) as &dyn Fn(&mut TaskConfig), "no task.id"),
        (&|task| task.msgpack_driver_config = b"\xc1".to_vec(), "expected an object"),
        (&|task| task.msgpack_driver_config = b"\xdf\xff\xff\xff\xff".to_vec(), "no msgpack"),
        (&|task| task.msgpack_driver_config = vec![0x91; 1 << 10], "no msgpack"),
        (&|task| task.msgpack_driver_config = vec![0xc0; 3 << 20], "at most 1048576"),
        (&|task| task.msgpack_driver_config = b"\x01".to_vec(), "expected an object"),
        (&|task| task.msgpack_driver_config.clear(), "image_source"),
        (&|task| task.resources = None, "MemoryMB"),
        (&|task| task.name = "x".repeat(1 << 16), "Name"),
        (&|task| task.stdout_path = "/etc/passwd\0".into(), "stdout"),
    ] {
        let refused = start(change);
        assert!(refused.message().contains(found), "{found}: {refused}");
        assert!(!is_recoverable(&refused), "{refused}");
    }
    let huge = Task::new(&qhost, &schema, "huge", &good).with_ports(&[("http", 1, 1)]);
    let mut huge = huge.config;
    huge.resources.as_mut().unwrap().ports[0].value = -5;
    assert!(plugin.start(&huge).unwrap_err().message().contains("port"));
    let mut handle = TaskHandle { version: 1, config: Some(huge), ..TaskHandle::default() };
    for state in [
        &b""[..],
        b"{}",
        b"null",
        br#"{"version":9,"vm":"x"}"#,
        br#"{"version":1,"vm":"../../etc"}"#,
    ] {
        handle.driver_state = state.to_vec();
        plugin.recover(&handle).unwrap_err();
    }
    handle.config = None;
    plugin.recover(&handle).unwrap_err();
    for settings in [&b"\x91"[..], b"\x01", b"\x81\xa1x\x01", b"\x81\xa6config\xa1x"] {
        assert_eq!(
            plugin.configure_by(settings.to_vec()).unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    // Two at once for one task are one.
    let task = Task::new(&qhost, &schema, "twice", &good);
    let (one, two) = (plugin.start_later(&task.config), plugin.start_later(&task.config));
    let (one, two) = (plugin.done(one).unwrap(), plugin.done(two).unwrap());
    assert_eq!(one.driver_state, two.driver_state);
    assert_eq!(qhost.qemus().len(), 1);
    assert_eq!(plugin.destroy(task.id(), false).unwrap_err().code(), Code::FailedPrecondition);
    plugin.destroy(task.id(), true).unwrap();
    let log = fs::read_to_string(qhost.folder().join("plugin.log")).unwrap();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["@level"].is_string() && line["@message"].is_string(), "{line}");
    }
    assert!(!log.contains("panicked"), "{log}");
    plugin.leave();
    qhost.assert_nothing_left();
}

/// What is found of the host, and that it follows what changes.
#[test]
fn fingerprints_follow_the_host() {
    let qhost = qhost();
    configure(
        &qhost,
        &configured("limits", "limits", json!({"cpus": 4}), "[host]\nchain = [\"limits\"]\n"),
    );
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let last = |health| {
        wait_for("a fingerprint", || {
            plugin.fingerprints().last().filter(|last| last.health == health).cloned()
        })
    };
    let healthy = last(2);
    let names: Vec<_> =
        ["version", "emulators", "accelerators", "machine_types", "cage", "policy.limits"]
            .map(|name| format!("driver.qhost.{name}"))
            .into();
    for name in names.iter().chain([&"driver.qhost".to_owned()]) {
        assert!(healthy.attributes.contains_key(name), "{name}: {healthy:?}");
    }
    configure(&qhost, "[host]\nchain = [\"gone\"]\n");
    let unhealthy = last(1);
    assert!(unhealthy.health_description.contains("gone"), "{unhealthy:?}");
    let task = Task::new(&qhost, &plugin.task_schema(), "a1", &json!({"checksum": "0"}));
    let refused = plugin.start(&task.config).unwrap_err();
    assert!(is_recoverable(&refused) && refused.message().contains("gone"), "{refused}");
    configure(&qhost, "");
    let healthy = last(2);
    assert!(!healthy.attributes.contains_key("driver.qhost.policy.limits"), "{healthy:?}");
    assert_eq!(plugin.fingerprints().len(), 3, "only what changed is told");
    plugin.leave();
}

/// What an agent's users do with a guest that has more than a boot sector.
#[test]
fn commands_and_the_environment_in_a_debian_guest() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let tenants = "[tenants.acme]\n";
    configure(&qhost, tenants);
    let more = json!({"tenants": {"default": "acme"}});
    let plugin = Plugin::as_agent(&qhost, &with(settings(&qhost), more));
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (url, sha256) = server.serve("/debian.qcow2", fs::read(debian_guest()).unwrap());
    let config = json!({
        "image_source": url, "checksum": sha256, "guest_agent": true, "task_env": true, "hostname": "on-nomad",
    });
    let task = Task::new(&qhost, &plugin.task_schema(), "a1", &config);
    let task = task.with_memory(512).with_ports(&[("ssh", port, 22)]);
    plugin.start(&task.config).unwrap();
    wait_for("the guest's agent", || plugin.exec(task.id(), &["true"]).ok());
    let shell = |script: &str| plugin.exec(task.id(), &["sh", "-c", script]).unwrap();
    let done = shell("echo out; echo err >&2; exit 3");
    assert_eq!(done.result.unwrap().exit_code, 3);
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let streamed =
        plugin.exec_streaming(task.id(), &["tr", "a-z", "A-Z"], b"typed", false).unwrap();
    assert_eq!(
        (streamed.stdout.as_slice(), streamed.result.unwrap().exit_code),
        (&b"TYPED"[..], 0)
    );
    let refused = plugin.exec_streaming(task.id(), &["sh"], b"", true).unwrap_err();
    assert!(refused.message().contains("-t=false"), "{refused}");
    wait_for("cloud-init", || {
        let done =
            shell("hostname; . /etc/profile.d/nomad.sh; echo $NOMAD_META_owner $NOMAD_TASK_NAME");
        (done.stdout == b"on-nomad\nops web\n").then_some(())
    });
    // Its port is the guest's.
    wait_for("sshd", || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let mut banner = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.read_exact(&mut banner).is_ok().then_some(()).filter(|()| &banner == b"SSH-")
    });
    // Policies rule commands by this door, too, and what they say is recorded.
    let guests = configured("guests", "guests", json!({"operators_only": ["exec"]}), "");
    configure(&qhost, &format!("{guests}[host]\nchain = [\"guests\"]\n{tenants}"));
    let denied = wait_for("the policy", || plugin.exec(task.id(), &["id"]).err());
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    let told = qhost.run(&["decisions", "--json"]).exits(0).stdout;
    assert!(told.contains("\"door\":\"nomad\"") && told.contains("nomad alloc a1"), "{told}");
    // Its power button is pressed, and systemd hears it.
    plugin.stop(task.id(), 60).unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    let vm = &qhost.run(&["ps", "--all", "--json"]).exits(0).json()["vms"][0];
    assert_eq!(vm["ended"]["by"], "powerdown", "{vm}");
    plugin.leave();
    qhost.assert_nothing_left();
}

/// Policies are loaded once for all of them, nothing of them is left, and what the plugin takes does not grow with how many there were.
#[test]
fn many_tasks_one_after_another_and_at_once() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let limits =
        configured("limits", "limits", json!({"cpus": 4}), "[host]\nchain = [\"limits\"]\n");
    configure(&qhost, &limits);
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.task_schema();
    let config = image(&server, "up", Then::Hang);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", plugin.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let mut number = 0;
    let mut batch = |size: usize| {
        let tasks: Vec<_> = (0..size)
            .map(|_| {
                number += 1;
                Task::new(&qhost, &schema, &format!("a{number}"), &config)
            })
            .collect();
        let starting: Vec<_> = tasks.iter().map(|task| plugin.start_later(&task.config)).collect();
        let handles: Vec<_> =
            starting.into_iter().map(|later| plugin.done(later).unwrap()).collect();
        let states: BTreeSet<_> =
            handles.iter().map(|handle| handle.driver_state.clone()).collect();
        assert_eq!((states.len(), qhost.qemus().len()), (size, size));
        for task in &tasks {
            plugin.destroy(task.id(), true).unwrap();
        }
    };
    batch(20);
    let before = resident();
    for _ in 0..3 {
        batch(10);
    }
    let after = resident();
    assert!(after < before + (8 << 10), "{before} kB, then {after} kB");
    plugin.leave();
    qhost.assert_nothing_left();
}
