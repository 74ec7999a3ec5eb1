//! The policies in force, and the decisions of another policy or configuration.

use std::fs;

use serde_json::json;

use qhost_tests::{ImageServer, api::Service, configured};

use super::{configure, job};
use crate::qhost;

/// A configuration is tried on past decisions, taken over whole or refused whole, and stepped back from.
#[test]
fn another_configuration_is_tried_first() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let chain = "[host]\nchain = [\"limits\"]\n";
    let limits = |memory_mib: u32| {
        let settings = json!({"cpus": 4, "memory_mib": memory_mib});
        configured("limits", "limits", settings, "") + chain
    };
    configure(&qhost, &limits(4096));
    let service = Service::start(&qhost);
    let job = job(&qhost, &server, "tried");
    let started = service.done(service.post("/v1/vms", &job));
    assert_eq!(started["state"], "succeeded", "{started}");
    let posted = |path: &str| service.post(path, "").is(200).json();
    let decided = || service.post("/v1/decide", &job).is(200).json()["outcome"].clone();
    let today = posted("/v1/replay");
    assert_eq!((&today["records"], &today["identical"]), (&json!(1), &json!(1)), "{today}");
    let policies = service.get("/v1/policies").is(200).json();
    assert_eq!(policies["policies"][0]["evaluations"], 1, "{policies}");
    // The configuration is tried, and not in force.
    configure(&qhost, &limits(16));
    let tried = posted("/v1/configuration/try");
    assert_eq!((&tried["differ"], &tried["differences"][0]["now"]), (&json!(1), &json!("denied")));
    assert_eq!(tried["differences"][0]["violations"][0]["policy"], "limits", "{tried}");
    assert_eq!(decided(), "allowed");
    let in_force = posted("/v1/configuration/reload");
    assert_eq!((&in_force["generation"], &in_force["can_step_back"]), (&json!(2), &json!(true)));
    assert_eq!(decided(), "denied");
    assert_eq!(posted("/v1/configuration/step-back")["generation"], 3);
    assert_eq!(decided(), "allowed");
    // One policy fails at past decisions, and another does not load.
    configure(
        &qhost,
        &(configured("traps", "probe-traps", json!({}), "") + "[host]\nchain = [\"traps\"]\n"),
    );
    let refused = service.post("/v1/configuration/reload", "").is(400).json();
    assert!(refused["detail"].as_str().unwrap().contains("a policy fails"), "{refused}");
    configure(&qhost, "[host]\nchain = [\"gone\"]\n");
    let refused = service.post("/v1/configuration/reload", "").is(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("gone"), "{refused}");
    assert_eq!(service.get("/v1/configuration").is(200).json()["generation"], 3);
    assert_eq!(decided(), "allowed");
    // A body that is no component is no policy, and nothing of it is left.
    service.post("/v1/replay?policy=limits", "no component").is(422);
    service.post("/v1/replay?policy=gone", "no component").is(400);
    service.post("/v1/replay?policy=limits", "").is(400);
    assert_eq!(fs::read_dir(qhost.state().join("tried")).unwrap().count(), 0);
    // Decisions are found by their texts, and by their times.
    let listed = |query: &str| {
        let listed = service.get(&format!("/v1/decisions?{query}")).is(200).json();
        listed["decisions"].as_array().unwrap().len()
    };
    assert_eq!(
        (listed("q=TRIED"), listed("q=nothing-of-it"), listed("outcome=allowed")),
        (1, 0, 1)
    );
    assert_eq!(
        (listed("since=2001-01-01T00:00:00Z"), listed("until=2001-01-01T00:00:00Z")),
        (1, 0)
    );
    service.get("/v1/decisions?outcome=fine").is(400);
    let id = started["decision"].as_str().unwrap();
    let record = service.get(&format!("/v1/decisions/{id}")).is(200).json();
    assert_eq!(record["actor"]["door"], "api", "{record}");
    assert_eq!(listed(&format!("after={id}")), 0);
    let vm = started["vm"].as_str().unwrap();
    qhost.run(&["kill", vm]).exits(0);
    service.end();
    qhost.assert_nothing_left();
}
