//! The API gets requests that its OpenAPI document allows, and some that it does not: no answer is a fault of the service, and none is
//! outside the document. `QHOST_SCHEMATHESIS_SECONDS` is how long it is asked, as before a release; without it each route is asked a few
//! times.

use std::{fs, process::Stdio};

use serde_json::json;

use qhost_tests::{
    ImageServer,
    api::{Certificate, Service, User},
    boot_sector::{self, Then},
    command, configured, root, succeed,
};

use super::configure;
use crate::qhost;

/// The document cannot express some conditions, such as which tenants there are: a request that it allows may be refused all the same.
const NOT_CHECKED: &str = "positive_data_acceptance";
/// The route of a stream that has no end.
const ENDLESS: &str = "follow-events";
/// The route that would ask hosts of random names.
const FETCHING: &str = "fetch-image";

#[test]
fn no_answer_is_outside_the_document() {
    let (qhost, server, own) = (qhost(), ImageServer::start(), Certificate::new());
    let limits = configured("limits", "limits", json!({"cpus": 4, "memory_mib": 256}), "");
    let tls = own.configuration();
    configure(
        &qhost,
        &format!("{tls}{limits}[host]\nchain = [\"limits\"]\n[tenants.acme]\n[tenants.default]\n"),
    );
    let service = Service::start_on_network(&qhost);
    let ops = qhost.run(&["token", "new", "ops", "--operator"]).exits(0).stdout;
    // The host has one object of each kind.
    let image = server.serve("/image", boot_sector::disk("asked", Then::Hang));
    let job = fs::read_to_string(qhost.job(&image, json!({"display": true}))).unwrap();
    let started = service.done(service.post("/v1/vms", &job).is(202));
    let of = |name: &str| started[name].as_str().unwrap();
    service.ask(User::Own, "PUT", "/v1/volumes/data?bytes=1048576", None, &[]).is(201);
    let settings = format!(
        "[parameters]\nvm = [\"{}\", \"test\"]\nvolume = [\"data\", \"copy\"]\ndecision = \"{}\"\noperation = \"{}\"\n",
        of("vm"),
        of("decision"),
        of("id")
    );
    let settings = qhost.file("schemathesis.toml", settings);
    let program = succeed(root().join("tests/schemathesis").to_str().unwrap(), &[]);
    let document = format!("{}/openapi.json", service.url());
    let token = format!("Authorization: Bearer {}", ops.trim_end());
    let mut asking = command(program.trim_end());
    asking.args(["--config-file", &settings, "run", &document, "--header", &token]);
    asking.args(["--tls-verify", "false", "--no-color", "--continue-on-failure"]);
    asking.args(["--checks", "all", "--exclude-checks", NOT_CHECKED]);
    asking.args(["--exclude-operation-id", ENDLESS, "--exclude-operation-id", FETCHING]);
    asking.args(["--request-timeout", "70"]);
    asking.args(["--suppress-health-check", "all", "--phases", "coverage,fuzzing"]);
    match std::env::var("QHOST_SCHEMATHESIS_SECONDS") {
        Ok(seconds) => asking.args(["--max-time", &seconds]),
        // The requests are the same each time.
        Err(_) => asking.args(["--max-examples", "5", "--seed", "1"]),
    };
    let asked = asking.current_dir(qhost.folder()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(asked.status.success(), "{}: {said}", asked.status);
    service.get("/health/ready").is(204);
    service.end();
    for vm in qhost.run(&["ps", "--quiet"]).exits(0).stdout.lines() {
        qhost.run(&["kill", vm]).exits(0);
    }
    qhost.assert_nothing_left();
}
