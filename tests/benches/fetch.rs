//! What fetching an image costs: 1 GiB over loopback beside `curl`, `curl` and `sha256sum`, the bare hash and the disk; from
//! a source throttled to 50 MB/s; and the start of an image that is stored already.
//!
//! Every round starts each contender once, in turn, and the medians are compared. `cargo bench -p qhost-tests --bench
//! fetch`. `QHOST_BENCH_DIR` is where files go, the system's folder for temporary ones unless set.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use qhost_engine::config::Config;
use qhost_image::{Fetcher, Progress, Step, Store};
use qhost_model::{
    digest::{Hasher, Sha256},
    job,
};
use qhost_tests::{Qhost, command};

const ROUNDS: usize = 7;
const GIB: usize = 1 << 30;
const THROTTLED: usize = 200_000_000;
const THROTTLE: f64 = 50e6;
const SPARSE: u64 = 10 << 30;

/// A contender's name, and the function that is timed.
type Contender<'a> = (&'a str, Box<dyn Fn() + 'a>);

fn main() {
    let folder = std::env::var_os("QHOST_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let scratch = tempfile::TempDir::new_in(&folder).expect("a scratch folder");
    let qhost = Qhost::new(env!("CARGO_BIN_EXE_qhost-under-test"));
    let server = Server::start();
    let out = scratch.path().join("out");
    println!("in {}; medians of {ROUNDS} rounds", folder.display());
    whole(&qhost, &server, &scratch, &out);
    throttled(&qhost, &server, &scratch, &out);
    cached(&server, &scratch);
}

fn whole(qhost: &Qhost, server: &Server, scratch: &tempfile::TempDir, out: &std::path::Path) {
    let url = server.url("/gib");
    let digest = server.digest(GIB).to_string();
    let hash = |mut hasher: Hasher| {
        server.data.chunks(256 << 10).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.finish().to_string(), digest);
    };
    let contenders: Vec<Contender<'_>> = vec![
        ("qhost image pull, made durable", Box::new(|| pull(qhost, scratch, &url, &digest, ""))),
        ("curl -o", Box::new(|| curl(&url, out))),
        (
            "curl -o, then sha256sum",
            Box::new(|| {
                curl(&url, out);
                assert!(
                    command("sha256sum").arg(out).output().expect("sha256sum").status.success()
                );
            }),
        ),
        ("SHA-256 as qhost does it", Box::new(|| hash(Hasher::default()))),
        ("SHA-256 by the sha2 crate", Box::new(|| hash(Hasher::sha2()))),
        ("SHA-256 by AWS-LC", Box::new(|| hash(Hasher::aws_lc()))),
        ("the disk: write, made durable", Box::new(|| write(&server.data, out))),
    ];
    let medians = rounds(&contenders, || {
        // No contender waits for the writes that the one before has left.
        drop(fs::remove_file(out));
        rustix::fs::sync();
    });
    println!("\n1 GiB over loopback");
    for ((name, _), median) in contenders.iter().zip(&medians) {
        println!("  {name:<34} {median:6.2} s  {:6.0} MB/s", GIB as f64 / 1e6 / median);
    }
    let [ours, curl, curl_and_sum, _, sha2, aws_lc, ..] = medians[..] else { unreachable!() };
    let bound = curl.max(sha2.min(aws_lc));
    println!(
        "  {:.2} of the slower of curl -o and the fastest SHA-256 (to be at most 1.05)",
        ours / bound
    );
    println!("  {:.2} of curl -o and sha256sum (to be at most 0.50)", ours / curl_and_sum);
}

fn throttled(qhost: &Qhost, server: &Server, scratch: &tempfile::TempDir, out: &std::path::Path) {
    let digest = server.digest(THROTTLED).to_string();
    for (what, path) in [("a link of 50 MB/s", "/link"), ("connections of 50 MB/s each", "/each")] {
        let url = server.url(path);
        let contenders: Vec<Contender<'_>> = vec![
            ("qhost image pull", Box::new(|| pull(qhost, scratch, &url, &digest, ""))),
            (
                "qhost, one connection",
                Box::new(|| pull(qhost, scratch, &url, &digest, "[image]\nconnections = 1\n")),
            ),
            ("curl -o", Box::new(|| curl(&url, out))),
        ];
        let medians = rounds(&contenders, || drop(fs::remove_file(out)));
        println!("\n200 MB over {what}");
        for ((name, _), median) in contenders.iter().zip(&medians) {
            println!("  {name:<34} {median:6.2} s  {:.2} of curl's", median / medians[2]);
        }
    }
}

/// Measures the work of `image` for a run whose image is stored, in this process, so that only that work is measured.
fn cached(server: &Server, scratch: &tempfile::TempDir) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = Store::new(&scratch.path().join("cached"));
    let mut hasher = Hasher::default();
    let zeros = vec![0; 1 << 20];
    (0..SPARSE >> 20).for_each(|_| hasher.update(&zeros));
    let request = job::image_request(&[server.url("/sparse")], &hasher.finish().to_string())
        .expect("a request");
    let mut config = Config::default();
    config.image.network.allow.push("127.0.0.0/8".parse().expect("a network"));
    let ensure = || {
        let began = Instant::now();
        let fetcher = Fetcher::operator(&config.image, config.host_quota(), &Quiet);
        let image = runtime.block_on(store.ensure(&request, fetcher)).expect("the image");
        (image.cached(), began.elapsed().as_secs_f64())
    };
    let (was_stored, first) = ensure();
    assert!(!was_stored);
    let mut took: Vec<_> = (0..101).map(|_| ensure()).collect();
    assert!(took.iter().all(|(was_stored, _)| *was_stored));
    took.sort_by(|one, other| one.1.total_cmp(&other.1));
    println!("\na sparse image of 10 GiB\n  fetched {first:>33.2} s");
    println!(
        "  stored, in `image`: median {:>14.3} ms, most {:.3} ms (to be under 20)",
        took[50].1 * 1e3,
        took[100].1 * 1e3
    );
}

struct Quiet;

impl Progress for Quiet {
    fn waiting(&self) {}
    fn begins(&self, _: Step, _: Option<u64>) {}
    fn done(&self, _: u64) {}
    fn retrying(&self, why: &str) {
        panic!("{why}");
    }
}

fn rounds(contenders: &[Contender<'_>], between: impl Fn()) -> Vec<f64> {
    let mut took = vec![vec![]; contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, contender), took) in contenders.iter().zip(&mut took) {
            between();
            let began = Instant::now();
            contender();
            took.push(began.elapsed().as_secs_f64());
        }
    }
    took.iter_mut().for_each(|took| took.sort_by(f64::total_cmp));
    took.iter().map(|took| took[took.len() / 2]).collect()
}

fn pull(qhost: &Qhost, scratch: &tempfile::TempDir, url: &str, digest: &str, toml: &str) {
    qhost.config(toml);
    let state = scratch.path().join("state");
    if state.exists() {
        fs::remove_dir_all(&state).expect("the store of the round before");
    }
    let state = state.to_str().expect("UTF-8");
    let done = qhost.run(&["image", "pull", url, "--checksum", digest, "--state-dir", state]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

fn curl(url: &str, out: &std::path::Path) {
    assert!(
        command("curl")
            .args(["-s", "-f", "-o"])
            .arg(out)
            .arg(url)
            .status()
            .expect("curl")
            .success()
    );
}

fn write(data: &[u8], out: &std::path::Path) {
    let mut file = File::create(out).expect("a file");
    data.chunks(256 << 10).for_each(|piece| file.write_all(piece).expect("room"));
    file.sync_all().expect("a disk");
}

/// Serves bytes in memory as fast as a thread can, with parts, or at a rate.
struct Server {
    address: SocketAddr,
    data: Arc<Vec<u8>>,
}

impl Server {
    fn start() -> Self {
        let mut data = vec![0; GIB];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut data))
            .expect("random bytes");
        let data = Arc::new(data);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (served, link) = (data.clone(), Arc::new(Mutex::new(Instant::now())));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, data, link) =
                    (stream.expect("a connection"), served.clone(), link.clone());
                // A client that goes on over other connections closes this connection.
                thread::spawn(move || drop(serve(stream, &data, &link)));
            }
        });
        Self { address, data }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn digest(&self, length: usize) -> Sha256 {
        Sha256::of(&self.data[..length])
    }
}

fn serve(mut stream: TcpStream, data: &[u8], link: &Mutex<Instant>) -> std::io::Result<()> {
    loop {
        let mut request = vec![];
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let total = match path.as_str() {
            "/gib" => GIB as u64,
            "/sparse" => SPARSE,
            _ => THROTTLED as u64,
        };
        let range = request.lines().find_map(|line| line.strip_prefix("range: bytes="));
        let (from, to) = match range.and_then(|range| range.split_once('-')) {
            Some((from, to)) => (from.parse().expect("a number"), to.parse().unwrap_or(total - 1)),
            None => (0, total - 1),
        };
        let status = match range {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{to}/{total}"),
            None => "200 OK".into(),
        };
        let length = to - from + 1;
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"1\"\r\nAccept-Ranges: bytes\r\n\r\n").as_bytes())?;
        let (own, zeros) = (Mutex::new(Instant::now()), vec![0; 1 << 20]);
        let mut at = from;
        while at <= to {
            let size = (to - at + 1).min(if path == "/gib" || path == "/sparse" {
                1 << 20
            } else {
                50_000
            });
            let begin = usize::try_from(at).expect("64 bits");
            let end = begin + usize::try_from(size).expect("64 bits");
            match path.as_str() {
                "/sparse" => stream.write_all(&zeros[..end - begin])?,
                "/gib" => stream.write_all(&data[begin..end])?,
                "/link" => paced(link, size, || stream.write_all(&data[begin..end]))?,
                _ => paced(&own, size, || stream.write_all(&data[begin..end]))?,
            }
            at += size;
        }
    }
}

/// Waits until a piece's turn at the rate.
fn paced<T>(next: &Mutex<Instant>, bytes: u64, send: impl FnOnce() -> T) -> T {
    let turn = {
        let mut next = next.lock().expect("the lock");
        let turn = (*next).max(Instant::now());
        *next = turn + Duration::from_secs_f64(bytes as f64 / THROTTLE);
        turn
    };
    thread::sleep(turn.saturating_duration_since(Instant::now()));
    send()
}
