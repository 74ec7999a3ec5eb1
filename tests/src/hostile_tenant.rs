//! A tenant, mallory, who means harm to another one, acme, in every way at once: floods and locks from QEMU's place, restarts, short
//! VMs, large jobs, names, kept overlays, unfinished downloads, a policy that takes long.

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

/// What a QEMU does that mallory has broken out into, with the image that acme's VMs have too. The last one has no end.
const DEEDS: [&str; 13] = [
    "read-lock-image",
    "flock-image",
    "lease-image",
    "times-of-image",
    "mode-of-image",
    "listen-unbound",
    "listen 0.0.0.0:8080",
    "listen 127.0.0.1:8080",
    "signal 1",
    "spin 2",
    "flood-events",
    "long-lines",
    "flood-console",
];

/// The disk of acme's VMs, which is mallory's as well.
pub fn shared_disk(says: &str) -> Vec<u8> {
    stand_in::disk(says, &DEEDS)
}

/// The host's configuration with both tenants, and of mallory's VMs so many at a time, with a CPU each.
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

/// One way of doing harm, tried once: what it does, and what it may end with.
struct Way {
    name: &'static str,
    attempt: fn(&Place, usize) -> Done,
    codes: &'static [i32],
}

const WAYS: [Way; 5] = [
    Way { name: "short VMs", attempt: short_vm, codes: &[0, 10, 11] },
    Way { name: "refused jobs of 1 MB", attempt: large_job, codes: &[11] },
    Way { name: "runs with kept overlays", attempt: kept_overlay, codes: &[0, 11] },
    Way { name: "unfinished downloads", attempt: unfinished, codes: &[11, 13] },
    Way { name: "decisions that took long", attempt: long_decision, codes: &[12] },
];

/// What of all that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// What VMs that run can do: the floods, the locks, the restarts.
    ByVms,
    /// That, and what commands of mallory's have qhost do, each way by one command at a time.
    ByCommandsToo,
}

/// Where mallory works, and what is known there of acme's.
struct Place {
    qhost: Arc<Qhost>,
    server: ImageServer,
    /// A disk that is filled, and one whose guest powers off at once.
    fills: (String, String),
    short: (String, String),
    /// An id of a VM of acme's that has ended.
    anothers: String,
}

/// Mallory at work, until dropped.
pub struct HostileTenant {
    place: Arc<Place>,
    /// Held shared by each try, and alone by [`Self::paused`], which needs the host without them.
    at_work: Arc<RwLock<()>>,
    over: Arc<AtomicBool>,
    tries: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<()>>,
}

impl HostileTenant {
    /// Starts all of it, and waits until each way was tried once. `shared` is where [`shared_disk`] is served, `anothers` the id of a VM
    /// of acme's that has ended.
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

    /// Does something while mallory does nothing: between two tries of each way, and with all QEMUs of mallory's stopped.
    pub fn paused<T>(&self, action: impl FnOnce() -> T) -> T {
        let _alone = self.at_work.write().expect("the lock");
        let qemus = self.place.qemus();
        signal("-STOP", &qemus);
        let done = action();
        signal("-CONT", &qemus);
        done
    }

    /// How often each way was tried, and how often mallory's VMs were started again.
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

    /// Ends all of it. A try that went otherwise than it may fails the test.
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
            // One that failed has said so.
            if thread.join().is_err() {}
        }
    }
}

fn signal(signal: &str, pids: &[String]) {
    // One that has ended meanwhile does nothing either.
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

    /// VMs whose QEMU is the stand-in: one that floods and locks, one that fails as often as it is started. Later launches find QEMU
    /// itself, whose fingerprint is kept meanwhile; restarts are of what a VM was started with.
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
            // With a quota of one VM there is no second one.
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

    /// Those of mallory's VMs that have not ended.
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

/// Named like tasks and VMs of acme's, or with what steers a terminal, of which control characters are no name. After the first one it is as if there had been a hundred.
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

/// As large as a job file may be, with as many notes, and egress that is not allowed.
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

/// An image of each try's own, whose server breaks off.
fn unfinished(place: &Place, number: usize) -> Done {
    let mut disk = boot_sector::disk(&format!("disk {number}"), Then::PowerOff);
    disk.resize(4 << 20, 1);
    let (path, sha256) = ("/cut", qhost_model::digest::Sha256::of(&disk).to_string());
    let cut = Ranged { cut: Some(disk.len() - 100_000), ..Ranged::new(disk, "\"1\"") };
    place.server.set(path, Reply::Ranged(cut));
    place.run(&place.job("cut", "web", &(place.server.url(path), sha256), json!({})))
}

/// A tenant's policy that takes all of its time.
fn long_decision(place: &Place, _: usize) -> Done {
    let policy = configured("slow", "probe-spins", json!({}), "deadline_ms = 3000");
    let path = place.qhost.folder().join("qhost.toml");
    let plain = fs::read_to_string(path).expect("the configuration");
    let slow = format!("{plain}{policy}[tenants.mallory]\nchain = [\"slow\"]\n");
    let slow = place.qhost.file("slow.toml", slow);
    let image = ("https://images.example/x".into(), "0".repeat(64));
    let job = place.job("slow", "web", &image, json!({}));
    place.qhost.run(&["run", "--config", &slow, "--tenant", "mallory", &job])
}
