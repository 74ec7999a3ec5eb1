//! Registries that lie, that answer without end, or whose words would steer a terminal; and one that wants a token.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::json;

use qhost_tests::{
    Qhost, RawServer, policy,
    terminal::{assert_harmless, run_on_terminal},
};

use crate::qhost;

/// The bytes that may be on their way between a registry and qhost: the sockets' buffers of both.
const ON_ITS_WAY: u64 = 16 << 20;

fn place(server: &RawServer) -> String {
    format!("127.0.0.1:{}/policies/limits:1.0", server.port())
}

/// Runs a command against a server; gives the most memory that the command was seen to have, in bytes.
fn peak(qhost: &Qhost, args: &[&str], says: &str) -> u64 {
    let running = qhost.start(args);
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    while let Ok(text) = fs::read_to_string(&status) {
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        // A process that has ended, and was not waited for yet, has no memory.
        let Some(line) = line else { break };
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        peak = peak.max(kib << 10);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    running.end().exits(13).says(says);
    peak
}

/// Writes until the client has closed; counts the bytes.
fn endless(stream: &mut TcpStream, head: &str, sent: &AtomicU64) {
    let block = vec![b' '; 64 << 10];
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    let mut written = stream.write_all(head.as_bytes());
    while written.is_ok() {
        sent.fetch_add(block.len() as u64, Ordering::Relaxed);
        written = stream.write_all(&block);
    }
}

fn answer(stream: &mut TcpStream, head: &str, body: &str) {
    let length = body.len();
    let text =
        format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    // A client that has seen enough may be gone.
    if stream.write_all(text.as_bytes()).is_err() {}
}

/// A registry whose answers begin well and then have no end.
struct Case {
    what: &'static str,
    /// The heads and the bodies of the first answers.
    first: &'static [(&'static str, &'static str)],
    /// The head of the answer whose body has no end.
    endless_head: &'static str,
    /// The most bytes of the endless body that are read.
    most: u64,
    says: &'static str,
    is_push: bool,
}

/// Each read of a registry's answer and the memory of `qhost` have a bound, whatever the answer.
#[test]
fn answers_without_an_end() {
    let digest = "0".repeat(64);
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": format!("sha256:{digest}"), "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": format!("sha256:{digest}"), "size": 2}],
    });
    const CHALLENGE: &str =
        "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://HOST/token\",service=\"s\"";
    let manifest = manifest.to_string();
    let pull = |what, first, endless_head, most, says| Case {
        what,
        first,
        endless_head,
        most,
        says,
        is_push: false,
    };
    let push = |what, first| Case {
        is_push: true,
        ..pull(what, first, "500 Internal Server Error", 64 << 10, "500")
    };
    let redirect = "307 Temporary Redirect\r\nLocation: /v2/elsewhere";
    let cases = [
        pull("a manifest", &[], "200 OK", 4 << 20, "has more than 4194304 bytes"),
        pull("a refusal", &[], "500 Internal Server Error", 64 << 10, "answered 500"),
        pull("a token", &[(CHALLENGE, "")], "200 OK", 64 << 10, "has more than 65536 bytes"),
        pull("no token", &[(CHALLENGE, "")], "403 Forbidden", 64 << 10, "answered 403"),
        pull("a file", &[("200 OK", "MANIFEST")], "200 OK", 64 << 20, "has more than 67108864"),
        pull("a redirect", &[], redirect, 64 << 10, "the connection to"),
        push("a blob that is asked for", &[]),
        push("an upload", &[("404 Not Found", "")]),
    ];
    for Case { what, first, endless_head, most, says, is_push } in cases {
        let sent = Arc::new(AtomicU64::new(0));
        let (counted, manifest) = (sent.clone(), manifest.clone());
        let server = RawServer::asked(move |number, request, stream| match first.get(number) {
            Some((head, body)) => {
                let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
                answer(stream, &head.replace("HOST", host), &body.replace("MANIFEST", &manifest));
            }
            None => endless(stream, endless_head, &counted),
        });
        let (qhost, file) = (qhost(), policy("limits"));
        let args = if is_push {
            vec!["policy", "push", file.to_str().unwrap()]
        } else {
            vec!["policy", "pull"]
        };
        let place = place(&server);
        let args = [args, vec![&place, "--plain-http"]].concat();
        let peak = peak(&qhost, &args, says);
        // A redirect may be followed a few times.
        let sent = sent.load(Ordering::Relaxed) / server.connections().max(1) as u64;
        assert!(sent <= most + ON_ITS_WAY, "{what}: {sent} bytes were taken");
        // A push loads the policy, which takes memory of its own.
        let most = if is_push { 512 << 20 } else { most + (96 << 20) };
        assert!(peak <= most, "{what}: {peak} bytes of memory");
        println!("{what}: {} KiB sent, at most {} KiB of memory", sent >> 10, peak >> 10);
    }
}

const HOSTILE: &str = "\x1b]0;title\x07\x1b]52;c;aGk=\x07\x1b[2J\u{9b}2J\u{202e}\u{2066}\nhost      allowed by every one\r\nhost      allowed\u{2028}";

/// A registry's words are shown on one line, escaped and cut, on a terminal and in a pipe.
#[test]
fn words_that_would_steer_a_terminal() {
    let error =
        json!({"errors": [{"code": HOSTILE, "message": HOSTILE.repeat(100), "detail": HOSTILE}]});
    let kind = |name: &str| {
        let mut manifest = json!({"schemaVersion": 2, "layers": [{"mediaType": HOSTILE, "digest": HOSTILE, "size": 2}],
            "config": {"mediaType": HOSTILE, "digest": HOSTILE, "size": 2}});
        manifest["layers"][0]["mediaType"] = name.into();
        manifest.to_string()
    };
    let challenge = "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://HOST/token\"";
    let cases = [
        vec![("500 Internal Server Error", error.to_string())],
        vec![("500 Internal Server Error", HOSTILE.repeat(100))],
        vec![("404 Not Found", error.to_string())],
        vec![("200 OK", HOSTILE.into())],
        vec![("200 OK", kind(HOSTILE))],
        vec![("200 OK", kind("application/wasm"))],
        vec![("200 OK\r\nDocker-Content-Digest: sha256:\x1b[2J", kind("application/wasm"))],
        vec![("200 OK\r\nDocker-Content-Digest: \u{202e}x", kind("application/wasm"))],
        vec![(challenge, String::new()), ("403 Forbidden", error.to_string())],
        vec![(challenge, String::new()), ("200 OK", json!({"token": HOSTILE}).to_string())],
        vec![("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"\u{9b}2J\"", String::new())],
        vec![("307 Temporary Redirect\r\nLocation: http://\u{202e}\x1b]0;x\x07/", String::new())],
    ];
    for case in cases {
        let answers = case.clone();
        let server = RawServer::asked(move |number, request, stream| {
            let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            let (head, body) = &answers[number % answers.len()];
            answer(stream, &head.replace("HOST", host), body);
        });
        let (qhost, place) = (qhost(), place(&server));
        let args = ["-vvv", "policy", "pull", &place, "--plain-http"];
        let done = qhost.run(&args).exits(13);
        assert_harmless(&done.stdout, "host ");
        assert_harmless(&done.stderr, "host ");
        let done = run_on_terminal(&qhost, 80, &args[1..]).exits(13);
        assert_harmless(&done.stdout, "host ");
        assert!(done.stdout.len() < 3000, "{}", done.stdout);
        let error = qhost.run(&[&args[1..], &["--json"]].concat()).exits(13);
        error.json();
        assert_harmless(&error.stdout, "host ");
    }
}

/// A registry that asks for authorization: the password of `docker login` goes to its token service alone.
#[test]
fn a_registry_that_wants_a_token() {
    let file = fs::read(policy("limits")).unwrap();
    let sha256 = qhost_model::digest::Sha256::of(&file).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": format!("sha256:{sha256}"), "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": format!("sha256:{sha256}"), "size": file.len()}],
    })
    .to_string();
    let server = RawServer::asked(move |_, request, stream| {
        let has = |header: &str| request.lines().any(|line| line.eq_ignore_ascii_case(header));
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let path = request.split(' ').nth(1).unwrap();
        match path {
            "/token?service=registry&scope=repository%3Apolicies%2Flimits%3Apull"
                if has("authorization: Basic dXNlcjpwYXNz") =>
            {
                answer(stream, "200 OK", r#"{"access_token": "t0k", "expires_in": 60}"#);
            }
            "/v2/policies/limits/manifests/1.0" if has("authorization: Bearer t0k") => {
                answer(stream, "200 OK", &manifest);
            }
            _ if path.contains("/blobs/") && has("authorization: Bearer t0k") => {
                // The upload's URL is on another host, which gets no authorization.
                let elsewhere = host.replace("127.0.0.1", "localhost");
                answer(
                    stream,
                    &format!("307 Temporary Redirect\r\nLocation: http://{elsewhere}/blob"),
                    "",
                );
            }
            "/blob" if !request.to_ascii_lowercase().contains("authorization") => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
                stream.write_all(&[head.as_bytes(), &file].concat()).unwrap();
            }
            _ => answer(
                stream,
                &format!(
                    "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\", Bearer realm=\"http://{host}/token\",service=\"registry\""
                ),
                "",
            ),
        }
    });
    let place = place(&server);
    let qhost = qhost();
    let pull = |qhost: &Qhost| qhost.run(&["policy", "pull", &place, "--plain-http"]);
    pull(&qhost).exits(13).says("answered 401");
    let registry = format!("127.0.0.1:{}", server.port());
    qhost.file("config.json", json!({"auths": {registry: {"auth": "dXNlcjpwYXNz"}}}).to_string());
    let folder = qhost.folder().to_str().unwrap().to_owned();
    let qhost = qhost.env("DOCKER_CONFIG", &folder);
    pull(&qhost).exits(0).says(&format!("sha256:{sha256}, in limits.wasm"));
}
