//! qhost as a task driver of Nomad: the real plugin, asked as an agent asks.

mod guests;
mod malformed;
mod many;
mod operator;
mod page;
mod resources;
mod socket;
mod survival;

use std::{collections::HashMap, fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use qhost_nomad::proto::structs::Attribute;
use serde_json::{Value, json};
use tonic::Code;

use qhost_tests::{
    ImageServer, Qhost, Reply,
    boot_sector::{self, Then},
    configured,
    disk::SmallDisk,
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

/// The numbers that a guest has counted so far, from the log pipe.
fn counted(task: &Task) -> Vec<u32> {
    let console = task.console();
    // The last line may not be whole yet.
    let lines = console.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
    let number = |line: &str| u32::from_str_radix(line.trim_end(), 16).ok();
    lines.filter(|line| line.trim_end().len() == 4).filter_map(number).collect()
}

/// Checks that the guest counts on from here.
fn counts_on(task: &Task) {
    let before = counted(task).len();
    wait_for("the guest to count on", || (counted(task).len() > before + 3).then_some(()));
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
    // A repeated request gets the same task.
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
    let events = plugin.events();
    let id = events.iter().find_map(|event| event.annotations.get("decision")).unwrap();
    qhost.run(&["decisions", id]).exits(0).says("outcome   allowed");
    let attributes = plugin.inspect(task.id()).unwrap().driver.unwrap().attributes;
    let read = attributes.iter().find(|(name, _)| name.ends_with(".read_bytes"));
    assert!(read.is_some_and(|(_, bytes)| bytes != "0"), "{attributes:?}");
    assert!(attributes.contains_key("network.connections"), "{attributes:?}");
    plugin.stop(task.id(), 0).unwrap();
    let ended = plugin.wait(task.id()).unwrap();
    assert_eq!((exit(&ended).exit_code, ended.err.as_str()), (0, ""));
    plugin.destroy(task.id(), true).unwrap();
    assert_eq!(plugin.wait(task.id()).unwrap_err().code(), Code::NotFound);
    // The agent stops a task that has gone already.
    plugin.stop(task.id(), 0).unwrap();
    plugin.leave();
    qhost.assert_nothing_left();
}

/// A task that is not started says why to its tenant, and tells Nomad whether to try again.
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
    assert!(denied.message().contains("memory"), "with the reason: {denied}");
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
    // The first port is taken, and the second tenant has no room left.
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = with(good.clone(), json!({"port_map": [{"http": 80}]}));
    let task = Task::new(&qhost, &schema, "taken", &config).with_ports(&[("http", port, 0)]);
    let refused = plugin.start(&task.config).unwrap_err();
    assert!(is_recoverable(&refused), "{refused}");
    assert!(refused.message().contains(&port.to_string()), "{refused}");
    configure(&qhost, "[host.quota]\nvms = 0\n");
    let full = start("full", &good);
    assert!(is_recoverable(&full) && full.message().contains("vms"), "{full}");
    // Nothing of these tasks is left, and nothing is known of them.
    assert!(qhost.run(&["ps", "--json"]).exits(0).json()["vms"].as_array().unwrap().is_empty());
    assert_eq!(plugin.wait("wrong/web/1").unwrap_err().code(), Code::NotFound);
    plugin.leave();
    qhost.assert_nothing_left();
}

/// A plugin that a person starts says how it is to be started.
#[test]
fn it_is_for_an_agent_to_start() {
    let qhost = qhost();
    qhost.run(&["nomad-plugin"]).exits(2).says("plugin_dir");
    let mut command = plugin_command(&qhost);
    let output = command.env("PLUGIN_PROTOCOL_VERSIONS", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("speaks 2"), "{said}");
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
    // Without an agent in the guest no command can be run.
    let refused = plugin.exec(task.id(), &["true"]).unwrap_err();
    assert!(refused.message().contains("guest_agent"), "{refused}");
    plugin.signal(task.id(), "SIGKILL").unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    // A task that has ended is not begun again behind the agent's back.
    plugin.signal(task.id(), "SIGHUP").unwrap_err();
    assert!(qhost.qemus().is_empty());
    plugin.leave();
    qhost.assert_nothing_left();
}

/// The end of a guest is the end of its task, even if it comes before the start has been told.
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

/// While the configuration does not load, no policy can be asked, so that only what needs none is done: running tasks can be stopped.
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

/// The fingerprint follows QEMU, which goes and comes back, and a disk that has no room, and has it again.
#[test]
fn fingerprints_follow_qemu_and_the_disk() {
    let qhost = qhost();
    let bin = qhost.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    let link = bin.join("qemu-system-x86_64");
    let install = || std::os::unix::fs::symlink("/usr/bin/qemu-system-x86_64", &link).unwrap();
    install();
    let qhost = qhost.env("PATH", bin.to_str().unwrap());
    configure(&qhost, "");
    // The disk has less than the GiB that tasks are to have.
    let small = SmallDisk::under(&qhost, 512);
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let last = |health, text: &str| {
        wait_for(&format!("{health}, {text}"), || {
            let all = plugin.fingerprints();
            let last = all.last().filter(|last| last.health == health)?;
            last.health_description.contains(text).then_some(())
        });
    };
    if small.is_some() {
        last(1, "less than 1024 MiB left");
        let at = qhost.state();
        succeed("mount", &["-o", "remount,size=2g", at.to_str().unwrap()]);
    }
    last(2, "Healthy");
    fs::remove_file(&link).unwrap();
    last(0, "qemu-system-x86_64");
    assert!(!plugin.fingerprints().last().unwrap().attributes.contains_key("driver.qhost"));
    install();
    last(2, "Healthy");
    let known = || plugin.fingerprints().last().unwrap().clone();
    let before = known().attributes;
    // Another version comes in QEMU's place, as an upgrade's would.
    fs::remove_file(&link).unwrap();
    let script = "#!/bin/sh\ncase \"$1\" in -version) echo QEMU emulator version 99.1.0 ;; *) exec /usr/bin/qemu-system-x86_64 \"$@\" ;; esac\n";
    fs::write(&link, script).unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o755)).unwrap();
    let version = |attributes: &HashMap<String, Attribute>| {
        format!("{:?}", attributes["driver.qemu.version"].value)
    };
    wait_for("the other version", || version(&known().attributes).contains("99.1.0").then_some(()));
    assert!(!version(&before).contains("99.1.0"), "{before:?}");
    last(2, "Healthy");
    plugin.leave();
}

/// The fingerprint describes the host, and follows its changes.
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
        ["version", "emulators", "architectures", "accelerators", "machine_types", "cage"]
            .map(|name| format!("driver.qhost.{name}"))
            .into();
    let constrained = ["driver.qhost.policy.limits", "driver.qemu.version"];
    let names: Vec<_> = names.into_iter().chain(constrained.map(Into::into)).collect();
    assert!(!healthy.attributes.contains_key("driver.qemu"), "it is another driver's name");
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
