//! The VM that a name means, among several tenants.

use serde_json::json;

use super::{ImageServer, qhost, run, start};

/// A task of the same name takes no command that was meant for another tenant's, whichever of them runs.
#[test]
fn a_task_of_the_same_name() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let acmes = run(&qhost, &server, "acme", "web");
    let (running, mallorys) = start(&qhost, &server, "mallory", "web");
    for command in [
        &["logs", "web"][..],
        &["console", "web"],
        &["exec", "web", "--", "true"],
        &["screenshot", "--output", "-", "web"],
        &["inspect", "web"],
        &["restart", "web"],
        &["stop", "web"],
        &["kill", "web"],
        &["pause", "web"],
        &["resume", "web"],
        &["stats", "web"],
        &["wait", "--timeout", "0", "web"],
        &["rm", "web"],
    ] {
        let refused = qhost.run(command).exits(2);
        let refused = refused.says("several VMs are meant by \"web\"");
        refused.says(&format!("acme/web  {acmes}")).says(&format!("mallory/web  {mallorys}"));
    }
    // Each of the names below says the tenant.
    for name in [format!("acme/{acmes}"), "acme/web".into(), format!("acme/{}", &acmes[..8])] {
        let found = qhost.run(&["inspect", "--json", &name]).exits(0).json();
        assert_eq!(found["id"], json!(acmes), "{name}");
    }
    qhost.run(&["logs", "--tenant", "acme", "web"]).exits(0).says("I am web");
    qhost.run(&["stop", "acme/web"]).exits(2).says(&format!("{acmes} has ended"));
    qhost.run(&["stop", "--tenant", "acme", &mallorys]).exits(2).says("no VM's id begins with");
    let listed = qhost.run(&["ps", "--all", "--tenant", "acme"]).exits(0);
    assert!(listed.stdout.contains(&acmes) && !listed.stdout.contains(&mallorys));
    let used = qhost.run(&["stats", "--json", "--tenant", "acme"]).exits(0).json();
    assert_eq!(used["vms"], json!([]));
    let events = qhost.run(&["events", "--tenant", "acme"]).exits(0).stdout;
    assert!(events.contains(&acmes) && !events.contains(&mallorys), "{events}");
    qhost.run(&["rm", "acme/web"]).exits(0);
    qhost.run(&["kill", "web"]).exits(0).says(&mallorys);
    running.end().exits(130);
}

/// A task that is named like an id, like the beginning of one, or like `TENANT/TASK` takes no such command either.
#[test]
fn a_task_named_like_anothers_vm() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let acmes = run(&qhost, &server, "acme", "web");
    let of = |name: &str| {
        let found = qhost.run(&["inspect", "--json", name]).exits(0).json();
        found["id"].as_str().unwrap().to_owned()
    };
    for name in [&acmes[..9], &acmes] {
        let mallorys = run(&qhost, &server, "mallory", name);
        assert_eq!(of(name), acmes);
        assert_eq!(of(&format!("mallory/{name}")), mallorys);
    }
    let slashed = run(&qhost, &server, "mallory", "acme/web");
    assert_eq!(of("acme/web"), acmes);
    qhost.run(&["rm", "acme/web"]).exits(0);
    qhost.run(&["rm", "acme/web"]).exits(2).says("before the first slash is a tenant's name");
    assert_eq!(of("mallory/acme/web"), slashed);
    qhost.run(&["rm", "--tenant", "mallory", "acme/web"]).exits(0).says(&slashed);
}
