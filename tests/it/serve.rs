//! The host as a service: the API on its socket, asked by curl.

mod streams;

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    api::{Answered, Service, User},
    boot_sector::{self, Then},
    configured, wait_for,
};

use crate::{decisions::records_of, qhost};

/// Users of this host that need not be there.
const ACME: User = User::Number(54_001);
const OTHER: User = User::Number(54_002);
const STRANGER: User = User::Number(54_003);

fn configure(qhost: &Qhost, more: &str) {
    qhost.config(&format!("[image.network]\nallow = [\"127.0.0.0/8\"]\n{more}"));
}

fn job(qhost: &Qhost, server: &ImageServer, text: &str) -> String {
    let image = server.serve(&format!("/{text}"), boot_sector::disk(text, Then::Hang));
    fs::read_to_string(qhost.job(&image, json!({}))).unwrap()
}

/// A service that two of this host's users are tenants of; none where the tests cannot be those users.
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
    // Without a launch.
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
    // A start, asked for twice with one key.
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
    // By its id and by its name.
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
    // All lines are of the text format, each family is told of once, and what was done above is counted.
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
    // The operations, a page at a time.
    let page = service.get("/v1/operations?limit=2").is(200).json();
    assert_eq!(page["operations"].as_array().unwrap().len(), 2, "{page}");
    let next = page["next"].as_str().unwrap();
    let more = service.get(&format!("/v1/operations?after={next}")).is(200).json();
    assert_eq!(more["operations"].as_array().unwrap().len(), 2, "{more}");
    assert!(more["next"].is_null());
    service.end();
    qhost.assert_nothing_left();
}

/// Each route asked by an operator, by a tenant, by another tenant and by a user who is neither.
#[test]
fn each_route_by_each_role() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let Some(service) = for_two_tenants(&qhost) else { return };
    let job = job(&qhost, &server, "acmes");
    let started = service.ask(ACME, "POST", "/v1/vms", Some(&job), &[]).is(202).json();
    let operation = started["id"].as_str().unwrap().to_owned();
    let done = wait_for("the start", || {
        let path = format!("/v1/operations/{operation}/wait");
        let now = service.ask(ACME, "GET", &path, None, &[]).is(200).json();
        (now["state"] != "running").then_some(now)
    });
    assert_eq!((&done["state"], &done["tenant"]), (&json!("succeeded"), &json!("acme")), "{done}");
    let of = |name: &str| done[name].as_str().unwrap().to_owned();
    let (vm, decision) = (of("vm"), of("decision"));
    let volume = "/v1/volumes/acmes?bytes=1048576";
    service.ask(ACME, "PUT", volume, None, &[]).is(201);
    let document = service.get("/openapi.json").is(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let filled = |vm: &str, operation: &str, decision: &str| {
                path.replace("{vm}", vm)
                    .replace("{volume}", if vm == "not-there" { vm } else { "acmes" })
                    .replace("{operation}", operation)
                    .replace("{decision}", decision)
            };
            let its = filled(&vm, &operation, &decision);
            let body = route.get("requestBody").map(|_| "{}");
            let audience = route["x-qhost-audience"].as_str().unwrap();
            let done = route["responses"].as_object().unwrap().values().next().unwrap();
            let is_stream = done["content"]["text/event-stream"].is_object();
            let ask = |user, path: &str| {
                if is_stream && user == OTHER && path == "/v1/events" {
                    // It has no end: what it says within a while stands for it.
                    let stream = service.stream(user, path, None);
                    std::thread::sleep(std::time::Duration::from_secs(1));
                    let body = format!("{:?}", stream.items());
                    return Answered { status: 200, kind: String::new(), body };
                }
                service.ask(user, &method, path, body, &[])
            };
            // One who is neither operator nor tenant.
            let stranger = ask(STRANGER, &its);
            let expected = if audience == "connected" { 200..=204 } else { 403..=403 };
            assert!(expected.contains(&stranger.status), "{method} {its}: {stranger:?}");
            // A tenant, of what is for operators, and of what is another's: as of what is not there.
            let other = ask(OTHER, &its);
            match audience {
                "operators" => assert_eq!(other.status, 403, "{method} {its}: {other:?}"),
                _ if its != *path => {
                    let absent = filled("not-there", "not-there", "not-there");
                    let absent = ask(OTHER, &absent);
                    assert_eq!(other.status, absent.status, "{method} {its}");
                    // Without its size, a volume is neither made nor looked for.
                    let expected = if its.contains("/volumes/") { 400..=404 } else { 404..=404 };
                    assert!(expected.contains(&other.status), "{method} {its}: {other:?}");
                    let neutral = |text: &str| {
                        text.replace(&vm, "IT")
                            .replace("acmes", "IT")
                            .replace(&operation, "IT")
                            .replace(&decision, "IT")
                            .replace("not-there", "IT")
                    };
                    assert_eq!(neutral(&other.body), neutral(&absent.body), "{method} {its}");
                }
                _ => {
                    assert!(!other.body.contains(&vm) && !other.body.contains("acme"), "{other:?}");
                }
            }
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    // A tenant cannot act for another by saying so, nor an operator's decision be another's.
    service.ask(OTHER, "POST", "/v1/vms?tenant=acme", Some(&job), &[]).is(403);
    assert_eq!(
        service.ask(OTHER, "GET", "/v1/decisions", None, &[]).json()["decisions"],
        json!([])
    );
    assert_eq!(
        service.ask(OTHER, "GET", "/v1/vms?tenant=acme", None, &[]).json()["vms"],
        json!([])
    );
    // What is its own it may do, and an operator may do all.
    assert_eq!(service.ask(ACME, "GET", "/v1/vms", None, &[]).json()["vms"][0]["id"], vm);
    let told = service.ask(ACME, "GET", "/v1/host", None, &[]).is(200).json();
    assert!(told["free_bytes"].is_null(), "{told}");
    assert!(service.get("/v1/host").json()["free_bytes"].is_u64());
    // Volumes, images and quotas are each tenant's own.
    let larger = "/v1/volumes/acmes/resize?bytes=2097152";
    for (method, path) in [("POST", larger), ("DELETE", "/v1/volumes/acmes")] {
        service.ask(OTHER, method, path, None, &[]).is(404);
        service.ask(OTHER, method, &path.replace("acmes", "a%2Fb"), None, &[]).is(400);
        let of_acme = if path.contains('?') { "&tenant=acme" } else { "?tenant=acme" };
        service.ask(OTHER, method, &format!("{path}{of_acme}"), None, &[]).is(403);
    }
    for list in ["volumes", "images", "quotas"] {
        let path = format!("/v1/{list}");
        let listed = |user| service.ask(user, "GET", &path, None, &[]).is(200).json()[list].clone();
        let (own, others) = (listed(ACME), listed(OTHER));
        assert_eq!(own.as_array().unwrap().len(), 1, "{list}: {own}");
        let all = listed(User::Own);
        if list == "images" {
            assert_eq!(others, json!([]), "{others}");
            assert!(own[0]["origins"].is_null() && own[0]["used_at"].is_null(), "{own}");
            assert!(all[0]["origins"].is_array() && all[0]["sha256"] == own[0]["sha256"], "{all}");
            continue;
        }
        assert_eq!(own[0]["tenant"], "acme", "{list}: {own}");
        let is_anothers = |item: &Value| item["tenant"] != "other";
        assert!(!others.as_array().unwrap().iter().any(is_anothers), "{list}: {others}");
        assert!(all.as_array().unwrap().contains(&own[0]), "{list}: {all}");
    }
    service.ask(ACME, "PUT", volume, None, &[]).is(409);
    let resized = service.ask(ACME, "POST", larger, None, &[]).is(200).json();
    assert_eq!(resized["bytes"], 2 << 20, "{resized}");
    service.ask(ACME, "DELETE", "/v1/volumes/acmes", None, &[]).is(204);
    service.ask(ACME, "DELETE", "/v1/volumes/acmes", None, &[]).is(404);
    let path = format!("/v1/vms/{vm}/pause");
    service.ask(ACME, "POST", &path, None, &[]).is(204);
    let recorded = qhost.run(&["decisions", "--json"]).exits(0).stdout;
    assert!(recorded.contains("\"door\":\"api\"") && recorded.contains("uid 54001"), "{recorded}");
    let killed = service.done(service.post(&format!("/v1/vms/{vm}/kill"), ""));
    assert_eq!(killed["state"], "succeeded", "{killed}");
    service.end();
    qhost.assert_nothing_left();
}

/// What a policy denies is not done. A tenant's own stop and restart are not asked about, by this door as by the others.
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
            // What takes long fails later.
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

/// Whatever becomes of the service, VMs go on, and the command line works beside it.
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

/// What is no request of this API has a problem as its answer, and the service serves on.
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
        ("GET", "/", None, 404),
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
    let failed = service.done(service.post("/v1/vms", "{}"));
    assert_eq!(failed["error"]["status"], 422, "{failed}");
    service.get("/health/live").is(204);
    service.end();
    qhost.assert_nothing_left();
}
