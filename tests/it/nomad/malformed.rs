//! Calls that no agent makes.

use std::fs;

use serde_json::{Value, json};
use tonic::Code;

use qhost_nomad::proto::driver::{
    NetworkIsolationSpec, TaskConfig, TaskHandle, network_isolation_spec::NetworkIsolationMode,
};
use qhost_tests::{
    ImageServer,
    boot_sector::Then,
    nomad::{Plugin, Task, is_recoverable},
};

use super::{configure, image, settings, with};
use crate::qhost;

/// An agent lets the keys of its own drivers through, so that the error of a task with one says what to use instead.
#[test]
fn keys_of_nomads_own_drivers_say_what_to_use_instead() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.task_schema();
    let good = image(&server, "never", Then::Hang);
    for (number, (key, hint)) in qhost_model::job::HINTS.into_iter().enumerate() {
        let config = with(good.clone(), json!({key: [{"name": "x"}]}));
        let task = Task::new(&qhost, &schema, &format!("k{number}"), &config);
        let refused = plugin.start(&task.config).unwrap_err();
        assert!(refused.message().contains(hint), "{key}: {refused}");
        assert!(!is_recoverable(&refused), "{refused}");
    }
    plugin.leave();
    qhost.assert_nothing_left();
}

/// Each call gets a status, whatever it contains, and the plugin serves on.
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
        (
            &|task| {
                let mode = NetworkIsolationMode::Group.into();
                let spec = NetworkIsolationSpec { mode, ..NetworkIsolationSpec::default() };
                task.network_isolation_spec = Some(spec);
            },
            "the mode bridge",
        ),
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
    // Two starts of one task at once are one.
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
