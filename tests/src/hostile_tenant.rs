//! A tenant, mallory, who means harm to another one, acme, in every way at once: floods and locks from QEMU's place, restarts, short VMs,
//! large jobs, names, kept overlays, unfinished downloads, images that take long to unpack, a policy that takes
//! long for each of many sources.

use std::{
    fs,
    process::Stdio,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use crate::{
    Done, ImageServer, Qhost, Ranged, Reply,
    boot_sector::{self, Then},
    command, configured, stand_in, succeed, wait_for,
};

const MIB: u64 = 1 << 20;

/// The deeds of a QEMU that mallory has broken out into, with the image that acme's VMs have too. The last deed has no end.
const DEEDS: [&str; 16] = [
    "read-lock-image",
    "flock-image",
    "lease-image",
    "times-of-image",
    "mode-of-image",
    "listen-unbound 1000",
    "listen 0.0.0.0:8080",
    "listen 127.0.0.1:8080",
    "bind-udp 0.0.0.0:8080",
    "bind-udp 127.0.0.1:8080",
    "udp 127.0.0.1:8080",
    "signal 1",
    "spin 2",
    "flood-events",
    "long-lines",
    "flood-console",
];

/// The disk of acme's VMs, which mallory's VMs have as well.
pub fn shared_disk(says: &str) -> Vec<u8> {
    stand_in::disk(says, &DEEDS)
}

/// The host's configuration with both tenants. Mallory may have so many VMs at a time, with a CPU each.
pub fn config(vms: u32) -> String {
    format!(
        "[image]\nattempts = 1\n[overlay]\npersist = true\nmax_bytes = {overlay}\n\
         [decisions]\nmax_bytes = 65536\nfiles = 1\n\
         [tenants.acme]\n[tenants.mallory.quota]\nvms = {vms}\ncpus = {vms}\ndisk_bytes = {disks}\nimage_bytes = {images}\n",
        overlay = 4 * MIB,
        disks = 24 * MIB,
        images = 64 * MIB,
    )
}

/// A way of doing harm: how it is tried once, and the exit codes that a try may have.
struct Way {
    name: &'static str,
    attempt: fn(&Place, usize) -> Done,
    codes: &'static [i32],
}

const WAYS: [Way; 6] = [
    Way { name: "short VMs", attempt: short_vm, codes: &[0, 10, 11] },
    Way { name: "refused jobs of 1 MB", attempt: large_job, codes: &[11] },
    Way { name: "runs with kept overlays", attempt: kept_overlay, codes: &[0, 11] },
    Way { name: "unfinished downloads", attempt: unfinished, codes: &[11, 13] },
    Way { name: "images of small frames", attempt: small_frames, codes: &[11, 15] },
    Way { name: "decisions that took long", attempt: long_decision, codes: &[11, 12, 13] },
];

/// The ways in which mallory does harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// By VMs that run: floods, locks, restarts.
    ByVms,
    /// By VMs that run, and by mallory's commands, one at a time for each way.
    ByCommandsToo,
}

/// The folder and servers that mallory uses, and what mallory knows of acme.
struct Place {
    qhost: Arc<Qhost>,
    server: ImageServer,
    /// The image of a disk that its guest fills. `short` is an image whose guest powers off at once.
    fills: (String, String),
    short: (String, String),
    /// The id of a VM of acme's that has ended.
    anothers: String,
}

/// Mallory at work, until this is dropped.
pub struct HostileTenant {
    place: Arc<Place>,
    /// The lock is held shared by each try, and alone by [`Self::paused`], which needs the host without tries.
    at_work: Arc<RwLock<()>>,
    over: Arc<AtomicBool>,
    tries: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<()>>,
}

impl HostileTenant {
    /// Starts all ways of doing harm, and waits until each was tried once. `shared` is the URL and digest of [`shared_disk`], `anothers`
    /// the id of a VM of acme's that has ended.
    pub fn start(
        qhost: &Arc<Qhost>,
        stand_in: &str,
        shared: &(String, String),
        anothers: &str,
        harm: Harm,
    ) -> Self {
        let place = Place::new(qhost, anothers);
        place.start_stand_ins(stand_in, shared);
        let mut mallory = Self {
            place: Arc::new(place),
            at_work: Arc::default(),
            over: Arc::default(),
            tries: vec![],
            threads: vec![],
        };
        if harm == Harm::ByCommandsToo {
            WAYS.iter().for_each(|way| mallory.go(way));
        }
        wait_for("each way to be tried", || {
            let tried = |tries: &Arc<AtomicUsize>| tries.load(Ordering::Relaxed) > 0;
            assert!(!mallory.threads.iter().any(JoinHandle::is_finished), "a way failed");
            mallory.tries.iter().all(tried).then_some(())
        });
        mallory
    }

    fn go(&mut self, way: &'static Way) {
        let tries = Arc::new(AtomicUsize::new(0));
        self.tries.push(tries.clone());
        let (place, at_work, over) = (self.place.clone(), self.at_work.clone(), self.over.clone());
        self.threads.push(thread::spawn(move || {
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let _working = at_work.read().expect("the lock");
                let done = (way.attempt)(&place, number);
                assert!(way.codes.contains(&done.code), "{}: {done:?}", way.name);
                assert!(!done.stderr.contains("panicked"), "{}: {done:?}", way.name);
                tries.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    /// Runs `action` while mallory does nothing: between two tries of each way, and with all QEMUs of mallory's stopped.
    pub fn paused<T>(&self, action: impl FnOnce() -> T) -> T {
        let _alone = self.at_work.write().expect("the lock");
        let qemus = self.place.qemus();
        signal("-STOP", &qemus);
        let done = action();
        signal("-CONT", &qemus);
        done
    }

    /// Says how often each way was tried, and how often mallory's VMs were restarted.
    pub fn tried(&self) -> String {
        let tried = WAYS.iter().zip(&self.tries);
        let mut tried: Vec<_> = tried
            .map(|(way, tries)| format!("{} {}", tries.load(Ordering::Relaxed), way.name))
            .collect();
        let restarts =
            self.place.vms().iter().filter_map(|vm| vm["restarts"].as_u64()).sum::<u64>();
        tried.push(format!("{restarts} restarts"));
        tried.join(", ")
    }

    /// Ends all ways. A try with another exit code than it may have fails the test.
    pub fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("each try ended as it may");
        }
        let vms = self.place.vms();
        let ids = vms.iter().filter_map(|vm| vm["id"].as_str());
        let args: Vec<_> = ["kill", "--tenant", "mallory"].into_iter().chain(ids).collect();
        self.place.qhost.run(&args).exits(0);
    }
}

impl Drop for HostileTenant {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that failed has printed why.
            if thread.join().is_err() {}
        }
    }
}

fn signal(signal: &str, pids: &[String]) {
    // A process that has ended meanwhile does no harm either.
    let sent = command("kill").arg(signal).args(pids).stderr(Stdio::null()).status();
    sent.expect("kill runs");
}

impl Place {
    fn new(qhost: &Arc<Qhost>, anothers: &str) -> Self {
        let server = ImageServer::start();
        let mut fills = boot_sector::disk("filling", Then::Fill);
        fills.resize(34 << 20, 0);
        let fills = server.serve("/fills", fills);
        let short = server.serve("/short", boot_sector::disk("I am short", Then::PowerOff));
        Self { qhost: qhost.clone(), server, fills, short, anothers: anothers.into() }
    }

    /// Starts VMs whose QEMU is the stand-in: one that floods and locks, one that fails as often as it is started. Later launches find QEMU
    /// itself, since the fingerprint is put back; a restart starts the program that the VM was started with.
    fn start_stand_ins(&self, stand_in: &str, shared: &(String, String)) {
        let fingerprint = self.qhost.state().join("fingerprint.json");
        let kept = fs::read(&fingerprint).expect("the fingerprint");
        let path = stand_in::path(&self.qhost, stand_in);
        let again = json!({"restart": {"policy": "always", "attempts": 1_000_000, "delay_s": 0}});
        let fails =
            stand_in::disk("fails", &["sleep-ms 500", "fail host      allowed by every one"]);
        for (name, image) in [("web", shared), ("db", &self.server.serve("/fails", fails))] {
            let job = self.job("stands-in", name, image, again.clone());
            let mut run = self.qhost.command(&["run", "--detach", "--tenant", "mallory", &job]);
            let done = Done::of(run.env("PATH", &path).output().expect("qhost runs"));
            // With a quota of one VM, the second one is refused.
            assert!([0, 11].contains(&done.code), "{done:?}");
        }
        fs::write(&fingerprint, kept).expect("the fingerprint");
    }

    fn job(&self, file: &str, name: &str, image: &(String, String), config: Value) -> String {
        let mut job = json!({
            "name": name,
            "driver": "qemu",
            "config": {"image_source": image.0, "checksum": image.1},
            "resources": {"memory_mib": 32},
        });
        let more = config.as_object().expect("an object").clone();
        job["config"].as_object_mut().expect("an object").extend(more);
        self.qhost.file(&format!("mallory-{file}.json"), job.to_string())
    }

    fn run(&self, job: &str) -> Done {
        self.qhost.run(&["run", "--tenant", "mallory", job])
    }

    /// Mallory's VMs that have not ended.
    fn vms(&self) -> Vec<Value> {
        let list = self.qhost.run(&["ps", "--json", "--tenant", "mallory"]).exits(0).json();
        list["vms"].as_array().expect("a list").clone()
    }

    fn qemus(&self) -> Vec<String> {
        let vms = self.vms();
        let pids = vms.iter().filter_map(|vm| vm["qemu"]["pid"].as_u64());
        pids.map(|pid| pid.to_string()).collect()
    }
}

/// Runs a VM that ends at once, with a name like those of acme's tasks and VMs, or with characters that steer a terminal, of which control
/// characters are refused. The folder of the first one is copied a hundred times.
fn short_vm(place: &Place, number: usize) -> Done {
    let anothers = &place.anothers;
    let names = [
        "web".to_owned(),
        anothers[..9].to_owned(),
        anothers.clone(),
        "acme/web".to_owned(),
        "\u{1b}]0;owned\u{7}web".to_owned(),
        "web\u{3164}\u{202e}".to_owned(),
    ];
    let done =
        place.run(&place.job("short", &names[number % names.len()], &place.short, json!({})));
    let ended = || place.qhost.vms().into_iter().find(|vm| has_ended(vm));
    if let Some(folder) = (number == 0).then(ended).flatten() {
        let folder = folder.to_str().expect("UTF-8");
        for copy in 0..qhost_model::limits::ENDED_VMS {
            succeed("cp", &["-r", folder, &format!("{folder}-{copy}")]);
        }
    }
    done
}

/// Whether a folder is that of a short VM of mallory's that has ended.
fn has_ended(vm: &std::path::Path) -> bool {
    let status = fs::read_to_string(vm.join("status.json")).unwrap_or_default();
    status.contains("mallory") && status.contains("exited")
}

/// Runs a job as large as a job file may be, with as many notes, which asks for egress that is not allowed.
fn large_job(place: &Place, _: usize) -> Done {
    let job = place.job(
        "large",
        "web",
        &("https://images.example/x".into(), "0".repeat(64)),
        json!({"egress": "internet"}),
    );
    let note = "\\u0078".repeat(4096);
    let notes: Vec<_> = (0..42).map(|note_of| format!("\"note-{note_of}\": \"{note}\"")).collect();
    let meta = format!("{{\"meta\": {{{}}}, ", notes.join(", "));
    let job = fs::read_to_string(job).expect("the job").replacen('{', &meta, 1);
    place.run(&place.qhost.file("mallory-large.json", job))
}

fn kept_overlay(place: &Place, number: usize) -> Done {
    let name = format!("keeps-{number}");
    place.run(&place.job("keeps", &name, &place.fills, json!({"persist": true})))
}

/// Runs an image of each try's own, whose server breaks off.
fn unfinished(place: &Place, number: usize) -> Done {
    let mut disk = boot_sector::disk(&format!("disk {number}"), Then::PowerOff);
    disk.resize(4 << 20, 1);
    let (path, sha256) = ("/cut", qhost_model::digest::Sha256::of(&disk).to_string());
    let cut = Ranged { cut: Some(disk.len() - 100_000), ..Ranged::new(disk, "\"1\"") };
    place.server.set(path, Reply::Ranged(cut));
    place.run(&place.job("cut", "web", &(place.server.url(path), sha256), json!({})))
}

/// A zstd file of each try's own with frames of ten bytes and windows of 128 MiB, which takes long to unpack. The last one is cut off.
fn small_frames(place: &Place, number: usize) -> Done {
    let says = number.to_le_bytes()[0];
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, (1 << 3) | (1 << 1) | 1, 0, 0, says];
    let mut packed = frame.repeat((256 << 10) / frame.len());
    packed.pop();
    let image = place.server.serve("/frames.zst", packed);
    place.run(&place.job("frames", "web", &image, json!({})))
}

/// Runs a job with a tenant's policy that takes all of its time: for one source where it is enforced, for each of eight in monitor mode.
fn long_decision(place: &Place, number: usize) -> Done {
    let more = match number % 2 {
        0 => "deadline_ms = 3000",
        _ => "deadline_ms = 400\nmode = \"monitor\"",
    };
    let policy = configured("slow", "probe-spins", json!({}), more);
    let path = place.qhost.folder().join("qhost.toml");
    let plain = fs::read_to_string(path).expect("the configuration");
    let slow = format!("{plain}{policy}[tenants.mallory]\nchain = [\"slow\"]\n");
    let slow = place.qhost.file("slow.toml", slow);
    let image = (String::new(), "0".repeat(64));
    let places: Vec<_> = (0..8).map(|at| format!("http://127.0.0.1:9/{at}")).collect();
    let job = place.job("slow", "web", &image, json!({"image_source": places}));
    place.qhost.run(&["run", "--config", &slow, "--tenant", "mallory", &job])
}
