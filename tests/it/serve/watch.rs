//! The dashboard, alerts and scrape configuration by which operators watch a service, loaded by a real Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use qhost_tests::{
    ImageServer, Prometheus,
    api::{Certificate, Service},
    configured, root, succeed, wait_for,
};

use super::{configure, job};
use crate::qhost;

/// The pattern that matches all values, as the dashboard's "All" does.
const ALL: &str = ".+";

fn shipped(name: &str) -> PathBuf {
    root().join("host/serve/watch").join(name)
}

fn dashboard() -> Value {
    serde_json::from_slice(&fs::read(shipped("dashboard.json")).unwrap()).unwrap()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

/// The panels, without the rows' titles.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    items(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The expressions of a panel.
fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    items(&panel["targets"]).iter().map(|target| text(&target["expr"]))
}

/// The dashboard's variables that ask Prometheus: name, series and label.
fn variables(dashboard: &Value) -> Vec<(&str, &str, &str)> {
    let all = items(&dashboard["templating"]["list"]).iter();
    let asking = all.filter(|variable| variable["type"] == "query");
    let parts = |variable| {
        let query: &Value = variable;
        let (name, query) = (text(&query["name"]), text(&query["query"]["query"]));
        let inner = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
        let (series, label) = inner.and_then(|inner| inner.rsplit_once(", ")).expect(query);
        (name, series, label)
    };
    asking.map(parts).collect()
}

/// Puts an expression's variables in, as Grafana does.
fn put_in(expression: &str, instance: &str, tenant: &str) -> String {
    let whole = expression
        .replace("$__rate_interval", "1m")
        .replace("$__range", "5m")
        .replace("$instance", instance)
        .replace("$tenant", tenant);
    assert!(!whole.contains('$'), "a variable that is not known: {whole}");
    whole
}

/// The names of the service's metrics in an expression, and of the rules' records.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| {
        word.starts_with("qhost_") || word.starts_with("process_") || word.contains(':')
    })
}

/// The metrics with their kinds, from the service's text.
fn families(metrics: &str) -> Vec<(&str, &str)> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|family| family.split_once(' ').expect("a name and a kind")).collect()
}

/// The names of the series that a metric has.
fn series_of((name, kind): (&str, &str)) -> Vec<String> {
    let endings: &[&str] = match kind {
        "counter" => &["_total"],
        "histogram" => &["_bucket", "_count", "_sum"],
        _ => &[""],
    };
    endings.iter().map(|ending| format!("{name}{ending}")).collect()
}

/// Whether a range has a number.
fn has_data(answer: &Value) -> bool {
    let all = answer["data"]["result"].as_array().into_iter().flatten();
    let points = all.flat_map(|one| one["values"].as_array().into_iter().flatten());
    points.filter_map(|point| point[1].as_str()?.parse().ok()).any(f64::is_finite)
}

/// Lays out the files as they are shipped, with the files that they name. The address is this service's, and the scrapes are more frequent,
/// so that the test is short.
fn laid_out(target: &str, certificate: &Certificate, token: &str) -> TempDir {
    let folder = TempDir::with_prefix("qhost-watch-").unwrap();
    let mut scrape = fs::read_to_string(shipped("scrape.yaml")).unwrap();
    for (is, becomes) in [("host.example:8443", target), ("_interval: 15s", "_interval: 5s")] {
        assert!(scrape.contains(is), "{is} is not in {scrape}");
        scrape = scrape.replace(is, becomes);
    }
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("scrape.yaml", scrape.as_bytes());
    put("alerts.yaml", &fs::read(shipped("alerts.yaml")).unwrap());
    put("qhost.token", token.as_bytes());
    put("qhost-ca.pem", &fs::read(certificate.file()).unwrap());
    folder
}

/// Waits until the target is up; gives all rules, once they have been evaluated.
fn loaded(prometheus: &Prometheus) -> Vec<Value> {
    let targets = wait_for("a scrape", || {
        let answer = prometheus.ask("targets", &[]);
        let targets = answer["data"]["activeTargets"].as_array()?;
        let are_scraped = targets.iter().all(|target| target["health"] != "unknown");
        (are_scraped && !targets.is_empty()).then(|| targets.clone())
    });
    assert_eq!(targets.len(), 1, "{targets:?}");
    assert_eq!((&targets[0]["health"], &targets[0]["lastError"]), (&json!("up"), &json!("")));
    let rules = wait_for("the rules", || {
        let answer = prometheus.ask("rules", &[]);
        let groups = answer["data"]["groups"].as_array()?;
        let rules: Vec<_> = groups.iter().flat_map(|group| items(&group["rules"])).collect();
        let are_evaluated = rules.iter().all(|rule| rule["health"] != "unknown");
        (are_evaluated && rules.len() > 20).then(|| rules.into_iter().cloned().collect::<Vec<_>>())
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    rules
}

/// Checks that the service has, or a rule records, each metric that is named; and that each metric of the service is shown.
fn names_are_known(dashboard: &Value, rules: &[Value], metrics: &str) {
    let families = families(metrics);
    let exposed: BTreeSet<_> = families.iter().copied().flat_map(series_of).collect();
    let shown = panels(dashboard).flat_map(expressions);
    let shown = shown.chain(variables(dashboard).into_iter().map(|(_, series, _)| series));
    let shown: BTreeSet<_> = shown.flat_map(names).collect();
    for name in &shown {
        assert!(exposed.contains(*name), "the dashboard has {name}, and the service has not");
    }
    for family in families {
        let is_shown = series_of(family).iter().any(|name| shown.contains(name.as_str()));
        assert!(is_shown, "the service has {}, and the dashboard has not", family.0);
    }
    let recording = rules.iter().filter(|rule| rule["type"] == "recording");
    let recorded: BTreeSet<_> = recording.map(|rule| text(&rule["name"])).collect();
    for name in rules.iter().flat_map(|rule| names(text(&rule["query"]))) {
        let is_known = exposed.contains(name) || recorded.contains(name);
        assert!(is_known, "a rule has {name}, and the service has not");
    }
}

#[test]
fn every_panel_has_data_in_a_real_prometheus() {
    let (qhost, server, own) = (qhost(), ImageServer::start(), Certificate::new());
    let limits = |name, memory_mib: u32, more| {
        configured(name, "limits", json!({"cpus": 4, "memory_mib": memory_mib}), more)
    };
    // With this configuration all metrics exist: quotas, and a policy in monitor mode that would refuse.
    let policies = limits("limits", 256, "") + &limits("tried", 16, "mode = \"monitor\"");
    let host = "[host]\nchain = [\"limits\", \"tried\"]\nquota = { vms = 10 }\n";
    let tenants = "[tenants.acme]\nquota = { vms = 4 }\n";
    configure(&qhost, &format!("{}{policies}{host}{tenants}", own.configuration()));
    let service = Service::start_on_network(&qhost);
    let token = qhost.run(&["token", "new", "prometheus", "--operator"]).exits(0).stdout;
    let target = service.url().replace("https://127.0.0.1", "localhost");
    let folder = laid_out(&target, &own, &token);
    let config = folder.path().join("scrape.yaml");
    succeed("promtool", &["check", "config", config.to_str().unwrap()]);
    let prometheus = Prometheus::start(&config);

    // The dashboard has a VM, a denial and a wrong request to show. Rates need each of them twice, before a scrape and after it.
    let job: Value = serde_json::from_str(&job(&qhost, &server, "watched")).unwrap();
    let asked = |name: &str, memory_mib: u32| {
        let mut job = job.clone();
        job["name"] = json!(name);
        job["resources"]["memory_mib"] = json!(memory_mib);
        service.done(service.post("/v1/vms?tenant=acme", &job.to_string()))
    };
    let happens = |name: &str| {
        let (started, denied) = (asked(name, 32), asked(name, 4096));
        assert_eq!(started["state"], "succeeded", "{started}");
        assert_eq!(denied["error"]["status"], 403, "{denied}");
        service.get("/v1/none").is(404);
        text(&started["vm"]).to_owned()
    };
    let first = happens("first");
    let rules = loaded(&prometheus);
    wait_for("what happened in a scrape", || {
        let denied = r#"qhost_http_requests_total{status="404"}"#;
        has_data(&prometheus.range(denied)).then_some(())
    });
    let second = happens("second");

    let dashboard = dashboard();
    // A VM that answers late is left out.
    let metrics = wait_for("all metrics", || {
        let metrics = service.get("/metrics").is(200).body;
        let of_qemu = ["qhost_vm_disk_reads_completed_total{", "qhost_vm_network_connections{"];
        of_qemu.iter().all(|name| metrics.contains(name)).then_some(metrics)
    });
    names_are_known(&dashboard, &rules, &metrics);
    for (name, series, label) in variables(&dashboard) {
        let series = put_in(series, ALL, ALL);
        let answer = prometheus.ask(&format!("label/{label}/values"), &[("match[]", &series)]);
        let expected = if name == "instance" { json!([target]) } else { json!(["acme"]) };
        assert_eq!((&answer["status"], &answer["data"]), (&json!("success"), &expected), "{name}");
    }
    let mut asked = 0;
    for panel in panels(&dashboard) {
        for expression in expressions(panel) {
            for (instance, tenant) in [(ALL, ALL), (target.as_str(), "acme")] {
                let expression = put_in(expression, instance, tenant);
                wait_for(&format!("data of {}: {expression}", panel["title"]), || {
                    let answer = prometheus.range(&expression);
                    assert_eq!(answer["status"], "success", "{}: {answer}", panel["title"]);
                    has_data(&answer).then_some(())
                });
                asked += 1;
            }
        }
    }
    assert!(asked > 80, "{asked}");
    for annotation in items(&dashboard["annotations"]["list"]) {
        if let Some(expression) = annotation["expr"].as_str() {
            let answer = prometheus.range(&put_in(expression, ALL, ALL));
            assert_eq!(answer["status"], "success", "{answer}");
        }
    }
    drop(prometheus);
    qhost.run(&["kill", &first, &second]).exits(0);
    service.end();
    qhost.assert_nothing_left();
}

/// `alerts_test.yaml` has each alert as it fires, and as it does not.
#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    let promtool =
        |what: &str, file: &Path| succeed("promtool", &[what, "rules", file.to_str().unwrap()]);
    promtool("check", &shipped("alerts.yaml"));
    promtool("test", &shipped("alerts_test.yaml"));
    let read = |name: &str| fs::read_to_string(shipped(name)).unwrap();
    let (alerts, tests) = (read("alerts.yaml"), read("alerts_test.yaml"));
    let alerts = alerts.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    let untried: Vec<_> =
        alerts.filter(|alert| !tests.contains(&format!("alertname=\"{alert}\""))).collect();
    assert!(untried.is_empty(), "{untried:?}");
}

/// Grafana takes the dashboard without a question: no input is asked for, and no two panels are the same.
#[test]
fn the_dashboard_loads_as_it_is() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null() && dashboard["__inputs"].is_null());
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in items(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "twice: {}", panel["id"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for cell in (at("y")..at("y") + at("h")).flat_map(|y| (0..at("w")).map(move |x| (x, y))) {
            let cell = (at("x") + cell.0, cell.1);
            assert!(cells.insert(cell), "{} lies over another panel", panel["title"]);
        }
    }
    for panel in panels(&dashboard) {
        let (title, description) = (text(&panel["title"]), text(&panel["description"]));
        let sentence = description.strip_suffix('.').unwrap_or_default();
        assert!(!sentence.is_empty() && !sentence.contains(". "), "{title}: {description}");
        assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in items(&panel["targets"]) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let is_named = !text(&target["legendFormat"]).is_empty();
            let is_alone = panel["type"] == "stat" || panel["type"] == "table";
            assert!(is_named || is_alone, "{title} has no legend");
        }
    }
}
