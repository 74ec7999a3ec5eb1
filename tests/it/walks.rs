//! The walks of a newcomer and of an operator: every command of the README and of the pages is run as it stands there, and the most used
//! output is shown at 80 columns. The walk of a policy's author is in `tutorial.rs`.

use std::{fs, os::unix::fs::symlink};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    command, configured,
    languages::can_build,
    policy, root,
    terminal::{plain, run_on_terminal},
};

use crate::{qhost, snapshot};

/// Commands that go on until they are interrupted, or until a VM has ended.
const GO_ON: [&str; 5] = [
    "qhost run --policy",
    "qhost logs --follow",
    "qhost events --follow",
    "qhost console",
    "--watch",
];

/// A page's text.
fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a page")
}

/// The commands of qhost in a page's console blocks, without the remarks behind them.
fn commands(page: &str) -> Vec<String> {
    let page = page.replace("\\\n", " ");
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ "));
    let commands = lines.map(|line| line.split("  #").next().unwrap().split(" # ").next().unwrap());
    commands.filter(|line| line.starts_with("qhost ")).map(|line| line.trim().into()).collect()
}

/// A folder in which the pages' commands find the files that they name.
struct Desk {
    qhost: Qhost,
    server: ImageServer,
    image: (String, String),
}

impl Desk {
    fn new(qhost: Qhost) -> Self {
        let server = ImageServer::start();
        let disk = boot_sector::disk("the guest runs", Then::Hang);
        let image = server.serve("/web.raw.xz", disk.clone());
        let bin = qhost.folder().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(qhost.program(), bin.join("qhost")).unwrap();
        for (name, module) in [
            ("trusted-images.wasm", "trusted-images"),
            ("p.wasm", "limits"),
            ("new.wasm", "limits"),
        ] {
            qhost.file(name, fs::read(policy(module)).unwrap());
        }
        for name in ["disk.qcow2", "web.raw.xz"] {
            qhost.file(name, &disk);
        }
        Self { qhost, server, image }
    }

    /// Runs a command line, with real hosts and digests in place of the pages' invented ones. Gives its exit code and its output.
    fn run(&self, line: &str) -> (i32, String) {
        let host = self.server.url("");
        let mut real = line
            .replace("https://images.example", &host)
            .replace("https://mirror.example", &self.server.url("/mirror"))
            .replace("images.example", "127.0.0.1")
            .replace("4f0c…", &self.image.1)
            // This guest ignores the power button.
            .replace("--grace 60", "--grace 1")
            .replace("LOG", self.qhost.state().join("decisions").to_str().unwrap());
        if GO_ON.iter().any(|goes_on| line.contains(goes_on)) {
            let quoted = real.replace('\'', r"'\''");
            real = format!("timeout --preserve-status --signal=INT 3 bash -c 'exec {quoted}'");
        }
        let path = std::env::var("PATH").unwrap();
        let path =
            self.qhost.variables().find(|(key, _)| *key == "PATH").map_or(path, |it| it.1.clone());
        let bin = self.qhost.folder().join("bin");
        let mut bash = command("bash");
        let plain = self.qhost.command(&[]);
        bash.args(["-c", &real])
            .current_dir(self.qhost.folder())
            .env_clear()
            .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .env("PATH", format!("{}:{path}", bin.display()))
            .stdin(std::process::Stdio::null());
        let output = bash.output().expect("bash runs");
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        (output.status.code().unwrap_or(-1), said.concat())
    }

    /// Runs all of a page's commands. A command that goes on is interrupted, unless it ended by itself.
    fn walk(&self, commands: &[String]) {
        for line in commands {
            // If several tenants' VMs have a name, it needs the tenant's name before it.
            let is_of_tenant = line.contains("acme/web");
            if is_of_tenant {
                let acmes = ["run", "--detach", "--tenant", "acme", "--grace", "0", "job.json"];
                self.qhost.run(&acmes).exits(0);
                self.qhost.run(&["kill", "acme/web"]).exits(0);
            }
            let (code, said) = self.run(line);
            if is_of_tenant {
                self.qhost.run(&["rm", "acme/web"]).exits(0);
            }
            let goes_on = GO_ON.iter().any(|goes_on| line.contains(goes_on));
            assert!(code == 0 || (goes_on && code == 130), "$ {line}\nexit code {code}\n{said}");
        }
    }

    /// Writes the README's job, with this server's image.
    fn job(&self, more: Value) {
        let readme = page("README.md");
        let (_, block) = readme.split_once("```json\n").expect("a job");
        let (job, _) = block.split_once("```").expect("its end");
        let mut job: Value = serde_json::from_str(job).expect("JSON");
        let config = job["config"].as_object_mut().expect("an object");
        config.insert("image_source".into(), self.image.0.clone().into());
        config.insert("checksum".into(), self.image.1.clone().into());
        config.extend(more.as_object().expect("an object").clone());
        self.qhost.file("job.json", job.to_string());
    }
}

/// The README's job can be copied: a plan of it names nothing that is not there.
#[test]
fn the_job_of_the_readme_is_understood_as_it_stands() {
    let qhost = qhost();
    let readme = page("README.md");
    let (_, block) = readme.split_once("```json\n").expect("a job");
    let job = qhost.file("job.json", block.split_once("```").expect("its end").0);
    let task = qhost.run(&["plan", "--json", &job]).json()["task"].clone();
    assert_eq!(task["image"]["source"].as_str().map(|url| url.starts_with("https://")), Some(true));
    assert!(!task["image"].to_string().contains(".example"), "{task}");
}

#[test]
fn the_newcomers_walk() {
    let qhost = if can_build("rust") { qhost().as_author() } else { qhost() };
    let desk = Desk::new(qhost);
    desk.job(json!({}));
    let readme = page("README.md");
    let (first, rest) = readme.split_once("## A first policy").expect("a section");
    let commands_of = |text| commands(text);
    desk.walk(&commands_of(first));
    if can_build("rust") {
        let policy = commands_of(rest);
        assert!(policy.len() >= 4, "{policy:?}");
        desk.walk(&policy);
    }
    desk.qhost.assert_nothing_left();
}

#[test]
fn the_operators_walk() {
    let desk = Desk::new(qhost());
    // The port that the README names belongs to the other walk.
    desk.job(json!({
        "ready": {"serial": "guest runs"}, "port_map": {"ssh": 22}, "display": true
    }));
    let operating = commands(&page("host/docs/operating.md"));
    assert!(operating.len() > 20, "{operating:?}");
    desk.walk(&operating);
    desk.qhost.run(&["drain", "--end"]).exits(0);
    let images = commands(&page("host/docs/images.md"));
    assert!(images.len() > 4, "{images:?}");
    desk.walk(&images);
    // The other commands of this page belong to the Debian guest's test.
    let mut volumes = commands(&page("host/docs/your-guest.md"));
    volumes.retain(|line| line.starts_with("qhost volume"));
    assert!(volumes.len() > 4, "{volumes:?}");
    desk.qhost.run(&["volume", "rm", "acme/db"]).exits(0);
    desk.walk(&volumes);
    desk.qhost.assert_nothing_left();
}

/// The output on a terminal of so many columns, without the parts that differ from run to run.
fn shown(qhost: &Qhost, columns: usize, args: &[&str]) -> String {
    let done = run_on_terminal(qhost, columns, args);
    let text = plain(&without_spinner(&done.stdout));
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(columns), "{text}");
    let prompt = format!("$ qhost {}\n", args.join(" "));
    format!("{prompt}{}exit code {}\n\n", steady(&text, qhost), done.code)
}

/// The output of a terminal after a spinner: each of its frames begins with the line erased (ECMA-48, EL).
fn without_spinner(text: &str) -> String {
    const ERASE: &str = "\u{1b}[2K";
    let is_frame = |piece: &&str| piece.contains(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
    let pieces = text.split('\r').filter(|piece| !is_frame(piece));
    pieces.map(|piece| piece.replace(ERASE, "")).collect()
}

/// Replaces digests and folders, which are different each time. A replaced digest keeps its width.
fn steady(text: &str, qhost: &Qhost) -> String {
    let mut text = text.to_owned();
    // A digest in an error may continue in the next line.
    while let Some(begin) = text.find("(sha256:") {
        let end = text[begin..].find(')').expect("its end") + begin;
        text.replace_range(begin..=end, "(DIGEST)");
    }
    text = text.replace(qhost.folder().to_str().unwrap(), "SCRATCH");
    let is_digest = |word: &str| word.len() >= 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = text.split_inclusive([' ', '\n', ':', ')', '(', '/']);
    let same = |word: &str| {
        let bare = word.trim_end_matches([' ', '\n', ':', ')', '(', '/']);
        let end = &word[bare.len()..];
        if is_digest(bare) { "f".repeat(bare.len()) + end } else { word.to_owned() }
    };
    words.map(same).collect()
}

/// The most used output fits 80 columns, and can be read at 40.
#[test]
fn what_is_looked_at_most_at_80_columns() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::PowerOff));
    let limits = configured("limits", "limits", json!({"memory_mib": 24}), "");
    let quotas = "[host]\nchain = [\"limits\"]\n[tenants.acme]\nquota = { vms = 2, memory_mib = 4096 }\n[tenants.umbrella]\n";
    qhost.config(&format!("{limits}{quotas}"));
    let job = qhost.job(&image, json!({}));
    qhost.run(&["run", "--tenant", "acme", &job]).exits(11);
    // The decision is a month old, since an age in seconds would differ on a busy machine.
    let log = qhost.state().join("decisions/tenant-acme/current.jsonl");
    let mut record: Value = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
    record["time"] =
        (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 30)).to_string().into();
    fs::write(&log, format!("{record}\n")).unwrap();
    let project = qhost.folder().join("limits");
    fs::create_dir_all(project.join("cases")).unwrap();
    fs::copy(policy("limits"), project.join("limits.wasm")).unwrap();
    let cases = "[settings]\nmemory_mib = 64\n[[case]]\nname = \"more than there is for a task is refused\"\njob = { resources = { memory_mib = 32 } }\n[case.expect]\nverdict = \"denied\"\n";
    fs::write(project.join("cases/limits.toml"), cases).unwrap();
    let probe = qhost.folder().join("probe");
    fs::create_dir_all(probe.join("cases")).unwrap();
    fs::copy(policy("probe-fickle"), probe.join("probe-fickle.wasm")).unwrap();
    fs::write(probe.join("cases/probe.toml"), "[[case]]\nname = \"the example\"\n").unwrap();
    for columns in [80, 40] {
        let mut text = String::new();
        for args in [
            &["plan", "--tenant", "acme", "job.json"][..],
            &["policy", "test", "limits"],
            &["policy", "lint", "probe"],
            &["policy", "replay", "--policy-settings", r#"limits={"memory_mib": 64}"#],
            &["decisions"],
            &["quota"],
            &["ps", "--all"],
            &["run", "--tenant", "other", "job.json"],
            &[
                "plan",
                "--tenant",
                "acme",
                "--policy",
                "x=limits/limits.wasm",
                "--policy-settings",
                "x={\"cpu\": 1}",
                "job.json",
            ],
            &["stop", "web"],
        ] {
            text += &shown(&qhost, columns, args);
        }
        snapshot(&format!("at-{columns}-columns"), &text, &qhost);
    }
}
