//! Consoles that are typed into over the API.

use std::fs;

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer,
    api::{Attached, Service, User},
    boot_sector::{self, Then},
    configured, wait_for,
};

use super::{ACME, OTHER, configure, for_two_tenants};
use crate::qhost;

fn job(qhost: &qhost_tests::Qhost, server: &ImageServer) -> String {
    let image = server.serve("/echo", boot_sector::disk("I echo", Then::Echo));
    fs::read_to_string(qhost.job(&image, json!({}))).unwrap()
}

/// The typed text reaches the guest, and the guest's output comes; a ticket serves once, for its console and its caller.
#[test]
fn a_console_is_typed_into() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(service) = for_two_tenants(&qhost) else { return };
    let begun = service.ask(ACME, "POST", "/v1/vms", Some(&job(&qhost, &server)), &[]);
    let vm = service.done(begun)["vm"].as_str().unwrap().to_owned();
    let (ask, attach) =
        (format!("/v1/vms/{vm}/console/ticket"), format!("/v1/vms/{vm}/console/attach"));
    let ticket = |user: User<'_>| {
        let given = service.ask(user, "POST", &ask, Some(""), &[]).is(201).json();
        assert_eq!(given["expires_in_s"], 60);
        format!("{attach}?ticket={}", given["ticket"].as_str().unwrap())
    };
    service.ask(OTHER, "POST", &ask, Some(""), &[]).is(404);
    let own = ticket(User::Own);
    let mut console = Attached::attach(&service.socket(), &own).ok().unwrap();
    console.until_says("I echo");
    console.types("hello");
    console.until_says("hello");
    let refused = |path: &str| Attached::attach(&service.socket(), path).err();
    assert_eq!(refused(&own), Some(403), "it was used");
    assert_eq!(refused(&ticket(ACME)), Some(403), "it is acme's");
    assert_eq!(refused(&attach), Some(403), "there is none");
    assert_eq!(refused(&format!("{attach}?ticket=0")), Some(403));
    service.ask(User::Own, "GET", &ticket(User::Own), None, &[]).is(400);
    let recorded = qhost.run(&["decisions", "--json"]).exits(0).stdout;
    assert!(recorded.contains("\"operation\":\"console\""), "{recorded}");
    qhost.run(&["kill", &format!("acme/{}", &vm)]).exits(0);
    console.until_closed();
    service.ask(ACME, "POST", &ask, Some(""), &[]).is(409);
    service.end();
    qhost.assert_nothing_left();
}

/// A console that policies let be read alone gets no ticket, and a service that leaves closes its attached consoles.
#[test]
fn a_console_that_is_read_alone() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let guests = configured("guests", "guests", json!({"operators_only": ["console"]}), "");
    configure(&qhost, &format!("{guests}[host]\nchain = [\"guests\"]\n"));
    let service = Service::start(&qhost);
    let begun = service.post("/v1/vms", &job(&qhost, &server));
    let vm = service.done(begun)["vm"].as_str().unwrap().to_owned();
    let ask = format!("/v1/vms/{vm}/console/ticket");
    let given: Value = service.post(&ask, "").is(201).json();
    let path = format!("/v1/vms/{vm}/console/attach?ticket={}", given["ticket"].as_str().unwrap());
    let console = Attached::attach(&service.socket(), &path).ok().unwrap();
    service.end();
    console.until_closed();
    qhost.run(&["kill", &vm]).exits(0);
    wait_for("its end", || qhost.qemus().is_empty().then_some(()));
}
