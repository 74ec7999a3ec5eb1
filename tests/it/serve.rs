//! The host as a service: the API on its socket and on the network, asked by curl.

mod console;
mod kills;
mod logins;
mod policies;
mod remote;
mod roles;
mod schemathesis;
mod soak;
mod streams;
mod systemd;
mod watch;

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    api::{Service, User},
    boot_sector::{self, Then},
    configured, wait_for,
};

use crate::{decisions::records_of, qhost};

/// User numbers of this host that need not exist.
const ACME: User<'_> = User::Number(54_001);
const OTHER: User<'_> = User::Number(54_002);
const STRANGER: User<'_> = User::Number(54_003);

fn configure(qhost: &Qhost, more: &str) {
    qhost.config(&format!("[image.network]\nallow = [\"127.0.0.0/8\"]\n{more}"));
}

fn job(qhost: &Qhost, server: &ImageServer, text: &str) -> String {
    let image = server.serve(&format!("/{text}"), boot_sector::disk(text, Then::Hang));
    fs::read_to_string(qhost.job(&image, json!({}))).unwrap()
}

/// A service with two of this host's users as tenants; none if the tests cannot be those users.
fn for_two_tenants(qhost: &Qhost) -> Option<Service> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = "[api.users]\n54001 = \"acme\"\n54002 = \"other\"\n";
    configure(qhost, &format!("{users}[tenants.acme]\n[tenants.other]\n"));
    Some(Service::start(qhost))
}

#[test]
fn a_vms_life_by_the_api() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let limits = configured("limits", "limits", json!({"cpus": 4, "memory_mib": 256}), "");
    configure(&qhost, &format!("{limits}[host]\nchain = [\"limits\"]\n"));
    let service = Service::start(&qhost);
    service.get("/health/ready").is(204);
    assert!(service.get("/version").is(200).json()["version"].is_string());
    let host = service.get("/v1/host").is(200).json();
    assert_eq!(host["attributes"]["driver.qemu"], "1", "{host}");
    assert_eq!(service.get("/v1/policies").is(200).json()["policies"][0]["name"], "limits");
    let job = job(&qhost, &server, "by-the-api");
    // These requests launch nothing.
    let understood = service.post("/v1/jobs/validate", &job).is(200).json();
    assert_eq!(understood["task"]["name"], "test", "{understood}");
    let planned = service.post("/v1/jobs/plan", &job).is(200).json();
    assert_eq!(planned["decision"]["policies"][0]["answer"], "allowed", "{planned}");
    assert!(planned["plan"]["argv"].as_array().unwrap().len() > 10, "{planned}");
    let decided = service.post("/v1/decide", &job).is(200).json();
    assert_eq!(decided["outcome"], "allowed", "{decided}");
    let large: Value = serde_json::from_str(&job).unwrap();
    let mut large = large;
    large["resources"]["memory_mib"] = json!(4096);
    let decided = service.post("/v1/decide", &large.to_string()).is(200).json();
    assert_eq!(decided["outcome"], "denied", "{decided}");
    assert_eq!(service.get("/v1/decisions").json()["decisions"], json!([]), "nothing is recorded");
    // A denial is a problem with the policy's own words, and so is a job that is not understood.
    let denied = service.done(service.post("/v1/vms", &large.to_string()));
    assert_eq!((&denied["state"], &denied["error"]["status"]), (&json!("failed"), &json!(403)));
    assert_eq!(denied["error"]["refused_by"], "limits", "{denied}");
    let wrong = service.post("/v1/jobs/validate", "{\"name\": 7}").is(422);
    assert_eq!(wrong.kind, "application/problem+json");
    assert!(wrong.json()["problems"].as_array().is_some_and(|all| all.len() > 1), "{wrong:?}");
    // A start is asked for twice with one key.
    let start =
        |job: &str| service.ask(User::Own, "POST", "/v1/vms", Some(job), &["Idempotency-Key: one"]);
    let first = start(&job);
    let again = start(&job).is(202).json();
    assert_eq!(again["id"], first.json()["id"]);
    start(&large.to_string()).is(422);
    let started = service.done(first);
    assert_eq!(started["state"], "succeeded", "{started}");
    assert_eq!(qhost.qemus().len(), 1);
    let id = started["vm"].as_str().unwrap();
    let decision = started["decision"].as_str().unwrap();
    let recorded = service.get(&format!("/v1/decisions/{decision}")).is(200).json();
    assert_eq!((&recorded["id"], &recorded["outcome"]), (&json!(decision), &json!("allowed")));
    // The VM is found by its id and by its name.
    let vm = |path: &str| format!("/v1/vms/{id}{path}");
    let told = service.get(&vm("")).is(200).json();
    assert_eq!((&told["id"], &told["state"]), (&json!(id), &json!("running")), "{told}");
    assert_eq!(service.get("/v1/vms/test").is(200).json()["id"], id);
    assert_eq!(service.get("/v1/vms?state=running").json()["vms"][0]["id"], id);
    assert_eq!(service.get("/v1/vms?state=paused").json()["vms"], json!([]));
    wait_for("the console", || {
        service.get(&vm("/logs")).is(200).body.contains("by-the-api").then_some(())
    });
    assert_eq!(service.get(&vm("/logs?bytes=0")).is(200).body, "");
    // All lines are of the text format, each family is described once, and the requests above are counted.
    let metrics = service.get("/metrics").is(200);
    assert!(metrics.kind.starts_with("application/openmetrics-text"), "{metrics:?}");
    for line in [
        "qhost_policy_evaluations_total{policy=\"limits\",mode=\"enforce\",verdict=\"refused\"} 2",
        "qhost_policy_evaluations_total{policy=\"limits\",mode=\"enforce\",verdict=\"allowed\"} 3",
        "qhost_launch_phase_duration_seconds_count{phase=\"running\"} 1",
        "qhost_image_steps_total{phase=\"fetched\"} 1",
        "qhost_vms{tenant=\"default\",state=\"running\"} 1.0",
        "qhost_quota_used{tenant=\"default\",resource=\"vms\"} 1.0",
        "qhost_http_requests_total{route=\"/v1/decide\",method=\"POST\",status=\"200\"} 2",
        &format!(
            "qhost_vm_network_connections{{tenant=\"default\",task=\"test\",vm=\"{id}\"}} 0.0"
        ),
        "# EOF",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line}: {}", metrics.body);
    }
    assert!(metrics.body.contains("qhost_vm_disk_read_bytes_total{"), "{}", metrics.body);
    assert!(service.get(&vm("/stats")).is(200).json()["resident_bytes"].as_u64() > Some(1 << 20));
    service.post(&vm("/pause"), "").is(204);
    assert_eq!(service.get(&vm("")).json()["state"], "paused");
    service.post(&vm("/resume"), "").is(204);
    let restarted = service.done(service.post(&vm("/restart"), ""));
    assert_eq!(restarted["state"], "succeeded", "{restarted}");
    service.ask(User::Own, "DELETE", &vm(""), None, &[]).is(409);
    let stopped = service.done(service.post(&vm("/stop?grace_s=0"), ""));
    assert_eq!(stopped["state"], "succeeded", "{stopped}");
    assert!(qhost.qemus().is_empty());
    service.post(&vm("/pause"), "").is(409);
    assert_eq!(service.get("/v1/vms").json()["vms"], json!([]));
    assert_eq!(service.get("/v1/vms?all=true").json()["vms"][0]["id"], id);
    service.ask(User::Own, "DELETE", &vm(""), None, &[]).is(204);
    service.get(&vm("")).is(404);
    // Each change has its actor among the events.
    let events = qhost.run(&["events", "--json"]).exits(0).stdout;
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let own = format!("uid {}", rustix::process::geteuid().as_raw());
    let requested: Vec<_> = events
        .filter(|event| event["event"] == "requested" && event["actor"] == own.as_str())
        .map(|event| event["request"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(requested, ["start", "pause", "resume", "restart", "stop", "remove"]);
    // The operations are listed a page at a time.
    let page = service.get("/v1/operations?limit=2").is(200).json();
    assert_eq!(page["operations"].as_array().unwrap().len(), 2, "{page}");
    let next = page["next"].as_str().unwrap();
    let more = service.get(&format!("/v1/operations?after={next}")).is(200).json();
    assert_eq!(more["operations"].as_array().unwrap().len(), 2, "{more}");
    assert!(more["next"].is_null());
    service.end();
    qhost.assert_nothing_left();
}

/// An operation that a policy denies is not done. A tenant's own stop and restart are not asked about, by this door as by the others.
#[test]
fn operations_that_are_denied() {
    let (qhost, server) = (qhost(), ImageServer::start());
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let operations = ["stop", "restart", "pause"];
    let refuses =
        |operation| configured(operation, "probe-sets", json!({"refuse_operation": operation}), "");
    let rules = operations.map(refuses).concat();
    let chain = format!("[host]\nchain = {operations:?}\n");
    configure(&qhost, &format!("{rules}{chain}[api.users]\n54001 = \"acme\"\n[tenants.acme]\n"));
    let service = Service::start(&qhost);
    let job = job(&qhost, &server, "denied");
    let started = service.done(service.ask(ACME, "POST", "/v1/vms", Some(&job), &[]));
    let vm = format!("/v1/vms/{}", started["vm"].as_str().unwrap());
    let state = || {
        let vm = service.get(&vm).is(200).json();
        json!([vm["state"], vm["started_at"], vm["qemu"]["pid"]])
    };
    let ask = |user, what: &str| service.ask(user, "POST", &format!("{vm}/{what}"), None, &[]);
    let before = state();
    for (operation, user) in
        [("stop", User::Own), ("restart", User::Own), ("pause", User::Own), ("pause", ACME)]
    {
        let asked = ask(user, operation);
        let denied = match asked.status {
            // A request that takes long fails later, as an operation.
            202 => service.done(asked)["error"].clone(),
            _ => asked.is(403).json(),
        };
        assert_eq!((&denied["status"], &denied["refused_by"]), (&json!(403), &json!(operation)));
        assert_eq!(state(), before, "{operation}");
        let recorded = records_of(&qhost, "acme").pop().unwrap()["operation"].clone();
        let found = (&recorded["operation"], &recorded["actor"]["door"]);
        assert_eq!(found, (&json!(operation), &json!("api")));
    }
    for operation in ["restart", "stop"] {
        let done = service.done(ask(ACME, operation));
        assert_eq!(done["state"], "succeeded", "{done}");
    }
    service.end();
    qhost.assert_nothing_left();
}

/// VMs go on whatever becomes of the service, and the command line works beside it.
#[test]
fn vms_outlive_the_service() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let mut service = Service::start(&qhost);
    let started = service.done(service.post("/v1/vms", &job(&qhost, &server, "lives")));
    let vm = started["vm"].as_str().unwrap();
    let qemus = qhost.qemus();
    let socket = service.socket();
    let second = qhost.run(&["serve", "--listen", socket.to_str().unwrap()]);
    second.exits(2).says("another service runs on this state folder");
    let elsewhere = self::qhost();
    let second = elsewhere.run(&["serve", "--listen", socket.to_str().unwrap()]);
    second.exits(2).says("another service answers");
    service.kill();
    let service = service.started_again(&qhost);
    assert_eq!(qhost.qemus(), qemus);
    assert_eq!(service.get("/v1/vms").is(200).json()["vms"][0]["id"], vm);
    // A configuration that does not load is not taken over, and one that does is.
    let guests = configured("guests", "guests", json!({"operators_only": ["pause"]}), "");
    configure(&qhost, "[host]\nchain = [\"gone\"]\n");
    service.signal(Signal::HUP);
    assert_eq!(service.get("/v1/policies").is(200).json()["policies"], json!([]));
    configure(&qhost, &format!("{guests}[host]\nchain = [\"guests\"]\n"));
    service.signal(Signal::HUP);
    wait_for("the policy", || {
        let policies = service.get("/v1/policies").is(200).json();
        (policies["policies"][0]["name"] == "guests").then_some(())
    });
    qhost.run(&["kill", vm]).exits(0);
    assert_eq!(service.get("/v1/vms").is(200).json()["vms"], json!([]));
    service.end();
    qhost.run(&["serve", "--listen", "/no/such/folder/api.sock"]).exits(2).says("make it");
    let file = qhost.file("precious", "kept");
    qhost.run(&["serve", "--listen", &file]).exits(2).says("cannot listen at");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept", "what is no socket is left alone");
    qhost.assert_nothing_left();
}

/// A request that is not of this API is answered with a problem, and the service serves on.
#[test]
fn requests_that_are_none() {
    let qhost = qhost();
    configure(&qhost, "");
    let service = Service::start(&qhost);
    let ask = |method: &str, path: &str, body: Option<&str>| {
        let answered = service.ask(User::Own, method, path, body, &[]);
        assert_eq!(answered.kind, "application/problem+json", "{method} {path}: {answered:?}");
        assert!(answered.json()["detail"].is_string(), "{answered:?}");
        answered
    };
    let huge = "x".repeat(2 << 20);
    for (method, path, body, status) in [
        ("GET", "/assets/gone.js", None, 404),
        ("GET", "/assets/..%2Findex.html", None, 404),
        ("GET", "/v1/../../etc/passwd", None, 404),
        ("PUT", "/v1/vms", Some("{}"), 405),
        ("GET", "/v1/vms?state=lively", None, 400),
        ("GET", "/v1/vms?limit=0", None, 400),
        ("GET", "/v1/vms?limit=x", None, 400),
        ("GET", "/v1/vms?after=gone", None, 400),
        ("GET", "/v1/vms?colour=red", None, 400),
        ("GET", "/v1/vms/%00", None, 404),
        ("GET", "/v1/vms/%ff", None, 400),
        ("GET", "/v1/operations/0", None, 404),
        ("GET", "/v1/decisions/zz", None, 404),
        ("POST", "/v1/vms/x/stop?grace_s=-1", None, 400),
        ("POST", "/v1/vms", Some(huge.as_str()), 413),
        ("POST", "/v1/jobs/validate", Some(""), 422),
        ("POST", "/v1/jobs/plan", Some("[]"), 422),
        ("POST", "/v1/decide", Some("\u{1b}[2J"), 422),
    ] {
        ask(method, path, body).is(status);
    }
    let keyless =
        service.ask(User::Own, "POST", "/v1/vms", Some("{}"), &["Idempotency-Key: \u{e9}"]);
    keyless.is(400);
    let failed = service.post("/v1/vms", "{}").is(422).json();
    assert!(failed["problems"].is_array(), "{failed}");
    assert_eq!(service.get("/v1/operations").json()["operations"], json!([]));
    service.get("/health/live").is(204);
    service.end();
    qhost.assert_nothing_left();
}

#[test]
fn an_image_is_fetched_without_a_vm() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let service = Service::start(&qhost);
    let (image, sha256) = server.serve("/image", boot_sector::disk("fetched", Then::Hang));
    let fetch = |checksum: &str| {
        let wanted = json!({"sources": [image], "checksum": checksum});
        service.post("/v1/images", &wanted.to_string())
    };
    let refused = service.done(fetch(&format!("sha256:{}", "0".repeat(64))).is(202));
    assert_eq!(refused["error"]["type"], "urn:qhost:checksum-mismatch", "{refused}");
    assert_eq!(service.get("/v1/images").json()["images"], json!([]));
    fetch("none").is(400);
    let fetched = service.done(fetch(&sha256).is(202));
    assert_eq!(fetched["state"], "succeeded", "{fetched}");
    assert_eq!(service.get("/v1/images").json()["images"][0]["sha256"], sha256.as_str());
    service.end();
}
