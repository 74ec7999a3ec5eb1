//! Each route by each role, by each kind of login: an operator, a tenant, another tenant, and a client who is none of them.

use std::time::Duration;

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    api::{Answered, Certificate, Service, User},
    wait_for,
};

use super::{ACME, OTHER, STRANGER, configure, for_two_tenants, job};
use crate::qhost;

/// The callers of each role.
#[derive(Clone, Copy)]
struct Roles<'a> {
    operator: User<'a>,
    acme: User<'a>,
    /// Another tenant.
    other: User<'a>,
    /// A client who is neither operator nor tenant.
    stranger: User<'a>,
    /// The status of the stranger's answers.
    refused: u16,
    /// The name of acme's caller in records.
    actor: &'a str,
}

#[test]
fn users_of_this_host() {
    let qhost = qhost();
    let Some(service) = for_two_tenants(&qhost) else { return };
    let (operator, actor) = (User::Own, "uid 54001");
    let roles =
        Roles { operator, acme: ACME, other: OTHER, stranger: STRANGER, refused: 403, actor };
    each_route(&qhost, service, roles);
}

/// A service on the network that knows two tenants.
fn on_network(qhost: &Qhost, more: &str) -> Service {
    let own = Certificate::new();
    let own = own.configuration();
    configure(qhost, &format!("{own}{more}[tenants.acme]\n[tenants.other]\n"));
    Service::start_on_network(qhost)
}

fn token(qhost: &Qhost, name: &str, holder: &[&str]) -> String {
    let made = qhost.run(&[&["token", "new", name], holder].concat()).exits(0);
    made.stdout.trim_end().to_owned()
}

/// Makes an operator's token, acme's and the other tenant's.
fn tokens(qhost: &Qhost) -> [String; 3] {
    [
        token(qhost, "ops", &["--operator"]),
        token(qhost, "acmes", &["--tenant", "acme"]),
        token(qhost, "others", &["--tenant", "other", "--days", "1"]),
    ]
}

#[test]
fn tokens_on_the_network() {
    let qhost = qhost();
    let service = on_network(&qhost, "");
    let [ops, acme, other] = &tokens(&qhost);
    let (operator, acme, other) = (User::Token(ops), User::Token(acme), User::Token(other));
    let (stranger, refused, actor) = (User::Token("qhost_guessed"), 401, "token acmes");
    each_route(&qhost, service, Roles { operator, acme, other, stranger, refused, actor });
}

#[test]
fn sessions_on_the_network() {
    let qhost = qhost();
    let service = on_network(&qhost, "");
    let [ops, acme, other] = &tokens(&qhost);
    let (operator, acme, other) = (User::Session(ops), User::Session(acme), User::Session(other));
    let (stranger, refused, actor) = (User::Unknown, 401, "token acmes");
    each_route(&qhost, service, Roles { operator, acme, other, stranger, refused, actor });
}

#[test]
fn certificates_on_the_network() {
    let qhost = qhost();
    let [ops, acme, other, stranger] = &std::array::from_fn(|_| Certificate::new());
    let known = |name: &str, certificate: &Certificate, is: &str| {
        format!("[api.certificates.{name}]\nsha256 = \"{}\"\n{is}\n", certificate.sha256)
    };
    let clients = known("ops", ops, "operator = true")
        + &known("build", acme, "tenant = \"acme\"")
        + &known("theirs", other, "tenant = \"other\"");
    let service = on_network(&qhost, &clients);
    let [operator, acme, other, stranger] = [ops, acme, other, stranger].map(User::Certificate);
    let (refused, actor) = (401, "certificate build");
    each_route(&qhost, service, Roles { operator, acme, other, stranger, refused, actor });
}

/// Sends each route's request as each role.
fn each_route(qhost: &Qhost, service: Service, roles: Roles<'_>) {
    let Roles { operator, acme, other, stranger, refused, actor } = roles;
    let get = |path: &str| service.ask(operator, "GET", path, None, &[]);
    let server = ImageServer::start();
    let job = job(qhost, &server, "acmes");
    let started = service.ask(acme, "POST", "/v1/vms", Some(&job), &[]).is(202).json();
    let operation = started["id"].as_str().unwrap().to_owned();
    let done = wait_for("the start", || {
        let path = format!("/v1/operations/{operation}/wait");
        let now = service.ask(acme, "GET", &path, None, &[]).is(200).json();
        (now["state"] != "running").then_some(now)
    });
    assert_eq!((&done["state"], &done["tenant"]), (&json!("succeeded"), &json!("acme")), "{done}");
    let of = |name: &str| done[name].as_str().unwrap().to_owned();
    let (vm, decision) = (of("vm"), of("decision"));
    let volume = "/v1/volumes/acmes?bytes=1048576";
    service.ask(acme, "PUT", volume, None, &[]).is(201);
    let document = get("/openapi.json").is(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            let filled = |vm: &str, operation: &str, decision: &str| {
                path.replace("{vm}", vm)
                    .replace("{volume}", if vm == "not-there" { vm } else { "acmes" })
                    .replace("{image}", "0")
                    .replace("{operation}", operation)
                    .replace("{decision}", decision)
            };
            let its = filled(&vm, &operation, &decision);
            let body = route.get("requestBody").map(|_| "{}");
            let audience = route["x-qhost-audience"].as_str().unwrap();
            let done = route["responses"].as_object().unwrap().values().next().unwrap();
            let is_stream = done["content"]["text/event-stream"].is_object();
            let ask = |user, path: &str| service.ask(user, &method, path, body, &[]);
            // The stranger is neither operator nor tenant.
            let answered = ask(stranger, &its);
            let expected = match audience {
                "connected" if body.is_some() => 400..=400,
                "connected" => 200..=204,
                _ => refused..=refused,
            };
            assert!(expected.contains(&answered.status), "{method} {its}: {answered:?}");
            assert!(!answered.body.contains("acme"), "{method} {its}: {answered:?}");
            // A tenant's request for what is an operator's, or another tenant's, is answered as if that were not there.
            let answered = if is_stream && its == "/v1/events" {
                // The stream has no end: its items of the first second stand for it.
                let stream = service.stream(other, &its, None);
                std::thread::sleep(Duration::from_secs(1));
                let body = format!("{:?}", stream.items());
                Answered { status: stream.status(), kind: String::new(), body }
            } else {
                ask(other, &its)
            };
            match audience {
                "operators" => assert_eq!(answered.status, 403, "{method} {its}: {answered:?}"),
                _ if its != *path => {
                    let absent = filled("not-there", "not-there", "not-there");
                    let absent = ask(other, &absent);
                    assert_eq!(answered.status, absent.status, "{method} {its}");
                    // Without its size a volume is neither made nor looked for, and without a command no guest is.
                    let is_incomplete = its.contains("/volumes/") || body.is_some();
                    let expected = if is_incomplete { 400..=404 } else { 404..=404 };
                    assert!(expected.contains(&answered.status), "{method} {its}: {answered:?}");
                    let neutral = |text: &str| {
                        text.replace(&vm, "IT")
                            .replace("acmes", "IT")
                            .replace(&operation, "IT")
                            .replace(&decision, "IT")
                            .replace("not-there", "IT")
                    };
                    assert_eq!(neutral(&answered.body), neutral(&absent.body), "{method} {its}");
                }
                _ => {
                    let is_anothers = answered.body.contains(&vm) || answered.body.contains("acme");
                    assert!(!is_anothers, "{method} {its}: {answered:?}");
                }
            }
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    // A tenant cannot act for another tenant by naming it, and an operator's decisions are not shown to it.
    service.ask(other, "POST", "/v1/vms?tenant=acme", Some(&job), &[]).is(403);
    assert_eq!(
        service.ask(other, "GET", "/v1/decisions", None, &[]).json()["decisions"],
        json!([])
    );
    assert_eq!(
        service.ask(other, "GET", "/v1/vms?tenant=acme", None, &[]).json()["vms"],
        json!([])
    );
    // A tenant may act on its own objects, and an operator on all.
    assert_eq!(service.ask(acme, "GET", "/v1/vms", None, &[]).json()["vms"][0]["id"], vm);
    let told = service.ask(acme, "GET", "/v1/host", None, &[]).is(200).json();
    assert!(told["free_bytes"].is_null(), "{told}");
    assert!(get("/v1/host").json()["free_bytes"].is_u64());
    // Volumes, images and quotas are each tenant's own.
    let larger = "/v1/volumes/acmes/resize?bytes=2097152";
    let copy = "/v1/volumes/acmes/copy?to=copied";
    for (method, path) in [("POST", larger), ("POST", copy), ("DELETE", "/v1/volumes/acmes")] {
        service.ask(other, method, path, None, &[]).is(404);
        service.ask(other, method, &path.replace("acmes", "a%2Fb"), None, &[]).is(400);
        let of_acme = if path.contains('?') { "&tenant=acme" } else { "?tenant=acme" };
        service.ask(other, method, &format!("{path}{of_acme}"), None, &[]).is(403);
    }
    for list in ["volumes", "images", "quotas"] {
        let path = format!("/v1/{list}");
        let listed = |user| service.ask(user, "GET", &path, None, &[]).is(200).json()[list].clone();
        let (own, others) = (listed(acme), listed(other));
        assert_eq!(own.as_array().unwrap().len(), 1, "{list}: {own}");
        let all = listed(operator);
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
    service.ask(acme, "PUT", volume, None, &[]).is(409);
    let resized = service.ask(acme, "POST", larger, None, &[]).is(200).json();
    assert_eq!(resized["bytes"], 2 << 20, "{resized}");
    let copying = service.ask(acme, "POST", copy, None, &[]).is(202).json();
    let wait = format!("/v1/operations/{}/wait", copying["id"].as_str().unwrap());
    let copied = service.ask(acme, "GET", &wait, None, &[]).is(200).json();
    assert_eq!((&copied["state"], &copied["tenant"]), (&json!("succeeded"), &json!("acme")));
    service.ask(acme, "POST", copy, None, &[]).is(409);
    service.ask(acme, "DELETE", "/v1/volumes/copied", None, &[]).is(204);
    service.ask(acme, "DELETE", "/v1/volumes/acmes", None, &[]).is(204);
    service.ask(acme, "DELETE", "/v1/volumes/acmes", None, &[]).is(404);
    let path = format!("/v1/vms/{vm}/pause");
    service.ask(acme, "POST", &path, None, &[]).is(204);
    let recorded = qhost.run(&["decisions", "--json"]).exits(0).stdout;
    assert!(recorded.contains("\"door\":\"api\"") && recorded.contains(actor), "{recorded}");
    let kill = format!("/v1/vms/{vm}/kill");
    let killed = service.done(service.ask(operator, "POST", &kill, Some(""), &[]));
    assert_eq!(killed["state"], "succeeded", "{killed}");
    service.end();
    qhost.assert_nothing_left();
}
