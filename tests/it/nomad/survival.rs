//! VMs outlive plugins and agents.

use std::{
    fs,
    net::{TcpListener, TcpStream},
};

use serde_json::{Value, json};
use tonic::Code;

use qhost_tests::{
    ImageServer,
    boot_sector::Then,
    nomad::{Plugin, Task, exit},
    succeed,
};

use super::{configure, counted, counts_on, image, settings, with};
use crate::qhost;

/// The agent is restarted, the agent is killed, the plugin is killed: the guest counts on without a gap, and its port is listened on
/// throughout.
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
    // The plugin is killed, and another version is there when the agent starts it again.
    plugin.kill();
    answers();
    let newer = qhost.folder().join("newer");
    fs::create_dir(&newer).unwrap();
    let name = qhost.program().file_name().unwrap().to_owned();
    let mut supervisor = name.clone();
    supervisor.push("-supervisor");
    for program in [name.clone(), supervisor] {
        fs::copy(qhost.program().with_file_name(&program), newer.join(&program)).unwrap();
    }
    let link = qhost.folder().join("plugins/qhost");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(newer.join(name), &link).unwrap();
    let plugin = Plugin::launch(&qhost);
    plugin.configure(&plugin.config_schema(), &settings(&qhost)).unwrap();
    plugin.recover(&handle).unwrap();
    counts_on(&task);
    // The plugin is killed once more, and its agent, which heard nothing of the start, asks for it again.
    plugin.kill();
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    assert_eq!(plugin.start(&task.config).unwrap().driver_state, handle.driver_state);
    assert_eq!(qhost.qemus(), qemus, "it was left alone");
    let numbers = counted(&task);
    let expected: Vec<u32> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "no line is missing");
    plugin.stop(task.id(), 0).unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    // A task that ends while no plugin is there is told to the next one.
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
    // Nothing is known of a VM whose record has gone either.
    let state: Value = serde_json::from_slice(&handle.driver_state).unwrap();
    qhost.run(&["rm", state["vm"].as_str().unwrap()]).exits(0);
    assert_eq!(plugin.recover(&handle).unwrap_err().code(), Code::NotFound);
    plugin.leave();
    qhost.assert_nothing_left();
}

/// After a restart of the host, the recorded processes are gone.
#[test]
fn a_task_of_a_host_that_was_restarted_has_failed_for_that() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let task = Task::new(&qhost, &plugin.task_schema(), "a1", &image(&server, "up", Then::Hang));
    let handle = plugin.start(&task.config).unwrap();
    plugin.leave();
    qhost.as_after_a_reboot();
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    plugin.recover(&handle).unwrap();
    let ended = plugin.wait(task.id()).unwrap();
    assert_eq!(exit(&ended).exit_code, 20);
    assert!(ended.err.contains("the host was restarted while it ran"), "{ended:?}");
    assert_eq!(plugin.inspect(task.id()).unwrap().task.unwrap().state, 2);
    plugin.stop(task.id(), 0).unwrap();
    plugin.destroy(task.id(), false).unwrap();
    plugin.leave();
    qhost.assert_nothing_left();
}

/// An agent whose RecoverTask failed asks for a stop all the same, and counts the task as gone when that succeeds.
#[test]
fn what_could_not_be_recovered_is_ended_all_the_same() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let config = image(&server, "up", Then::Hang);
    let [one, other] = ["a1", "a2"].map(|id| {
        let task = Task::new(&qhost, &plugin.task_schema(), id, &config);
        plugin.start(&task.config).unwrap();
        task
    });
    plugin.leave();
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    plugin.stop(one.id(), 0).unwrap();
    assert_eq!(qhost.qemus().len(), 1, "the other one goes on");
    plugin.destroy(other.id(), true).unwrap();
    assert!(qhost.qemus().is_empty());
    assert_eq!(plugin.destroy(other.id(), true).unwrap_err().code(), Code::NotFound);
    plugin.leave();
    qhost.assert_nothing_left();
}
