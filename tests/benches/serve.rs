//! What the service costs: from a request for a VM to QEMU's greeting, in pairs with the same QEMU command line by hand; and decisions without a
//! launch by one and by eight connections, beside requests that decide nothing.
//!
//! `cargo bench -p qhost-tests --bench serve`

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    api::Service,
    boot_sector::{self, Then},
    by_hand, configured,
};

/// The command as released, built by `cargo bench` with the benchmarks themselves.
const QHOST: &str = env!("CARGO_BIN_EXE_qhost-under-test");
/// How long each load goes on.
const LOAD: Duration = Duration::from_secs(5);

fn main() {
    let qhost = Qhost::new(QHOST);
    let times = qhost.folder().join("times");
    let qhost = qhost.env("QHOST_TIMES_OF_POINTS", times.to_str().unwrap());
    let policy = configured("limits", "limits", json!({"cpus": 4, "memory_mib": 4096}), "");
    let images = "[image.network]\nallow = [\"127.0.0.0/8\"]\n";
    qhost.config(&format!("{policy}[host]\nchain = [\"limits\"]\n{images}"));
    let server = ImageServer::start();
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    qhost.run(&["image", "pull", &image.0, "--checksum", &image.1]).exits(0);
    let job = fs::read_to_string(qhost.job(&image, json!({}))).unwrap();
    let service = Service::start(&qhost);
    starts(&qhost, &service, &job, &times);
    for connections in [1, 8] {
        let nothing = load(&service, connections, "GET", "/health/live", "");
        let decided = load(&service, connections, "POST", "/v1/decide", &job);
        println!(
            "{connections} connections: {decided}; beside {nothing} of requests that decide nothing, ratio {:.2}",
            decided.per_second / nothing.per_second
        );
    }
    service.end();
}

/// A connection that is kept from one request to the next.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: qhost\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 2"), "{line}");
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        answer
    }
}

/// From a request's first byte to QEMU's greeting, 50 pairs.
fn starts(qhost: &Qhost, service: &Service, job: &str, times: &Path) {
    let mut connection = Connection::open(&service.socket());
    let (mut by_service, mut by_hand, mut more) = (vec![], vec![], vec![]);
    for round in 0..55 {
        fs::write(times, "").unwrap();
        let began = jiff::Timestamp::now().as_microsecond();
        let accepted: Value =
            serde_json::from_slice(&connection.ask("POST", "/v1/vms", job)).unwrap();
        let done = format!("/v1/operations/{}/wait", accepted["id"].as_str().unwrap());
        let done: Value = serde_json::from_slice(&connection.ask("GET", &done, "")).unwrap();
        let id = done["vm"].as_str().unwrap_or_else(|| panic!("{done}"));
        let took = fs::read_to_string(times).unwrap();
        let took = took.lines().find_map(|line| line.strip_prefix("launch.greeted ")).unwrap();
        let took = (took.parse::<i64>().unwrap() - began) as f64 / 1e3;
        let plan = qhost.state().join("vms").join(id).join("plan.json");
        let spec: Value = serde_json::from_slice(&fs::read(plan).unwrap()).unwrap();
        qhost.run(&["kill", id]).exits(0);
        let hand = by_hand::started(qhost, &spec);
        // The first rounds warm up.
        if round >= 5 {
            by_service.push(took);
            by_hand.push(hand);
            more.push(took - hand);
        }
    }
    let (took, hand) = (middle(by_service, 50), middle(by_hand, 50));
    println!(
        "POST /v1/vms to greeting: {took:.1} ms, by hand {hand:.1} ms, ratio {:.2}; later by {:.1} ms (median), {:.1} ms (95th percentile) of 50 pairs",
        took / hand,
        middle(more.clone(), 50),
        middle(more, 95)
    );
}

/// What a load was answered.
struct Answered {
    per_second: f64,
    /// In milliseconds.
    median: f64,
    p99: f64,
}

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { per_second, median, p99 } = self;
        write!(f, "{per_second:.0} a second (median {median:.2} ms, 99 % {p99:.2} ms)")
    }
}

/// Sends a request again and again by so many connections, each on a thread that waits for the answer.
fn load(service: &Service, connections: usize, method: &str, path: &str, body: &str) -> Answered {
    let socket = service.socket();
    let began = Instant::now();
    let took: Vec<f64> = thread::scope(|scope| {
        let ask = || {
            let mut connection = Connection::open(&socket);
            let mut took = vec![];
            while began.elapsed() < LOAD {
                let asked = Instant::now();
                connection.ask(method, path, body);
                took.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            took
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let per_second = took.len() as f64 / LOAD.as_secs_f64();
    Answered { per_second, median: middle(took.clone(), 50), p99: middle(took, 99) }
}

/// The percentile of these.
fn middle(mut times: Vec<f64>, percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * percent / 100).min(times.len() - 1)]
}
