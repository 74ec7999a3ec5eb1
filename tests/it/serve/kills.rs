//! The service is killed at each named point of a start, under load: VMs go on, an accepted start is done once, and each event is told
//! once.

use std::{
    collections::BTreeSet,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer,
    api::{Item, Service, User},
    boot_sector::{self, Then},
    wait_for,
};

use super::configure;
use crate::qhost;

const KEY: &str = "Idempotency-Key: the-start";
const TASK: &str = "killed";

fn is(what: &'static str, task: &'static str) -> impl Fn(&[Item]) -> bool {
    move |items| items.iter().any(|one| one.data["event"] == what && one.data["task"] == task)
}

/// Ends the other clients' requests when it is dropped.
pub(super) struct Over<'a>(pub(super) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The VMs of the task that have not ended.
fn its_vms(service: &Service) -> Vec<Value> {
    let list = service.get("/v1/vms").is(200).json();
    let vms = list["vms"].as_array().unwrap().iter();
    vms.filter(|vm| vm["task"] == TASK).cloned().collect()
}

fn killed_at(point: &str) {
    let server = ImageServer::start();
    let qhost = qhost().env("QHOST_KILL_AT", "nowhere");
    configure(&qhost, "");
    let job = |text: &str| {
        let image = server.serve(&format!("/{text}"), boot_sector::disk(text, Then::Hang));
        fs::read_to_string(qhost.job(&image, json!({}))).unwrap()
    };
    let bystander = qhost.file("bystander.json", job("bystander"));
    qhost.run(&["run", "--detach", &bystander]).exits(0);
    let qemus = qhost.qemus();
    let job = job("killed").replace("\"name\":\"test\"", &format!("\"name\":\"{TASK}\""));
    let qhost = qhost.env("QHOST_KILL_AT", point);
    let mut service = Service::start(&qhost);
    let stream = service.stream(User::Own, "/v1/events", None);
    let mut had = stream.until("the bystander's start", is("running", "test"));
    // Other clients send requests all the time.
    let is_over = AtomicBool::new(false);
    // The guard ends them even if this test fails.
    let over = Over(&is_over);
    let start =
        |service: &Service| service.request(User::Own, "POST", "/v1/vms", Some(&job), &[KEY]);
    let answered = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    service.request(User::Own, "POST", "/v1/decide", Some(&job), &[]);
                }
            });
        }
        let answered = start(&service);
        let live = || service.request(User::Own, "GET", "/health/live", None, &[]).status;
        wait_for("its end", || (live() == 0).then_some(()));
        drop(over);
        answered
    });
    service.ended();
    had.extend(stream.to_its_end().into_iter().skip(had.len()));
    let began = Instant::now();
    let qhost = qhost.env("QHOST_KILL_AT", "nowhere");
    let service = service.started_again(&qhost);
    println!("{point}: answered {}, back after {:?}", answered.status, began.elapsed());
    // Running VMs go on.
    assert!(qemus.iter().all(|qemu| qhost.qemus().contains(qemu)));
    // An accepted start is done under its id without a further request; a start that was not accepted is sent again with its key.
    let accepted = if answered.status == 202 {
        let id = answered.json()["id"].as_str().unwrap().to_owned();
        service.get(&format!("/v1/operations/{id}")).is(200);
        assert_eq!(start(&service).is(202).json()["id"], id.as_str());
        id
    } else {
        assert_eq!(answered.status, 0, "{answered:?}");
        // A start that was written down goes on, whether its client is told or not.
        let known = service.get("/v1/operations").is(200).json();
        assert_eq!(known["operations"].as_array().unwrap().len(), 1, "{known}");
        let id = known["operations"][0]["id"].clone();
        assert_eq!(start(&service).is(202).json()["id"], id);
        start(&service).is(202).json()["id"].as_str().unwrap().to_owned()
    };
    let done = wait_for("the start", || {
        let path = format!("/v1/operations/{accepted}/wait");
        let now = service.get(&path).is(200).json();
        (now["state"] != "running").then_some(now)
    });
    assert_eq!(done["state"], "succeeded", "{done}");
    let vms = its_vms(&service);
    assert_eq!(vms.len(), 1, "{vms:?}");
    assert_eq!((&vms[0]["id"], &vms[0]["state"]), (&done["vm"], &json!("running")));
    // The start's job is not needed any more, while its key is, also by a later service.
    let kept = qhost.state().join("operations").join(format!("{accepted}.json"));
    let kept = || fs::read_to_string(&kept).unwrap();
    wait_for("the job to go", || kept().contains("\"job\":null").then_some(()));
    let mut service = service;
    service.kill();
    let service = service.started_again(&qhost);
    assert_eq!(start(&service).is(202).json()["id"], accepted.as_str());
    assert_eq!(its_vms(&service).len(), 1);
    // The stream of events goes on where it was.
    let last = had.last().map(|item: &Item| item.id.clone());
    let stream = service.stream(User::Own, "/v1/events", last.as_deref());
    had.extend(stream.until("it runs", is("running", TASK)));
    // The event that was written down last is told last.
    thread::sleep(Duration::from_secs(1));
    let told = had.len();
    had.extend(stream.items().into_iter().skip(told));
    let had: Vec<_> = had.iter().map(|item| &item.id).collect();
    let all = service.stream(User::Own, "/v1/events", None);
    let all = all.until("all of it", |items| items.len() >= had.len());
    let all: Vec<_> = all.iter().map(|item| &item.id).take(had.len()).collect();
    assert_eq!(had, all);
    assert_eq!(had.iter().collect::<BTreeSet<_>>().len(), had.len());
    // Each decision about the start is a record.
    let recorded = service.get(&format!("/v1/decisions?task={TASK}")).is(200).json();
    assert!(!recorded["decisions"].as_array().unwrap().is_empty());
    for vm in [TASK, "test"] {
        qhost.run(&["kill", vm]).exits(0);
    }
    service.end();
    qhost.assert_nothing_left();
}

macro_rules! points {
    ($($name:ident = $point:literal),+ $(,)?) => { $(#[test] fn $name() { killed_at($point); })+ };
}

points! {
    accepted = "serve.accepted",
    reserved = "launch.reserved",
    image_locked = "store.locked",
    image_receiving = "fetch.receiving",
    image_received = "fetch.received",
    image_renamed = "store.renamed",
    image_recorded = "store.recorded",
    written = "launch.written",
    supervisor = "launch.supervisor",
}

/// A later service does not begin a start that a client has given up.
#[test]
fn a_start_that_was_given_up_stays_so() {
    let server = ImageServer::start();
    // The start waits where the image is locked for long enough.
    let qhost = qhost().env("QHOST_SLOW_AT", "store.locked=3000");
    configure(&qhost, "");
    let image = server.serve("/image", boot_sector::disk("given up", Then::Hang));
    let job = fs::read_to_string(qhost.job(&image, json!({}))).unwrap();
    let mut service = Service::start(&qhost);
    let begun = service.post("/v1/vms", &job).is(202).json();
    let path = format!("/v1/operations/{}", begun["id"].as_str().unwrap());
    service.ask(User::Own, "DELETE", &path, None, &[]).is(202);
    service.kill();
    let qhost = qhost.env("QHOST_SLOW_AT", "nowhere=0");
    let service = service.started_again(&qhost);
    service.get(&path).is(404);
    assert_eq!(service.get("/v1/vms").json()["vms"], json!([]));
    service.end();
}

/// Two services on one state folder would each go on with the other's starts.
#[test]
fn a_second_service_is_refused() {
    let qhost = qhost();
    configure(&qhost, "");
    let service = Service::start(&qhost);
    let other = qhost.folder().join("other.sock");
    let listen = ["serve", "--listen", other.to_str().unwrap()];
    qhost.run(&listen).exits(2).says("another service runs on this state folder");
    service.get("/health/live").is(204);
    service.end();
}
