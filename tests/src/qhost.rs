//! Runs the `qhost` command in a scratch folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{command, succeed, wait_for};

/// A scratch folder with a state folder and a configuration, and the command to run in it. The folder is kept when the test fails.
pub struct Qhost {
    scratch: Option<TempDir>,
    environment: Vec<(String, String)>,
    program: PathBuf,
    /// The words before the program, such as setpriv(1) with its options.
    through: Vec<String>,
}

/// The host's fingerprint, which all tests share: trying kvm takes seconds on machines where it does not work.
fn fingerprint(program: &Path) -> &'static [u8] {
    static FINGERPRINT: OnceLock<Vec<u8>> = OnceLock::new();
    FINGERPRINT.get_or_init(|| {
        let state = TempDir::new().expect("a scratch folder");
        let status = command(program)
            .args(["fingerprint", "--state-dir"])
            .arg(state.path())
            .stdout(Stdio::null())
            .status()
            .expect("qhost runs");
        assert!(status.success(), "qhost fingerprint: is QEMU installed? tests/prepare does that");
        fs::read(state.path().join("fingerprint.json")).expect("the kept fingerprint")
    })
}

impl Qhost {
    /// Makes a scratch folder. `program` is `env!("CARGO_BIN_EXE_qhost-under-test")`.
    pub fn new(program: &str) -> Self {
        let scratch = TempDir::with_prefix("qhost-test-").expect("a scratch folder");
        let qhost = Self {
            scratch: Some(scratch),
            environment: vec![],
            program: program.into(),
            through: vec![],
        };
        fs::create_dir(qhost.state()).expect("a state folder");
        let kept = fingerprint(&qhost.program);
        fs::write(qhost.state().join("fingerprint.json"), kept).expect("the fingerprint");
        qhost.config("");
        qhost
    }

    /// The scratch folder.
    pub fn folder(&self) -> &Path {
        self.scratch.as_ref().expect("kept until dropped").path()
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Has qhost run as a user that is not root and owns this folder.
    pub fn as_user(mut self) -> Self {
        // The build's folder may be one that only root gets into.
        let bin = self.folder().join("qhost-bin");
        fs::create_dir(&bin).expect("a folder for programs");
        for name in ["qhost-under-test", "qhost-under-test-supervisor"] {
            fs::copy(self.program.with_file_name(name), bin.join(name)).expect("the program");
        }
        self.program = bin.join("qhost-under-test");
        let folder = self.folder().to_str().expect("UTF-8").to_owned();
        crate::succeed("chown", &["-R", "65534:65534", &folder]);
        self.through = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            .map(str::to_owned)
            .into();
        self
    }

    /// Has qhost run as a root without any of root's rights, as in a container.
    pub fn without_rights(mut self) -> Self {
        self.through =
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all"].map(str::to_owned).into();
        self
    }

    /// Adds a variable to the environment of commands.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// The variables that were added.
    pub fn variables(&self) -> impl Iterator<Item = (&String, &String)> {
        self.environment.iter().map(|(key, value)| (key, value))
    }

    /// The value that a variable was last given.
    pub fn variable(&self, key: &str) -> &str {
        let found = self.environment.iter().rfind(|(name, _)| name == key);
        &found.unwrap_or_else(|| panic!("{key} was not set")).1
    }

    /// Writes the host's configuration.
    pub fn config(&self, toml: &str) {
        fs::write(self.folder().join("qhost.toml"), toml).expect("the configuration");
    }

    /// Writes a file, and gives its path.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.folder().join(name);
        fs::write(&path, bytes).expect("a file in the scratch folder");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Writes a job for an image with as little memory as its firmware starts with, and gives its path; `more` is merged into its config.
    pub fn job(&self, (url, sha256): &(String, String), more: Value) -> String {
        let is_arm = more["architecture"] == "aarch64" || more["emulator"] == "qemu-system-aarch64";
        let is_uefi = more["firmware"] == "uefi";
        let memory_mib = if is_arm {
            128
        } else if is_uefi {
            64
        } else {
            32
        };
        let mut job = json!({
            "name": "test",
            "driver": "qemu",
            "config": {"image_source": url, "checksum": sha256},
            "resources": {"memory_mib": memory_mib},
        });
        let config = job["config"].as_object_mut().expect("an object");
        config.extend(more.as_object().expect("an object").clone());
        self.file("job.json", job.to_string())
    }

    /// The command with these arguments, in this folder, with nothing of the tests' own environment but PATH.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = self.through.iter().map(PathBuf::from).chain([self.program.clone()]);
        let mut command = command(words.next().expect("a program"));
        command
            .args(words)
            .args(args)
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("QHOST_STATE_DIR", self.state())
            .env("QHOST_CONFIG", self.folder().join("qhost.toml"))
            .env("QHOST_IMAGE_ALLOW", "127.0.0.0/8")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs qhost to its end.
    pub fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().expect("qhost runs"))
    }

    /// Runs qhost with a bound on the memory of its process (setrlimit(2), `RLIMIT_DATA`).
    pub fn run_within(&self, kib: u64, args: &[&str]) -> Done {
        let plain = self.command(args);
        let mut bounded = command("sh");
        bounded
            .args(["-c", &format!("ulimit -d {kib} && exec \"$0\" \"$@\"")])
            .arg(&self.program)
            .args(args)
            .current_dir(self.folder())
            .env_clear()
            .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .stdin(Stdio::null());
        Done::of(bounded.output().expect("qhost runs"))
    }

    /// Starts qhost, with its output going to files.
    pub fn start(&self, args: &[&str]) -> Running {
        let output = TempDir::new_in(self.folder()).expect("a folder for output").keep();
        let file = |name| fs::File::create(output.join(name)).expect("a file for output");
        let mut command = self.command(args);
        command.stdout(file("stdout")).stderr(file("stderr"));
        Running { child: command.spawn().expect("qhost runs"), output }
    }

    /// The cgroups of this folder's VMs.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let vms = self.vms();
        let names: Vec<_> = vms.iter().filter_map(|vm| vm.file_name()).collect();
        let of_vms =
            |tenant: PathBuf| names.iter().map(move |name| tenant.join(name)).collect::<Vec<_>>();
        tenant_groups().into_iter().flat_map(of_vms).filter(|group| group.exists()).collect()
    }

    /// The folders of VMs, running or ended.
    pub fn vms(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state().join("vms")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// Waits until the console log of a VM has this text, and gives the log.
    pub fn console_has(&self, text: &str) -> String {
        wait_for(text, || {
            let logs = self
                .vms()
                .into_iter()
                .map(|vm| fs::read(vm.join("console.log")).unwrap_or_default());
            logs.map(|log| String::from_utf8_lossy(&log).into_owned())
                .find(|log| log.contains(text))
        })
    }

    /// The configuration that a job with UDP ports needs: where QEMU's connections cannot be filtered, a cage without that filter.
    pub fn cage_for_udp(&self) -> &'static str {
        if crate::can_filter() { "" } else { "[cage]\nlevel = \"best-effort\"\n" }
    }

    /// The names of all files in the image store, without the records of stored images.
    pub fn stored_images(&self) -> Vec<String> {
        let mut names = vec![];
        let mut folders = vec![self.state().join("images")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path())
                } else {
                    names.push(entry.file_name().to_string_lossy().into_owned())
                }
            }
        }
        // A stored image has a record and a time of last use beside it.
        let images = names.clone();
        names.retain(|name| {
            let of = [".json", ".used"].iter().find_map(|ending| name.strip_suffix(ending));
            of.is_none_or(|of| !images.contains(&of.to_owned()))
        });
        names.sort();
        names
    }

    /// The process ids of the QEMUs of this folder's VMs.
    pub fn qemus(&self) -> Vec<String> {
        let is_qemu = |pid: &String| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("qemu-"))
        };
        processes_in(&self.state()).into_iter().filter(is_qemu).collect()
    }

    /// The process ids of the supervisors of this folder's VMs.
    pub fn supervisors(&self) -> Vec<String> {
        let is_one = |pid: &String| {
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            program.is_ok_and(|program| program.to_string_lossy().ends_with("-supervisor"))
        };
        processes_in(&self.state()).into_iter().filter(is_one).collect()
    }

    /// Kills the first supervisor, and waits until its locks are released: the kernel closes a process's files after the process has no
    /// program any more.
    pub fn kill_supervisor(&self) -> String {
        let supervisor = self.supervisors().remove(0);
        succeed("kill", &["-KILL", &supervisor]);
        wait_for("its end", || {
            let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map_or("gone", |(_, state)| state);
            (state == "gone" || state.starts_with(['Z', 'X'])).then_some(())
        });
        supervisor
    }

    /// Leaves all VMs as a restart of the host does: their processes are gone, and other processes have the ids in their records.
    pub fn as_after_a_reboot(&self) {
        let supervisors = self.supervisors();
        let all = [self.qemus(), supervisors.clone()].concat();
        let signal = |signal, pids: &[String]| {
            let pids = pids.iter().map(String::as_str);
            succeed("kill", &[signal].into_iter().chain(pids).collect::<Vec<_>>());
        };
        // A stopped supervisor cannot record its QEMU's end.
        signal("-STOP", &supervisors);
        signal("-KILL", &all);
        wait_for("their ends", || self.qemus().is_empty().then_some(()));
        for vm in self.vms() {
            let path = vm.join("status.json");
            let status = fs::read(&path).expect("a status");
            let mut status: Value = serde_json::from_slice(&status).expect("JSON");
            for process in ["qemu", "supervisor"] {
                status[process]["pid"] = std::process::id().into();
                status[process]["boot_id"] = "another start".into();
            }
            fs::write(&path, status.to_string()).expect("a status");
        }
    }

    /// Asserts that ended VMs left their records and nothing else, and that no process works in this folder.
    pub fn assert_nothing_left(&self) {
        for vm in self.vms() {
            let files = fs::read_dir(&vm).expect("a VM's folder").flatten();
            for name in files.map(|file| file.file_name().to_string_lossy().into_owned()) {
                let is_left = name.ends_with(".sock")
                    || name.starts_with("disk-")
                    || ["overlay.qcow2", "frozen", "firmware.fd", "variables.fd"].contains(&&*name);
                assert!(!is_left, "{name} is left in {}", vm.display());
            }
        }
        let left = wait_for_no_processes(&self.state());
        assert!(left.is_empty(), "processes left: {left:?}");
    }
}

/// The processes that work inside `folder`, after a moment in which they may be reaped.
fn wait_for_no_processes(folder: &Path) -> Vec<String> {
    let mut left = vec![];
    for _ in 0..100 {
        left = processes_in(folder);
        if left.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    left
}

/// The ids of processes that work inside `folder`: supervisors, which have it as their working folder, and QEMUs, which see nothing of it
/// but have files of it open.
pub fn processes_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let works = |pid: &String| {
        let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(folder));
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        inside(format!("/proc/{pid}/cwd").into()) || open.map(|one| one.path()).any(inside)
    };
    let numbers = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // A child of another test has every file open that this test has, until it becomes another program; such children are left out first.
    let this = fs::read_link("/proc/self/exe").expect("this program");
    let is_other =
        |pid: &String| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe != this);
    numbers
        .filter(|pid| pid.bytes().all(|digit| digit.is_ascii_digit()))
        .filter(is_other)
        .filter(works)
        .collect()
}

/// The cgroups of tenants, of each version and controller.
fn tenant_groups() -> Vec<PathBuf> {
    let controllers = ["cpu", "memory", "pids", "unified", ""];
    let folders = controllers.map(|one| Path::new("/sys/fs/cgroup").join(one).join("qhost"));
    let groups = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let groups = groups.map(|group| group.path());
    groups.filter(|group| group.to_string_lossy().contains("/tenant-")).collect()
}

impl Drop for Qhost {
    fn drop(&mut self) {
        // VMs outlive the commands that started them; a test's VMs do not outlive the test.
        let mut tries = 0;
        while let Some(left) = Some(processes_in(&self.state())).filter(|left| !left.is_empty()) {
            for pid in left {
                // A process that has ended meanwhile needs no signal.
                let killed = command("kill").args(["-KILL", &pid]).stderr(Stdio::null()).status();
                killed.expect("kill runs");
            }
            tries += 1;
            assert!(tries < 100 || std::thread::panicking(), "processes do not end");
        }
        for group in self.cgroups() {
            for group in [group.join("qemu"), group.join("supervisor"), group] {
                if group.exists() {
                    wait_for("the cgroup to be empty", || fs::remove_dir(&group).ok());
                }
            }
        }
        let keep = std::thread::panicking() || std::env::var_os("QHOST_KEEP_SCRATCH").is_some();
        if let Some(scratch) = self.scratch.take().filter(|_| keep) {
            eprintln!("kept: {}", scratch.keep().display());
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| panic!("qhost was killed: {status}"))
}

/// The result of a `qhost` that has ended.
#[derive(Debug)]
pub struct Done {
    /// The exit code.
    pub code: i32,
    /// The text on standard output.
    pub stdout: String,
    /// The text on standard error.
    pub stderr: String,
}

impl Done {
    /// The result of a program that has ended.
    pub fn of(output: Output) -> Self {
        Self {
            code: code(output.status),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that one of the outputs has a text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let has = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(has, "{text:?} is not in\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The JSON on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr)
        })
    }
}

/// A `qhost` that runs, and is killed when this is dropped.
pub struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `INT`, `TERM`, `KILL`.
    pub fn signal(&self, signal: &str) {
        crate::succeed("kill", &[&format!("-{signal}"), &self.child.id().to_string()]);
    }

    /// Sends a signal to a process that may have ended.
    pub fn try_signal(&self, signal: &str) {
        let mut kill = command("kill");
        kill.args([&format!("-{signal}"), &self.child.id().to_string()]).stderr(Stdio::null());
        kill.status().expect("kill runs");
    }

    /// Waits until the process has printed a text.
    pub fn says(&self, text: &str) {
        let says =
            |name| fs::read_to_string(self.output.join(name)).is_ok_and(|said| said.contains(text));
        wait_for(text, || (says("stdout") || says("stderr")).then_some(()));
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("qhost can be waited for").is_some()
    }

    /// Waits for the process's end.
    pub fn end(mut self) -> Done {
        let status =
            wait_for("qhost to end", || self.child.try_wait().expect("qhost can be waited for"));
        let read = |name| fs::read_to_string(self.output.join(name)).expect("UTF-8 output");
        Done { code: status.code().unwrap_or(-1), stdout: read("stdout"), stderr: read("stderr") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Killing fails if the process has ended already, which is just as good.
        if self.child.kill().is_ok() {
            self.child.wait().expect("a killed process ends");
        }
    }
}
