//! An operator's settings for all tasks in the plugin's configuration: their names here, and their defaults.

use serde_json::{Value, json};
use tonic::Code;

use qhost_tests::{
    ImageServer,
    boot_sector::Then,
    nomad::{Plugin, Task},
};

use super::{configure, image, settings, with};
use crate::qhost;

#[test]
fn names_and_defaults_are_the_operators() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "[tenants.team-default]\n[tenants.acme]\n");
    let more = json!({
        "tenants": {"prod": "acme"},
        "names": {"tenant": "team-{namespace}", "job": "{namespace}.{job}", "task": "{group}-{task}"},
        "defaults": {"disk_bytes": 1 << 21, "restart": {"policy": "on-failure"}},
    });
    let plugin = Plugin::as_agent(&qhost, &with(settings(&qhost), more));
    let schema = plugin.task_schema();
    let config = image(&server, "up", Then::Hang);
    let start = |id: &str, namespace: &str, config: &Value| {
        let mut task = Task::new(&qhost, &schema, id, config);
        task.config.namespace = namespace.into();
        plugin.start(&task.config).map(|_| task)
    };
    let first = start("a1", "default", &config).unwrap();
    let own = start("a2", "prod", &with(config.clone(), json!({"disk_bytes": 1 << 22}))).unwrap();
    let told = |tenant: &str| {
        let name = format!("{tenant}/group-web");
        qhost.run(&["inspect", "--json", &name]).exits(0).json()["asked"].clone()
    };
    let (of_first, of_own) = (told("team-default"), told("acme"));
    for (asked, job, disk_bytes) in
        [(&of_first, "default.web", 1 << 21), (&of_own, "prod.web", 1 << 22)]
    {
        assert_eq!(
            (&asked["job"], &asked["disk_bytes"]),
            (&json!(job), &json!(disk_bytes)),
            "{asked}"
        );
        assert_eq!(asked["restart"]["policy"], "on-failure", "{asked}");
    }
    for task in [first, own] {
        plugin.destroy(task.id(), true).unwrap();
    }
    // A tenant that is not configured has no VMs.
    let stranger = start("a3", "dev", &config).map(drop).unwrap_err();
    assert!(stranger.message().contains("team-dev"), "{stranger}");
    plugin.leave();
    qhost.assert_nothing_left();
}

/// A wrong setting is refused when the agent gives it, with its key.
#[test]
fn what_is_wrong_of_them_is_named() {
    let qhost = qhost();
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.config_schema();
    for (more, found) in [
        (json!({"names": {"job": "{alloc}"}}), "names.job: {alloc}"),
        (json!({"defaults": {"accelerator": "warp"}}), "defaults/accelerator"),
        (json!({"defaults": {"disk_bytes": -1}}), "defaults/disk_bytes"),
        (json!({"defaults": {"restart": [{"policy": "sometimes"}]}}), "defaults/restart/policy"),
    ] {
        let refused = plugin.configure(&schema, &with(settings(&qhost), more)).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(found), "{refused}");
    }
    plugin.leave();
}
