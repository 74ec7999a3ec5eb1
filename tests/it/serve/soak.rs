//! The service for a long time: VMs come and go, clients come, go, read slowly or not at all, and hang up in the middle. The service's
//! memory and files stay within bounds, and nothing is left. `QHOST_SOAK_SECONDS` says for how long; half an hour before a release, less
//! without it.

use std::{
    collections::VecDeque,
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer,
    api::Service,
    boot_sector::{self, Then},
    wait_for,
};

use super::{configure, kills::Over};
use crate::qhost;

const VMS: usize = 20;
/// Threads that start VMs and end them.
const CHURNING: usize = 4;
const READERS: usize = 24;
const ASKING: usize = 10;
/// Clients that ask for streams without an end, and read nothing.
const SILENT: usize = 8;
/// Clients that stop in the middle of a request.
const HALF_OPEN: usize = 8;

/// Sends a request on the service's socket. The answer is read from the stream that it gives.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: qhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).ok()?;
    Some(stream)
}

/// The answer's status, and its body if that is an object.
fn answer(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut text = String::new();
    ask(socket, method, path, body)?.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let object = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    Some((status, serde_json::from_str(object).unwrap_or_default()))
}

/// The memory and the files of a process.
#[derive(Debug, Clone, Copy)]
struct Taken {
    resident_kib: u64,
    open_files: usize,
}

impl Taken {
    fn by(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let open_files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { resident_kib, open_files }
    }

    /// The median of each number.
    fn median(of: &[Self]) -> Self {
        let middle = |mut values: Vec<u64>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        let open_files = middle(of.iter().map(|one| one.open_files as u64).collect());
        Self {
            resident_kib: middle(of.iter().map(|one| one.resident_kib).collect()),
            open_files: open_files.try_into().unwrap(),
        }
    }
}

/// Starts VMs and ends them; gives the number of those that were started.
fn churn(socket: &Path, job: &str, number: usize, is_over: &AtomicBool) -> usize {
    let (mut vms, mut came) = (VecDeque::new(), 0);
    let end = |vm: &str| {
        let removed = || {
            // The request is repeated, since a client that has too many connections is hung up on.
            answer(socket, "POST", &format!("/v1/vms/{vm}/kill"), "");
            let (status, _) = answer(socket, "DELETE", &format!("/v1/vms/{vm}"), "")?;
            [204, 404].contains(&status).then_some(())
        };
        wait_for("its end", removed);
    };
    while !is_over.load(Ordering::Relaxed) {
        let name = format!("\"name\":\"soak-{number}-{came}\"");
        let job = job.replace("\"name\":\"test\"", &name);
        let Some((202, begun)) = answer(socket, "POST", "/v1/vms", &job) else { continue };
        let wait = format!("/v1/operations/{}/wait?timeout_s=10", begun["id"].as_str().unwrap());
        let done = wait_for("the start", || {
            let (_, now) = answer(socket, "GET", &wait, "")?;
            (now["state"] != "running").then_some(now)
        });
        assert_eq!(done["state"], "succeeded", "{done}");
        came += 1;
        vms.push_back(done["vm"].as_str().unwrap().to_owned());
        if vms.len() >= VMS / CHURNING {
            end(&vms.pop_front().unwrap());
        }
    }
    vms.iter().for_each(|vm| end(vm));
    came
}

#[test]
fn what_it_takes_stays_what_it_was() {
    let seconds = env::var("QHOST_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(40));
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let image = server.serve("/ticks", boot_sector::disk("soaked", Then::Tick));
    let job = fs::read_to_string(qhost.job(&image, json!({}))).unwrap();
    let service = Service::start(&qhost);
    let (socket, pid) = (service.socket(), service.pid());
    let (socket, job) = (socket.as_path(), job.as_str());
    let before = Taken::by(pid);
    let (is_over, came, answers) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let goes_on = || !is_over.load(Ordering::Relaxed);
    let taken = thread::scope(|scope| {
        for number in 0..CHURNING {
            let (is_over, came) = (&is_over, &came);
            scope.spawn(move || {
                came.fetch_add(churn(socket, job, number, is_over), Ordering::Relaxed);
            });
        }
        for number in 0..READERS {
            // These clients come again after a while, each after another.
            scope.spawn(move || {
                while goes_on() {
                    let until = Instant::now() + Duration::from_secs(2 + number as u64 % 5);
                    let Some(mut stream) = ask(socket, "GET", "/v1/events?after=now", "") else {
                        continue;
                    };
                    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                    let mut buffer = [0; 4096];
                    while Instant::now() < until
                        && stream.read(&mut buffer).is_ok_and(|read| read > 0)
                    {}
                }
            });
        }
        for number in 0..ASKING {
            let answers = &answers;
            scope.spawn(move || {
                let routes =
                    ["/v1/vms?all=true", "/metrics", "/v1/decisions?limit=20", "/v1/quotas"];
                while goes_on() {
                    let asked = answer(socket, "GET", routes[number % routes.len()], "");
                    answers.fetch_add(
                        asked.map_or(0, |(status, _)| usize::from(status == 200)),
                        Ordering::Relaxed,
                    );
                    answer(socket, "POST", "/v1/decide", job);
                    thread::sleep(Duration::from_millis(200));
                }
            });
        }
        for number in 0..SILENT + HALF_OPEN {
            scope.spawn(move || {
                while goes_on() {
                    let stream = if number < SILENT {
                        ask(socket, "GET", "/v1/events", "")
                    } else {
                        let stream = UnixStream::connect(socket).ok();
                        stream.and_then(|mut it| {
                            it.write_all(b"POST /v1/vms HTTP/1.1\r\nho").ok().map(|()| it)
                        })
                    };
                    thread::sleep(Duration::from_secs(5));
                    drop(stream);
                }
            });
        }
        // The guard ends the clients even if this test fails.
        let _over = Over(&is_over);
        let (began, mut taken) = (Instant::now(), vec![]);
        while began.elapsed() < seconds {
            thread::sleep(Duration::from_secs(1));
            taken.push(Taken::by(pid));
        }
        taken
    });
    // The first quarter warms up.
    let quarter = taken.len() / 4;
    let (early, late) =
        (Taken::median(&taken[quarter..2 * quarter]), Taken::median(&taken[3 * quarter..]));
    let (came, answers) = (came.into_inner(), answers.into_inner());
    println!(
        "{came} VMs came, {answers} answers; before {before:?}, early {early:?}, late {late:?}"
    );
    assert!(came >= VMS && answers > 0, "{came} VMs came, {answers} answers");
    // A short run has not yet all the records that the service keeps in memory, and the number of clients changes with the machine's load.
    let most = if seconds < Duration::from_secs(600) {
        Taken { resident_kib: before.resident_kib + (96 << 10), open_files: 300 }
    } else {
        Taken {
            resident_kib: early.resident_kib + early.resident_kib / 10 + 4096,
            open_files: early.open_files + 20,
        }
    };
    assert!(late.resident_kib <= most.resident_kib, "{early:?} {late:?}");
    assert!(late.open_files <= most.open_files, "{early:?} {late:?}");
    // All clients have gone.
    let alone = wait_for("all to have gone", || {
        let now = Taken::by(pid);
        (now.open_files <= before.open_files + 4).then_some(now)
    });
    println!("alone again {alone:?}");
    assert_eq!(service.get("/v1/vms").json()["vms"], json!([]));
    service.end();
    qhost.assert_nothing_left();
}
