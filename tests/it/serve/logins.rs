//! The identity of a client on the network, and what keeps others from being taken for it.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rustix::process::Signal;
use serde_json::json;

use qhost_tests::{
    api::{Certificate, Service, User},
    command, wait_for,
};

use super::configure;
use crate::qhost;

/// A token stands for its caller until it is removed; its text is in no file and in no answer.
#[test]
fn a_token_from_its_making_to_its_end() {
    let qhost = qhost();
    let own = Certificate::new();
    configure(&qhost, &format!("{}[tenants.acme]\n", own.configuration()));
    let service = Service::start_on_network(&qhost);
    let who = |user| service.ask(user, "GET", "/v1/caller", None, &[]);
    who(User::Unknown).is(401);
    let made = qhost.run(&["token", "new", "ci", "--tenant", "acme", "--days", "1"]).exits(0);
    let token = made.stdout.trim_end();
    let expected = json!({"name": "token ci", "role": "tenant", "tenant": "acme"});
    assert_eq!(who(User::Token(token)).is(200).json(), expected);
    // A token goes before the connection's user.
    let header = format!("Authorization: Bearer {token}");
    let on_socket = service.ask(User::Own, "GET", "/v1/caller", None, &[&header]);
    assert_eq!(on_socket.is(200).json(), expected);
    let wrong = service.ask(User::Own, "GET", "/v1/caller", None, &["Authorization: Basic eDp5"]);
    wrong.is(401);
    who(User::Token(&token[..token.len() - 1])).is(401);
    who(User::Token("")).is(401);
    qhost.run(&["token", "new", "ci", "--operator"]).exits(2).says("there is a token ci already");
    qhost.run(&["token", "new", "x", "--tenant", "nobodys"]).exits(2).says("acme");
    qhost.run(&["token", "new", "../x", "--operator"]).exits(2).says("is no name of a token");
    let listed = qhost.run(&["token", "ls", "--json"]).exits(0);
    assert_eq!(listed.json()["tokens"][0]["name"], "ci");
    let secret = token.strip_prefix("qhost_").unwrap();
    let found = command("grep").args(["-r", secret]).arg(qhost.state()).output().unwrap();
    assert!(found.stdout.is_empty() && !listed.stdout.contains(secret), "{found:?}");
    // A tenant that is not configured any more has no callers.
    configure(&qhost, &format!("{}[tenants.other]\n", own.configuration()));
    service.signal(Signal::HUP);
    wait_for("the configuration", || (who(User::Token(token)).status == 403).then_some(()));
    qhost.run(&["token", "rm", "ci"]).exits(0);
    who(User::Token(token)).is(401);
    qhost.run(&["token", "rm", "ci"]).exits(2).says("there is no token ci");
    service.end();
}

/// A session is its cookie; a request that another site has a browser send changes nothing.
#[test]
fn a_session_is_its_own_pages() {
    let qhost = qhost();
    let own = Certificate::new();
    configure(&qhost, &own.configuration());
    let service = Service::start_on_network(&qhost);
    let made = qhost.run(&["token", "new", "ops", "--operator"]).exits(0);
    let token = made.stdout.trim_end();
    let begin = |body: &str| service.ask(User::Unknown, "POST", "/v1/session", Some(body), &[]);
    begin(&json!({"token": "qhost_guessed"}).to_string()).is(401);
    let wrong = begin("{\"token\": 7}").is(400);
    assert!(!wrong.body.contains('7'), "{wrong:?}");
    begin(&json!({"token": token}).to_string()).is(204);
    let mut curl = command("curl");
    curl.args(["--silent", "--insecure", "--include", "--data-binary"]);
    curl.arg(json!({"token": token}).to_string()).arg(format!("{}/v1/session", service.url()));
    let head = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    let cookie = head.lines().find(|line| line.to_lowercase().starts_with("set-cookie:")).unwrap();
    for attribute in ["__Host-qhost=", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let cookie = format!("Cookie: __Host-qhost={token}");
    let ask = |method: &str, headers: &[&str]| {
        let body = (method == "POST").then_some("{}");
        let path = if method == "POST" { "/v1/decide" } else { "/v1/caller" };
        service.ask(User::Unknown, method, path, body, headers).status
    };
    let origin = format!("Origin: {}", service.url());
    for (headers, expected) in [
        (&["Sec-Fetch-Site: same-origin"][..], 422),
        (&[&origin], 422),
        (&["Sec-Fetch-Site: cross-site", &origin], 403),
        (&["Sec-Fetch-Site: same-site"], 403),
        (&["Origin: https://evil.example"], 403),
        (&["Origin: null"], 403),
        (&[], 403),
    ] {
        let all = [&[cookie.as_str()], headers].concat();
        assert_eq!(ask("POST", &all), expected, "{headers:?}");
    }
    assert_eq!(ask("GET", &[&cookie]), 200);
    service.end();
}

/// A browser shows its user's certificate to every site's requests too; a program that is no browser says nothing of sites.
#[test]
fn a_certificate_in_a_browser_is_for_its_own_page() {
    let qhost = qhost();
    let (own, client) = (Certificate::new(), Certificate::new());
    let known =
        format!("[api.certificates.ops]\nsha256 = \"{}\"\noperator = true\n", client.sha256);
    configure(&qhost, &(own.configuration() + &known));
    let service = Service::start_on_network(&qhost);
    let ask = |headers: &[&str]| {
        let user = User::Certificate(&client);
        service.ask(user, "POST", "/v1/decide", Some("{}"), headers).status
    };
    assert_eq!(ask(&[]), 422);
    assert_eq!(ask(&["Sec-Fetch-Site: same-origin"]), 422);
    assert_eq!(ask(&["Sec-Fetch-Site: cross-site"]), 403);
    assert_eq!(ask(&["Origin: https://evil.example"]), 403);
    service.end();
}

/// On the network there is TLS alone, and the service's identity stays secret and is its operator's.
#[test]
fn the_service_is_known_by_its_certificate() {
    let qhost = qhost();
    configure(&qhost, "");
    let serve = ["serve", "--listen", "https://127.0.0.1:0"];
    qhost.run(&serve).exits(2).says("[api.tls]");
    qhost.run(&["serve", "--listen", "http://127.0.0.1:0"]).exits(2).says("expected unix:PATH");
    let (own, next) = (Certificate::new(), Certificate::new());
    configure(&qhost, &own.configuration());
    let mode = |mode| fs::set_permissions(own.key(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o640);
    qhost.run(&serve).exits(2).says("chmod 600");
    mode(0o600);
    let service = Service::start_on_network(&qhost);
    let ask = |trusted: &Certificate, more: &[&str]| {
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--write-out", "%{http_code} %{http_version}"]);
        curl.arg("--cacert").arg(trusted.file()).args(more);
        let port = service.url().rsplit_once(':').unwrap().1.to_owned();
        let curl = curl.arg(format!("https://localhost:{port}/version")).output().unwrap();
        String::from_utf8(curl.stdout).unwrap()
    };
    assert!(ask(&own, &[]).ends_with("200 2"), "HTTP/2");
    assert!(ask(&own, &["--http1.1"]).ends_with("200 1.1"));
    assert!(ask(&own, &["--tls-max", "1.2"]).ends_with("200 2"));
    assert!(ask(&own, &["--tls-max", "1.1"]).ends_with("000 0"));
    assert!(ask(&next, &[]).ends_with("000 0"), "another's certificate");
    let plain = service.url().replace("https://", "http://");
    let plain = command("curl").args(["--silent", "--max-time", "5", &plain]).output().unwrap();
    assert!(!plain.status.success(), "{plain:?}");
    // A renewed certificate is taken over with the configuration; one that cannot be used is not.
    fs::copy(next.file(), own.file()).unwrap();
    service.signal(Signal::HUP);
    service.get("/health/live").is(204);
    fs::copy(next.key(), own.key()).unwrap();
    service.signal(Signal::HUP);
    wait_for("the certificate", || ask(&next, &[]).ends_with("200 2").then_some(()));
    service.end();
}
