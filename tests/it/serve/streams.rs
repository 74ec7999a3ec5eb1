//! Events and consoles as they happen, for clients that come and go.

use std::{collections::BTreeSet, fs};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use qhost_tests::{
    ImageServer,
    api::{Item, Service, User},
    boot_sector::{self, Then},
    wait_for,
};

use super::{ACME, OTHER, configure, for_two_tenants, job};
use crate::qhost;

fn bytes(items: &[Item]) -> Vec<u8> {
    let of = |item: &Item| BASE64_STANDARD.decode(item.data["bytes"].as_str().unwrap()).unwrap();
    items.iter().flat_map(of).collect()
}

fn what(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.data["event"].as_str().unwrap()).collect()
}

/// A client goes on where it was, even after the service was killed: nothing is missing, and nothing comes twice.
#[test]
fn streams_go_on_after_the_service_was_killed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let image = server.serve("/ticks", boot_sector::disk("ticks", Then::Tick));
    let job = fs::read_to_string(qhost.job(&image, json!({}))).unwrap();
    let mut service = Service::start(&qhost);
    let mut events = service.stream(User::Own, "/v1/events", None);
    // An operation's stream ends with the operation.
    let accepted = service.post("/v1/vms", &job).is(202).json();
    let path = format!("/v1/operations/{}/events", accepted["id"].as_str().unwrap());
    let statuses = service.stream(User::Own, &path, None).to_its_end();
    let last = &statuses.last().unwrap().data;
    assert_eq!(last["state"], "succeeded", "{statuses:?}");
    let vm = last["vm"].as_str().unwrap();
    let console_path = format!("/v1/vms/{vm}/console");
    let mut console = service.stream(User::Own, &console_path, None);
    let (mut had, mut said) = (vec![], vec![]);
    for _ in 0..3 {
        had.extend(events.until("an event", |items| !items.is_empty()));
        said.extend(console.until("the console", |items| bytes(items).len() > 40));
        service.kill();
        // This happens while no service is there.
        qhost.run(&["pause", vm]).exits(0);
        service = service.started_again(&qhost);
        let after = had.last().map(|item: &Item| item.id.clone());
        events = service.stream(User::Own, "/v1/events", after.as_deref());
        let after = said.last().map(|item: &Item| item.id.clone());
        console = service.stream(User::Own, &console_path, after.as_deref());
        qhost.run(&["resume", vm]).exits(0);
    }
    qhost.run(&["kill", vm]).exits(0);
    said.extend(console.to_its_end());
    had.extend(events.until("the end", |items| what(items).contains(&"exited")));
    let all = service.stream(User::Own, "/v1/events", None);
    let all = all.until("all of it", |items| what(items).contains(&"exited"));
    assert_eq!(had, all);
    let ids: BTreeSet<_> = had.iter().map(|item| &item.id).collect();
    assert_eq!(ids.len(), had.len());
    for event in ["created", "running", "paused"] {
        assert!(what(&had).contains(&event), "{had:?}");
    }
    let log = fs::read(qhost.state().join("vms").join(vm).join("console.log")).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes(&said)), String::from_utf8_lossy(&log));
    // A stream from now on has no earlier events.
    let later = service.stream(User::Own, "/v1/events?after=now", None);
    assert_eq!(later.status(), 200);
    qhost.run(&["restart", vm]).exits(0);
    let first = later.until("what happens later", |items| !items.is_empty());
    assert!(!had.contains(&first[0]) && first[0].data["event"] != "created", "{first:?}");
    qhost.run(&["kill", vm]).exits(0);
    service.get("/v1/events?after=yesterday").is(400);
    service.get(&format!("{console_path}?after=x")).is(400);
    service.end();
    qhost.assert_nothing_left();
}

/// A tenant has its own events alone, and a bounded number of streams.
#[test]
fn a_tenants_streams_are_its_own_and_bounded() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(service) = for_two_tenants(&qhost) else { return };
    let streams: Vec<_> = (0..32).map(|_| service.stream(OTHER, "/v1/events", None)).collect();
    assert!(streams.iter().all(|stream| stream.status() == 200));
    assert_eq!(service.stream(OTHER, "/v1/events", None).status(), 429);
    service.ask(OTHER, "GET", "/v1/vms", None, &[]).is(200);
    let job = job(&qhost, &server, "acmes");
    let accepted = service.ask(ACME, "POST", "/v1/vms", Some(&job), &[]).is(202).json();
    let path = format!("/v1/operations/{}/events", accepted["id"].as_str().unwrap());
    let done = service.stream(ACME, &path, None).to_its_end();
    let vm = done.last().unwrap().data["vm"].as_str().unwrap().to_owned();
    let its = service.stream(ACME, &format!("/v1/events?vm={vm}"), None);
    let its = its.until("running", |items| what(items).contains(&"running"));
    assert!(its.iter().all(|item| item.data["tenant"] == "acme"), "{its:?}");
    for stream in &streams {
        assert_eq!(stream.items(), [], "another's events");
    }
    drop(streams);
    // The places of closed streams are given back.
    wait_for("a place", || {
        (service.stream(OTHER, "/v1/events", None).status() == 200).then_some(())
    });
    let killed = service.done(service.post(&format!("/v1/vms/{vm}/kill"), ""));
    assert_eq!(killed["state"], "succeeded", "{killed}");
    service.end();
    qhost.assert_nothing_left();
}
