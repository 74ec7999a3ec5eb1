//! The command over the API, `qhost --host`: it prints what it prints on the host itself, for its own caller.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use qhost_tests::{
    Done, ImageServer, Qhost, Reply,
    api::{Certificate, Service},
    boot_sector::{self, Then},
    configured, succeed,
    terminal::{assert_harmless, run_on_terminal},
    wait_for,
};

use super::configure;
use crate::qhost;

fn host(service: &Service) -> String {
    format!("unix:{}", service.socket().display())
}

/// A command on the host itself, without what the tests' environment allows besides the configuration.
fn here(qhost: &Qhost, args: &[&str]) -> Done {
    Done::of(qhost.command(args).env_remove("QHOST_IMAGE_ALLOW").output().unwrap())
}

/// A command on another machine: no state folder and no configuration of the host is in its reach.
fn there(qhost: &Qhost, host: &str, args: &[&str]) -> Done {
    let mut command = qhost.command(args);
    command.env("QHOST_STATE_DIR", "/nowhere").env_remove("QHOST_CONFIG").env("QHOST_HOST", host);
    Done::of(command.output().unwrap())
}

fn served(qhost: &Qhost, server: &ImageServer, text: &str, then: Then) -> String {
    let image = server.serve(&format!("/{text}"), boot_sector::disk(text, then));
    qhost.job(&image, json!({"port_map": {"web": 80}}))
}

/// Removes the parts of a text that differ each time.
fn steady(text: &str) -> String {
    if let Ok(mut report) = serde_json::from_str::<Value>(text) {
        for policy in report["decision"]["policies"].as_array_mut().into_iter().flatten() {
            policy["cost"] = Value::Null;
        }
        return report.to_string();
    }
    let is_steady = |line: &&str| {
        !["supervisor ", "qemu ", "console  "].iter().any(|word| line.starts_with(word))
    };
    // The age of an object is different after a second, and so is the width of its column.
    let words = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        while let Some(ago) = words.iter().position(|word| *word == "ago") {
            words.drain(ago - 2..=ago);
        }
        words.join(" ") + "\n"
    };
    text.lines().filter(is_steady).map(words).collect()
}

/// Each command that only looks prints the same over the API as on the host.
#[test]
fn what_is_looked_at_is_printed_alike() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let sets = configured("sets", "probe-sets", json!({"memory_mib": 48}), "");
    configure(&qhost, &format!("{sets}[host]\nchain = [\"sets\"]\n"));
    let service = Service::start(&qhost);
    let host = host(&service);
    let job = served(&qhost, &server, "looked-at", Then::Hang);
    let started = there(&qhost, &host, &["run", "--detach", "--json", &job]).exits(0).json();
    assert_eq!(started["decision"]["launch"]["resources"]["memory_mib"], 48);
    let vm = started["vm"]["id"].as_str().unwrap().to_owned();
    let console = || here(&qhost, &["logs", &vm]).stdout.contains("looked-at");
    wait_for("the guest", || console().then_some(()));
    here(&qhost, &["volume", "create", "db", "--size", "8MiB"]).exits(0);
    let ended =
        there(&qhost, &host, &["run", "--json", &served(&qhost, &server, "ends", Then::PowerOff)]);
    let ended = ended.exits(0).json()["vm"]["id"].as_str().unwrap().to_owned();
    let decisions = here(&qhost, &["decisions", "--quiet"]).exits(0).stdout;
    let decision = decisions.lines().next().unwrap().to_owned();
    let commands: &[&[&str]] = &[
        &["ps"],
        &["ps", "--json"],
        &["ps", "--all", "--quiet"],
        &["ps", "--state", "exited"],
        &["ps", "--meta", "team=none", "--json"],
        &["inspect", &vm],
        &["inspect", "--json", &ended],
        &["inspect", "gone"],
        &["logs", &vm],
        &["logs", "--tail", "1", &vm],
        &["logs", "--follow", &ended],
        &["wait", &ended],
        &["wait", "--timeout", "1", &vm],
        &["events", "--json"],
        &["events", "--event", "running", "--tail", "1"],
        &["decisions"],
        &["decisions", "--json", "--outcome", "allowed", "--tail", "1"],
        &["decisions", &decision],
        &["quota"],
        &["quota", "--json"],
        &["volume", "ls"],
        &["volume", "ls", "--json"],
        &["image", "ls", "--quiet"],
        &["plan", &job],
        &["plan", "--json", &job],
        &["exec", &vm, "--", "true"],
        &["screenshot", &vm, "--output", "picture.png"],
        &["rm", &vm],
        &["stop", "gone"],
        &["volume", "rm", "gone"],
        &["decisions", "ffff"],
    ];
    for args in commands {
        let (here, there) = (here(&qhost, args), there(&qhost, &host, args));
        assert_eq!(here.code, there.code, "{args:?}: {here:?} {there:?}");
        // An error's text may be the API's; on the host it names the command that helps there.
        if here.code == 0 && !args.contains(&"image") {
            assert_eq!(steady(&here.stdout), steady(&there.stdout), "{args:?}");
        }
        assert_eq!(here.stderr.is_empty(), there.stderr.is_empty(), "{args:?}: {here:?} {there:?}");
    }
    let used = |done: Done| done.exits(0).json()["vms"][0].as_object().unwrap().len();
    let stats = ["stats", "--json"];
    assert_eq!(used(here(&qhost, &stats)), used(there(&qhost, &host, &stats)));
    let images = |done: Done| {
        let mut digests: Vec<_> = done.exits(0).stdout.lines().map(str::to_owned).collect();
        digests.sort();
        digests
    };
    let quiet = ["image", "ls", "--quiet"];
    assert_eq!(images(here(&qhost, &quiet)), images(there(&qhost, &host, &quiet)));
    there(&qhost, &host, &["fingerprint"]).exits(0).says("driver.qemu.version");
    there(&qhost, &host, &["kill", &vm]).exits(0).says("exited");
    service.end();
    qhost.assert_nothing_left();
}

/// These commands change something: a run that is followed and stopped, a refusal with its decision, volumes, images, an ended VM's
/// removal.
#[test]
fn what_is_done_is_done_there() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let guests = configured("guests", "guests", json!({"operators_only": ["pause"]}), "");
    configure(
        &qhost,
        &format!("{guests}[host]\nchain = [\"guests\"]\n[tenants.acme]\n[tenants.default]\n"),
    );
    let service = Service::start(&qhost);
    let host = host(&service);
    let there = |args: &[&str]| there(&qhost, &host, args);
    let job = served(&qhost, &server, "followed", Then::Hang);
    let mut running = {
        let mut command = qhost.command(&["--host", &host, "run", "--grace", "1", &job]);
        command.env("QHOST_STATE_DIR", "/nowhere").stderr(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let vm = wait_for("the VM", || {
        let vms = there(&["ps", "--state", "running", "--quiet"]).stdout;
        vms.lines().next().map(str::to_owned)
    });
    succeed("kill", &["-INT", &running.id().to_string()]);
    let mut said = String::new();
    running.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let done = Done::of(running.wait_with_output().unwrap());
    assert!(said.contains(&format!("as VM {vm}")) && said.contains("port "), "{said}");
    done.exits(130).says("stopped").says(&format!("of {host}"));
    there(&["restart", &vm]).exits(0).says("running");
    there(&["pause", &vm]).exits(0).says("paused");
    there(&["resume", &vm]).exits(0).says("running");
    there(&["stop", "--grace", "0", &vm]).exits(0).says("exited");
    there(&["rm", &vm]).exits(0).says("removed");
    let refused = served(&qhost, &server, "refused", Then::Hang);
    let text = fs::read_to_string(&refused)
        .unwrap()
        .replace("\"port_map\"", "\"egress\":\"internet\",\"port_map\"");
    let refused = qhost.file("refused.json", text);
    let denied = there(&["run", "--detach", &refused]).exits(11);
    denied.says("denied").says("host      refused");
    let denied = there(&["run", "--detach", "--json", &refused]).exits(11).json();
    assert_eq!(denied["decision"]["host"]["answer"], "refused", "{denied}");
    let broken = qhost.file("broken.json", "{\"name\": 5}");
    let (said, local) =
        (there(&["run", &broken]).exits(10), here(&qhost, &["run", &broken]).exits(10));
    assert!(said.stderr.contains("/name") && local.stderr.contains("/name"), "{said:?}");
    there(&["volume", "create", "db", "--size", "8MiB"])
        .exits(0)
        .says("created    default/db, 8.00 MiB");
    there(&["volume", "create", "db", "--size", "8MiB"]).exits(2).says("is there already");
    there(&["volume", "resize", "db", "--size", "16MiB"])
        .exits(0)
        .says("resized    default/db, 16.00 MiB");
    there(&["volume", "copy", "db", "db2"]).exits(0).says("copied     default/db2, 16.00 MiB");
    there(&["volume", "rm", "db", "db2"]).exits(0).says("removed    default/db2");
    there(&["volume", "create", "--tenant", "acme", "own", "--size", "8MiB"]).exits(0);
    there(&["volume", "ls", "--tenant", "acme"]).exits(0).says("own");
    there(&["volume", "rm", "acme/own"]).exits(0);
    let (url, sha256) = server.serve("/pulled", boot_sector::disk("pulled", Then::Hang));
    there(&["image", "pull", &url, "--checksum", &sha256]).exits(0).says(&sha256);
    there(&["image", "ls"]).exits(0).says(&sha256[..12]).says("/pulled");
    there(&["image", "rm", &sha256[..12]]).exits(0).says("removed");
    there(&["image", "rm", &sha256[..12]]).exits(2).says("no stored image");
    // A command that a service does not do for a client says so, and so does one whose work is this machine's own.
    for args in [
        &["drain"][..],
        &["recover"],
        &["doctor"],
        &["config", "show"],
        &["overlay", "ls"],
        &["token", "ls"],
    ] {
        there(args).exits(2).says("works on the host itself");
    }
    there(&["run", "--policy", "/p.wasm", &job]).exits(2).says("leave them out");
    there(&["run", "--image-allow", "10.0.0.0/8", &job]).exits(2).says("leave out --image-allow");
    there(&["job", "schema"]).exits(0);
    service.end();
    let absent = there(&["ps"]).exits(16);
    absent.says("cannot be reached").says("is qhost serve running there");
    qhost.assert_nothing_left();
}

/// The typed text reaches the guest, and the guest's output comes.
#[test]
fn a_console_is_typed_into() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let service = Service::start(&qhost);
    let host = host(&service);
    let job = served(&qhost, &server, "I-echo", Then::Echo);
    let started = there(&qhost, &host, &["run", "--detach", "--json", &job]).exits(0).json();
    let vm = started["vm"]["id"].as_str().unwrap();
    wait_for("the guest", || here(&qhost, &["logs", vm]).stdout.contains("I-echo").then_some(()));
    let mut command = qhost.command(&["--host", &host, "console", vm]);
    let mut console = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut typed = console.stdin.take().unwrap();
    typed.write_all(b"typed-there").unwrap();
    let mut said = console.stdout.take().unwrap();
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.contains("typed-there") {
        assert_eq!(said.read(&mut byte).unwrap(), 1, "{text}");
        text.push(byte[0].into());
    }
    assert!(!text.contains("I-echo"), "what was said before is in the log: {text}");
    // Ctrl-] detaches, and the text that was typed right before reaches the guest.
    typed.write_all(b"at-last\x1d").unwrap();
    drop(typed);
    assert!(console.wait().unwrap().success());
    wait_for("what was typed last", || {
        here(&qhost, &["logs", vm]).stdout.contains("at-last").then_some(())
    });
    there(&qhost, &host, &["kill", vm]).exits(0);
    service.end();
    qhost.assert_nothing_left();
}

/// Followed logs, events, waits and runs go on where they were when the service is killed and comes back.
#[test]
fn what_is_followed_outlives_the_service() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let mut service = Service::start(&qhost);
    let host = host(&service);
    let job = served(&qhost, &server, "ticks", Then::Tick);
    let follow = |args: &[&str]| {
        let mut command = qhost.command(&[&["--host", &host], args].concat());
        command.env("QHOST_STATE_DIR", "/nowhere").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let run = follow(&["run", "--json", &job]);
    let vm = wait_for("the VM", || {
        let vms = here(&qhost, &["ps", "--state", "running", "--quiet"]).stdout;
        vms.lines().next().map(str::to_owned)
    });
    let (logs, wait) = (follow(&["logs", "--follow", &vm]), follow(&["wait", "--json", &vm]));
    let mut events = follow(&["events", "--follow", "--json"]);
    for round in 0..2 {
        thread::sleep(Duration::from_secs(1));
        // The service is killed, or asked to leave: then it ends its answers, which is no end of what is followed.
        if round == 0 {
            service.kill();
        } else {
            service.signal(Signal::TERM);
            service.ended();
        }
        here(&qhost, &["pause", &vm]).exits(0);
        service = service.started_again(&qhost);
        here(&qhost, &["resume", &vm]).exits(0);
    }
    here(&qhost, &["kill", &vm]).exits(0);
    let told = |child: std::process::Child| Done::of(child.wait_with_output().unwrap());
    assert_eq!(told(wait).exits(0).json()["id"], *vm);
    assert_eq!(told(run).exits(130).json()["vm"]["end"]["reason"], "stopped");
    let console = here(&qhost, &["logs", &vm]).exits(0).stdout;
    assert_eq!(told(logs).exits(0).stdout, console);
    let mut text = String::new();
    let (mut said, mut byte) = (events.stdout.take().unwrap(), [0]);
    while !text.contains("\"exited\"") {
        assert_eq!(said.read(&mut byte).unwrap(), 1, "{text}");
        text.push(byte[0].into());
    }
    events.kill().unwrap();
    events.wait().unwrap();
    let all = here(&qhost, &["events", "--json"]).exits(0).stdout;
    assert!(all.starts_with(text.trim_end()), "{all}\n{text}");
    service.end();
    qhost.assert_nothing_left();
}

/// A start that a service puts off when it leaves goes on under the next one, and the command that asked for it follows it there.
#[test]
fn a_start_that_is_put_off_is_followed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let mut service = Service::start(&qhost);
    let host = host(&service);
    let disk = boot_sector::disk("put-off", Then::PowerOff);
    let (url, sha256) = server.serve("/put-off", disk.clone());
    let slow = Reply::Slow(disk.clone().into(), Duration::from_secs(60));
    server.set("/put-off", Reply::First(vec![slow], Box::new(Reply::File(disk.into()))));
    let job = qhost.job(&(url, sha256), json!({}));
    let mut command = qhost.command(&["--host", &host, "run", "--json", &job]);
    command.env("QHOST_STATE_DIR", "/nowhere").stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = command.spawn().unwrap();
    wait_for("the fetch", || {
        let all = service.get("/v1/operations").json();
        let step = all["operations"][0]["step"].as_str().map(str::to_owned)?;
        step.contains("fetching").then_some(())
    });
    service.signal(Signal::TERM);
    service.ended();
    let service = service.started_again(&qhost);
    let done = Done::of(run.wait_with_output().unwrap()).exits(0).json();
    assert_eq!(done["vm"]["end"]["reason"], "shut-down", "{done}");
    let all = here(&qhost, &["ps", "--all", "--json"]).exits(0).json();
    assert_eq!(all["vms"].as_array().unwrap().len(), 1, "{all}");
    service.end();
    qhost.assert_nothing_left();
}

/// Ctrl-C while the service fetches an image gives the start up, and nothing is left of it.
#[test]
fn a_start_is_given_up() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let service = Service::start(&qhost);
    let host = host(&service);
    let disk = boot_sector::disk("given-up", Then::Hang);
    let (url, sha256) = server.serve("/given-up", disk.clone());
    server.set("/given-up", Reply::Slow(disk.into(), Duration::from_secs(60)));
    let job = qhost.job(&(url, sha256), json!({}));
    let mut command = qhost.command(&["--host", &host, "run", &job]);
    command.env("QHOST_STATE_DIR", "/nowhere").stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = command.spawn().unwrap();
    wait_for("the fetch", || {
        let all = service.get("/v1/operations").json();
        let step = all["operations"][0]["step"].as_str().map(str::to_owned)?;
        step.contains("fetching").then_some(())
    });
    succeed("kill", &["-INT", &run.id().to_string()]);
    Done::of(run.wait_with_output().unwrap()).exits(130);
    let all = service.get("/v1/operations").json();
    assert_eq!(all["operations"][0]["state"], "failed", "{all}");
    assert_eq!(service.get("/v1/vms").json()["vms"], json!([]));
    service.end();
    qhost.assert_nothing_left();
}

/// Over the network, a token or a certificate says who the client is, and a service of another authority is not trusted.
#[test]
fn tenants_on_the_network() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let (own, client) = (Certificate::new(), Certificate::new());
    let known =
        format!("[api.certificates.acmes]\nsha256 = \"{}\"\ntenant = \"acme\"\n", client.sha256);
    let tenants = "[tenants.acme]\n[tenants.other]\n";
    configure(&qhost, &format!("{}{known}{tenants}", own.configuration()));
    let service = Service::start_on_network(&qhost);
    let host = service.url().replace("127.0.0.1", "localhost");
    let token = |name: &str, tenant: &str| {
        let made = qhost.run(&["token", "new", name, "--tenant", tenant]).exits(0);
        made.stdout.trim_end().to_owned()
    };
    let (acme, other) = (token("acmes", "acme"), token("others", "other"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let ask = |environment: &[(&str, &str)], args: &[&str]| {
        let mut command = qhost.command(args);
        command.env("QHOST_STATE_DIR", "/nowhere").env("QHOST_HOST", &host);
        command.env("QHOST_CACERT", own.file()).envs(environment.iter().copied());
        Done::of(command.output().unwrap())
    };
    let job = served(&qhost, &server, "acmes", Then::Hang);
    let by_token = [("QHOST_TOKEN", acme.as_str())];
    let started = ask(&by_token, &["run", "--detach", "--json", &job]).exits(0).json();
    let vm = started["vm"]["id"].as_str().unwrap();
    assert_eq!(started["task"]["tenant"], "acme");
    let (file, key) = (path(&client.file()), path(&client.key()));
    let by_certificate = [("QHOST_CLIENT_CERT", file.as_str()), ("QHOST_CLIENT_KEY", key.as_str())];
    ask(&by_certificate, &["ps"]).exits(0).says(vm);
    let by_other = [("QHOST_TOKEN", other.as_str())];
    let none = ask(&by_other, &["ps", "--json"]).exits(0).json();
    assert_eq!(none["vms"], json!([]));
    let foreign = ask(&by_other, &["inspect", vm]).exits(2);
    assert!(!foreign.stderr.contains("acme"), "{foreign:?}");
    ask(&by_other, &["kill", vm]).exits(2);
    ask(&by_other, &["run", "--tenant", "acme", "--detach", &job]).exits(11);
    ask(&[], &["ps"]).exits(2);
    ask(&[("QHOST_TOKEN", "qhost_guessed")], &["ps"]).exits(2);
    ask(&[("QHOST_TOKEN", "a\nb")], &["ps"]).exits(2).says("QHOST_TOKEN is no token");
    ask(&[("QHOST_CLIENT_CERT", file.as_str())], &["ps"]).exits(2).says("go together");
    ask(&[("QHOST_CACERT", "/gone.pem")], &["ps"]).exits(2).says("/gone.pem");
    // A service that the authority has not signed is told nothing, not even the token.
    let another = ask(&[("QHOST_CACERT", file.as_str()), by_token[0]], &["ps"]).exits(16);
    another.says("certificate");
    ask(&by_token, &["kill", vm]).exits(0);
    service.end();
    qhost.assert_nothing_left();
}

/// Serves each connection one text, whatever it asks.
fn answering(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _asked = stream.read(&mut head);
            let _taken = stream.write_all(answer.as_bytes());
        }
    });
    format!("https://{address}")
}

/// Another program answers in the service's place: its words steer no terminal, and its answers have bounds.
#[test]
fn what_is_no_service() {
    let qhost = qhost();
    let plain = answering("HTTP/1.1 200 OK\r\n\r\n{}".into());
    there(&qhost, &plain, &["ps"]).exits(16).says("cannot be reached");
    for wrong in ["http://127.0.0.1:1", "unix:", "ftp://x", "https://user:secret@h"] {
        let refused = there(&qhost, wrong, &["ps"]).exits(2);
        assert!(!refused.stderr.contains("secret"), "{refused:?}");
    }
    let socket = qhost.folder().join("hostile.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answers: Vec<(&str, i32, &str)> = vec![
        (
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
            16,
            "302",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", 16, "is not as the API"),
        ("HTTP/1.1 502 Bad\r\ncontent-length: 5\r\n\r\n<html", 16, "502"),
        (
            "HTTP/1.1 403 No\r\ncontent-length: 96\r\n\r\n{\"detail\":\"\\u001b]0;taken\\u0007\\nrunning   forged\",\"hint\":\"\\u001b[2J\",\"type\":\"urn:qhost:denied\"}   ",
            11,
            "taken",
        ),
    ];
    let texts: Vec<_> = answers.iter().map(|(text, ..)| (*text).to_owned()).collect();
    thread::spawn(move || {
        for (stream, text) in listener.incoming().zip(texts) {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _asked = stream.read(&mut head);
            let _taken = stream.write_all(text.as_bytes());
        }
    });
    let host = format!("unix:{}", socket.display());
    for (_, code, says) in answers {
        let done = run_on_terminal(&qhost, 80, &["--host", &host, "ps"]);
        assert_harmless(&done.stdout, "running   forged");
        done.exits(code).says(says);
    }
    let endless = qhost.folder().join("endless.sock");
    let listener = std::os::unix::net::UnixListener::bind(&endless).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _asked = stream.read(&mut [0; 4096]);
        let _head = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 65536]).is_ok() {}
    });
    let host = format!("unix:{}", endless.display());
    there(&qhost, &host, &["ps"]).exits(16).says("more than");
}
