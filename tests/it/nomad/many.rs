//! Many tasks of one plugin.

use std::{collections::BTreeSet, fs};

use serde_json::json;

use qhost_tests::{
    ImageServer,
    boot_sector::Then,
    configured,
    nomad::{Plugin, Task},
};

use super::{configure, image, settings};
use crate::qhost;

/// Policies are loaded once for all tasks, nothing of the tasks is left, and the plugin's memory does not grow with their number.
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
