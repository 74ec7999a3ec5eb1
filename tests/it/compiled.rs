//! Compiled policies on disk: used if they are this host's own, compiled again if anything about them is not; and a compiler is given up
//! when it takes too much.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use qhost_tests::{Done, Qhost, policy, qhost::processes_in};

use crate::qhost;

/// Makes a plan under a policy that always allows, and shows the steps.
fn plan(qhost: &Qhost, file: &Path) -> Done {
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["plan", "-v", "--policy", file.to_str().unwrap(), &job]).exits(0)
}

fn compiles(done: &Done) -> bool {
    done.stderr.contains("compiling")
}

fn compiled(qhost: &Qhost, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(qhost.state().join("compiled")).expect("the cache").flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// The only file of compiled code.
fn code(qhost: &Qhost) -> PathBuf {
    match compiled(qhost, "cwasm").as_slice() {
        [code] => code.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_is_compiled_once() {
    let qhost = qhost();
    assert!(compiles(&plan(&qhost, &policy("limits"))));
    assert!(!compiles(&plan(&qhost, &policy("limits"))));
    // No other user may look at the key or the code.
    use std::os::unix::fs::MetadataExt as _;
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&qhost.state().join("compiled")), 0o700);
    assert_eq!(mode(&qhost.state().join("compiled/key")), 0o600);
    assert_eq!(mode(&code(&qhost)), 0o600);
}

#[test]
fn other_times_alone_change_nothing() {
    let qhost = qhost();
    plan(&qhost, &policy("limits"));
    let code = code(&qhost);
    let bytes = fs::read(&code).unwrap();
    fs::remove_file(&code).unwrap();
    fs::write(&code, bytes).unwrap();
    assert!(!compiles(&plan(&qhost, &policy("limits"))), "its digest is the same");
}

/// Harms the cache, and checks that the policy is compiled afresh and decides as before.
#[track_caller]
fn compiled_afresh_after(harm: impl FnOnce(&Qhost)) {
    let qhost = qhost();
    plan(&qhost, &policy("limits"));
    harm(&qhost);
    assert!(compiles(&plan(&qhost, &policy("limits"))), "the cache was believed");
    assert!(!compiles(&plan(&qhost, &policy("limits"))), "the cache was not mended");
}

#[test]
fn tampered_code_is_not_run() {
    compiled_afresh_after(|qhost| {
        let mut bytes = fs::read(code(qhost)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(code(qhost), bytes).unwrap();
    });
}

#[test]
fn tampered_code_with_the_old_times_is_not_run() {
    compiled_afresh_after(|qhost| {
        let code = code(qhost);
        let modified = fs::metadata(&code).unwrap().modified().unwrap();
        let mut bytes = fs::read(&code).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&code, bytes).unwrap();
        fs::File::options().write(true).open(&code).unwrap().set_modified(modified).unwrap();
    });
}

#[test]
fn truncated_code_is_not_run() {
    compiled_afresh_after(|qhost| {
        let code = fs::File::options().write(true).open(code(qhost)).unwrap();
        code.set_len(code.metadata().unwrap().len() / 2).unwrap();
    });
    compiled_afresh_after(|qhost| fs::write(code(qhost), "").unwrap());
}

#[test]
fn another_hosts_code_is_not_run() {
    let other = qhost();
    plan(&other, &policy("limits"));
    compiled_afresh_after(|qhost| {
        for extension in ["cwasm", "note", "file"] {
            for file in compiled(&other, extension) {
                fs::copy(&file, qhost.state().join("compiled").join(file.file_name().unwrap()))
                    .unwrap();
            }
        }
    });
}

#[test]
fn another_policys_code_is_not_run() {
    compiled_afresh_after(|qhost| {
        let [own_code, own_note] =
            ["cwasm", "note"].map(|extension| compiled(qhost, extension)[0].clone());
        plan(qhost, &policy("accelerator"));
        let other = |extension: &str, own: &PathBuf| {
            compiled(qhost, extension).into_iter().find(|path| path != own).expect("another")
        };
        fs::rename(other("cwasm", &own_code), &own_code).unwrap();
        fs::rename(other("note", &own_note), &own_note).unwrap();
    });
}

#[test]
fn a_note_that_was_changed_is_not_believed() {
    compiled_afresh_after(|qhost| {
        let note = &compiled(qhost, "note")[0];
        let text = fs::read_to_string(note).unwrap();
        assert!(text.contains("limits"));
        fs::write(note, text.replace("limits", "timils")).unwrap();
    });
}

#[test]
fn without_its_key_nothing_is_believed() {
    compiled_afresh_after(|qhost| fs::remove_file(qhost.state().join("compiled/key")).unwrap());
    compiled_afresh_after(|qhost| fs::write(qhost.state().join("compiled/key"), "short").unwrap());
    compiled_afresh_after(|qhost| {
        use std::os::unix::fs::PermissionsExt as _;
        let key = qhost.state().join("compiled/key");
        fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    });
}

/// The digest of a file that was hashed before is kept, and is known to be out of date once the file changed.
#[test]
fn a_policys_file_that_changed_is_another_policy() {
    let qhost = qhost();
    let file = qhost.folder().join("policy.wasm");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let place = |name: &str| {
        fs::copy(policy(name), &file).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    };
    place("limits");
    // The wait lets the file's times tell it from a later change.
    std::thread::sleep(qhost_policy::limits::FILE_SETTLED + std::time::Duration::from_secs(1));
    plan(&qhost, &file).says(" by policy 0.1.0");
    assert_eq!(compiled(&qhost, "file").len(), 1, "its digest is kept");
    place("probe-traps");
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    qhost.run(&["plan", "--policy", file.to_str().unwrap(), &job]).exits(12).says("it trapped");
}

#[test]
fn a_cache_that_cannot_be_written_costs_only_time() {
    let qhost = qhost();
    fs::write(qhost.state().join("compiled"), "in the way").unwrap();
    let done = plan(&qhost, &policy("limits"));
    assert!(compiles(&done));
    done.says("a compiled policy is not kept");
}

/// A component of one core module with one function that adds constants to a local, over and over: a second and some
/// hundred bytes of the compiler's memory for each few bytes of it.
fn bomb(bytes: usize) -> Vec<u8> {
    let leb = |mut value: usize| {
        let mut bytes = vec![];
        loop {
            let low = u8::try_from(value & 0x7f).unwrap();
            value >>= 7;
            if value == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    };
    let section = |id: u8, content: &[u8]| [&[id], leb(content.len()).as_slice(), content].concat();
    // local.get 0, i32.const n, i32.mul, i32.load 0 0, local.set 0
    let step = |n: usize| [0x20, 0, 0x41, u8::try_from(n % 63).unwrap(), 0x6c, 0x28, 2, 0, 0x21, 0];
    let steps: Vec<u8> = (0..bytes / 10).flat_map(step).collect();
    let body = [&[1, 1, 0x7f][..], &steps, &[0x0b]].concat();
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        &section(1, &[1, 0x60, 0, 0]),
        &section(3, &[1, 0]),
        &section(5, &[1, 0, 1]),
        &section(10, &[&[1], leb(body.len()).as_slice(), &body].concat()),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".as_slice(), &section(1, &module)].concat()
}

#[test]
fn a_compile_bomb_is_given_up() {
    let qhost = qhost();
    let file = qhost.file("bomb.wasm", bomb(7 << 20));
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    for (limits, says) in [
        ("timeout_s = 1", "compiling it took longer than 1 s"),
        ("memory_mib = 300", "the compiler died"),
    ] {
        qhost.config(&format!("[compile]\n{limits}\n"));
        qhost.run(&["plan", "--policy", &file, &job]).exits(12).says("does not load").says(says);
    }
    assert!(compiled(&qhost, "cwasm").is_empty());
    let left = processes_in(qhost.folder());
    assert!(left.is_empty(), "compilers left: {left:?}");
}
