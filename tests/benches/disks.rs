//! A guest's disks by qhost beside the same guest by hand, with each way in which QEMU can read and write a file: sequential and random,
//! of a data disk and of the root disk's overlay, by turns. The guest is Debian, and its agent runs what is measured.
//!
//! `cargo bench -p qhost-tests --bench disks`

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use qhost_tests::{ImageServer, Qhost, command, debian_guest, succeed, wait_for};
use qhost_vm::Agent;

const QHOST: &str = env!("CARGO_BIN_EXE_qhost-under-test");

/// Rounds that count, after one that warms up.
const ROUNDS: usize = 7;
const MIB: u64 = 1 << 20;

/// Reads and writes past the page cache of the guest, one request at a time, and eight at a time; prints MiB a second of each.
const MEASURE: &str = r#"
import concurrent.futures, mmap, os, random, sys, time
path, first, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
disk = os.open(path, os.O_RDWR | os.O_DIRECT)
def run(block, count, writes, sequential, at_once):
    random.seed(7)
    places = [(number * block) % size if sequential else random.randrange(size // block) * block for number in range(count)]
    def one(places):
        buffer = mmap.mmap(-1, block)
        buffer.write(b'x' * block)
        for place in places:
            (os.pwritev if writes else os.preadv)(disk, [buffer], first + place)
    begun = time.monotonic()
    if at_once == 1:
        one(places)
    else:
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(one, [places[number::at_once] for number in range(at_once)]))
    if writes:
        os.fsync(disk)
    return block * count / (time.monotonic() - begun) / 2**20
for block, count, sequential, at_once in [(2**20, 128, True, 1), (4096, 1500, False, 1), (4096, 3000, False, 8)]:
    for writes in [True, False]:
        print(run(block, count, writes, sequential, at_once))
"#;

/// What [`MEASURE`] prints, in its order.
const MEASURED: [&str; 6] = [
    "sequential write",
    "sequential read",
    "random write",
    "random read",
    "random write, 8 at once",
    "random read, 8 at once",
];

/// A way in which QEMU by hand uses a file.
struct Way {
    name: &'static str,
    /// The properties of the file, for `-drive`.
    file: &'static str,
    /// The properties of the guest's disk, for `-device`.
    disk: &'static str,
}

const WAYS: [Way; 7] = [
    Way { name: "writeback, threads", file: "cache=writeback,aio=threads,discard=unmap", disk: "" },
    Way {
        name: "writeback, io_uring",
        file: "cache=writeback,aio=io_uring,discard=unmap",
        disk: "",
    },
    Way { name: "none, native", file: "cache=none,aio=native,discard=unmap", disk: "" },
    Way { name: "none, io_uring", file: "cache=none,aio=io_uring,discard=unmap", disk: "" },
    Way {
        name: "writeback, threads, I/O thread",
        file: "cache=writeback,aio=threads,discard=unmap",
        disk: ",iothread=io",
    },
    Way {
        name: "writeback, threads, no discard",
        file: "cache=writeback,aio=threads,discard=ignore",
        disk: ",discard=off",
    },
    Way {
        name: "writeback, threads, 4 queues",
        file: "cache=writeback,aio=threads,discard=unmap",
        disk: ",num-queues=4",
    },
];

/// The two disks, with the offset where each is measured: on the root disk past the image's own data.
const DISKS: [(&str, &str, u64); 2] =
    [("data disk", "/dev/disk/by-id/virtio-data", 0), ("root disk", "/dev/vda", 3 << 30)];

struct Guest {
    name: &'static str,
    folder: PathBuf,
    qemu: Option<Child>,
    /// The speeds by disk and by kind of measurement.
    speeds: Vec<Vec<Vec<f64>>>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (qhost, server) = (Qhost::new(QHOST), ImageServer::start());
    let image = server.serve("/debian.qcow2", fs::read(debian_guest()).unwrap());
    let config = json!({
        "disk_bytes": 4_u64 << 30,
        "guest_agent": true,
        "ready": {"agent": true, "timeout_s": 900},
        "disks": [{"name": "data", "size": "256MiB"}]
    });
    let job = fs::read_to_string(qhost.job(&image, config)).unwrap();
    let job = qhost.file("job.json", job.replace("\"memory_mib\":32", "\"memory_mib\":512"));
    qhost.run(&["run", "--detach", "--wait-ready", &job]).exits(0);
    let guest = |name, folder, qemu| Guest { name, folder, qemu, speeds: vec![vec![vec![]; 6]; 2] };
    let mut guests = vec![guest("qhost", qhost.vms()[0].clone(), None)];
    for (number, way) in WAYS.iter().enumerate() {
        let folder = qhost.folder().join(format!("hand{number}"));
        let qemu = by_hand(&folder, way);
        guests.push(guest(way.name, folder, Some(qemu)));
        let last = &guests[guests.len() - 1].folder;
        wait_for("its agent", || runtime.block_on(Agent::connect(last)).ok());
    }
    for round in 0..=ROUNDS {
        for (disk, (_, path, first)) in DISKS.iter().enumerate() {
            for guest in &mut guests {
                let speeds = runtime.block_on(measured(&guest.folder, path, *first));
                for (all, speed) in guest.speeds[disk].iter_mut().zip(speeds) {
                    if round > 0 {
                        all.push(speed);
                    }
                }
            }
        }
    }
    for (disk, (name, _, _)) in DISKS.iter().enumerate() {
        for (number, what) in MEASURED.iter().enumerate() {
            report(name, what, &guests, disk, number);
        }
        let all: Vec<_> = guests[1..]
            .iter()
            .map(|guest| format!("{:.2} of {}", overall(&guests[0], guest, disk), guest.name))
            .collect();
        println!("{name}, all six together (geometric mean): qhost {}", all.join("; "));
    }
    for mut qemu in guests.iter_mut().filter_map(|guest| guest.qemu.take()) {
        qemu.kill().unwrap();
        qemu.wait().unwrap();
    }
    qhost.run(&["kill", "test"]).exits(0);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of each way, and of qhost's ratio to the best, round by round.
fn report(disk: &str, what: &str, guests: &[Guest], of: usize, number: usize) {
    let speeds = |guest: &Guest| median(guest.speeds[of][number].clone());
    let best = guests[1..].iter().max_by(|a, b| speeds(a).total_cmp(&speeds(b))).unwrap();
    let rounds = guests[0].speeds[of][number].iter().zip(&best.speeds[of][number]);
    let ratio = median(rounds.map(|(qhost, hand)| qhost / hand).collect());
    let all: Vec<_> =
        guests.iter().map(|guest| format!("{} {:.1}", guest.name, speeds(guest))).collect();
    println!(
        "{disk}, {what}: {ratio:.2} of the best by hand ({}); MiB/s: {}",
        best.name,
        all.join("; ")
    );
}

/// The geometric mean of one guest's ratios to another's, over all that is measured.
fn overall(one: &Guest, other: &Guest, disk: usize) -> f64 {
    let speeds = one.speeds[disk].iter().zip(&other.speeds[disk]);
    let logs = speeds.map(|(one, other)| (median(one.clone()) / median(other.clone())).ln());
    (logs.sum::<f64>() / MEASURED.len() as f64).exp()
}

fn by_hand(folder: &Path, way: &Way) -> Child {
    fs::create_dir(folder).unwrap();
    let (root, data) = (folder.join("root.qcow2"), folder.join("data.raw"));
    let backing = debian_guest().to_str().unwrap();
    succeed(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            backing,
            "-F",
            "qcow2",
            root.to_str().unwrap(),
            "4G",
        ],
    );
    fs::File::create(&data).unwrap().set_len(256 * MIB).unwrap();
    let mut qemu: Command = command("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-smp", "1", "-m", "512"]);
    qemu.args(["-machine", "pc,usb=off,graphics=off", "-accel", "tcg,thread=multi,tb-size=64"]);
    qemu.args(["-cpu", "max", "-object", "iothread,id=io", "-device", "virtio-rng-pci"]);
    for (name, file, format, serial) in
        [("disk", &root, "qcow2", ""), ("data", &data, "raw", ",serial=data")]
    {
        let file = file.display();
        qemu.arg("-drive")
            .arg(format!("if=none,id={name},file={file},format={format},{}", way.file));
        qemu.arg("-device").arg(format!("virtio-blk-pci,drive={name}{serial}{}", way.disk));
    }
    let agent = folder.join("agent.sock");
    qemu.arg("-chardev")
        .arg(format!("socket,id=agent,path={},server=on,wait=off", agent.display()))
        .args(["-device", "virtio-serial-pci"])
        .args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).process_group(0);
    qemu.spawn().unwrap()
}

/// MiB a second, of each of [`MEASURED`].
async fn measured(folder: &Path, path: &str, first: u64) -> Vec<f64> {
    let mut agent = Agent::connect(folder).await.unwrap();
    let size = 256 * MIB;
    let arguments = json!({
        "path": "python3",
        "arg": ["-c", MEASURE, path, first.to_string(), size.to_string()],
        "capture-output": true
    });
    let run = qhost_vm::Command { arguments, ..qhost_vm::Command::new("guest-exec") };
    let pid = agent.execute(&run).await.unwrap()["pid"].clone();
    let status: Value = loop {
        let arguments = json!({ "pid": pid });
        let asked = qhost_vm::Command { arguments, ..qhost_vm::Command::new("guest-exec-status") };
        let status = agent.execute(&asked).await.unwrap();
        if status["exited"] == true {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let text = |key: &str| {
        let data = BASE64_STANDARD.decode(status[key].as_str().unwrap_or_default()).unwrap();
        String::from_utf8(data).unwrap()
    };
    assert_eq!(status["exitcode"], 0, "{}", text("err-data"));
    text("out-data").lines().map(|line| line.parse().unwrap()).collect()
}
