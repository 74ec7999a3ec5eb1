//! The hostile policies, with the result of each. The list is a snapshot, `snapshots/hostile.snap`: the exit code and the message for each.
//! The result must be the same every time; nothing may hang, and nothing may be left.

use std::{fs, path::PathBuf};

use serde_json::json;

use qhost_tests::{
    Qhost,
    hostile::{component, component_of, module, module_of_today, nested},
    policy, root, succeed,
};

use crate::{qhost, snapshot};

/// Files that are no policies, and policies that no compiler made.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let real = component_of(&module_of_today(""));
    let half = real[..real.len() / 2].to_vec();
    let short = real[..real.len() - 1].to_vec();
    let longer = [real.as_slice(), b"more"].concat();
    let other_magic = [b"\0ASM".as_slice(), &real[4..]].concat();
    let describe = |text: &str| module(&format!("(func $describe (result i32) {text})"));
    let answers = |at: u32, bytes: &str| module(&format!("(data (i32.const {at}) \"{bytes}\")"));
    vec![
        ("no bytes", vec![]),
        ("text", b"package policy\n".to_vec()),
        ("an ELF program", fs::read("/bin/true").expect("a program")[..4096].to_vec()),
        ("WebAssembly of version 2", b"\0asm\x02\0\0\0".to_vec()),
        ("a core module of nothing", b"\0asm\x01\0\0\0".to_vec()),
        ("a component of nothing", b"\0asm\x0d\0\x01\0".to_vec()),
        ("half a policy", half),
        ("a policy without its last byte", short),
        ("a policy with more behind it", longer),
        ("a policy with another magic", other_magic),
        ("components 10 deep", nested(10)),
        ("components 10000 deep", nested(10_000)),
        ("a section longer than the file", b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\x0f".to_vec()),
        (
            "imports of an unknown interface",
            component(r#"(import "evil:thing/run@1.0.0" (instance))"#),
        ),
        (
            "imports of a WASI that does not exist",
            component(
                r#"(import "wasi:cli/environment@0.2.99" (instance (export "x" (func))))
                   (instance $i) (export "qhost:policy/decide@0.1.0" (instance $i))"#,
            ),
        ),
        (
            "the contract of another time",
            component(r#"(instance $i) (export "qhost:policy/decide@0.9.0" (instance $i))"#),
        ),
        (
            "the contract's name and nothing in it",
            component(r#"(instance $i) (export "qhost:policy/decide@0.2.0" (instance $i))"#),
        ),
        ("an answer of zeros", module_of_today("")),
        (
            "a sound component of another world",
            component(
                r#"(core module $m (func (export "greet") (result i32) i32.const 0))
                   (core instance $i (instantiate $m))
                   (func (export "greet") (result u32) (canon lift (core func $i "greet")))"#,
            ),
        ),
        ("a core module without its world's type", wat_module()),
        (
            "a world whose packages name each other",
            fs::read(root().join("tests/fixtures/policies/packages-in-a-circle.wasm"))
                .expect("what the fuzzer found"),
        ),
        ("a memory of 4 GiB from the start", module("(memory $memory 65536)")),
        ("a memory beyond what 32 bits address", component("(core module (memory i64 65537))")),
        ("a shared memory", component("(core module (memory 1 1 shared))")),
        ("a table of a million elements", module("(table 1000000 funcref)")),
        ("a table of 50000 elements", module("(table 50000 funcref)")),
        ("fifty memories", component(&"(core module (memory 1)) ".repeat(50))),
        ("a start function that loops", module("(func $start (loop br 0)) (start $start)")),
        ("a start function that recurses", module("(func $start call $start) (start $start)")),
        ("a start function that traps", module("(func $start unreachable) (start $start)")),
        ("describe divides by zero", describe("(i32.div_u (i32.const 1) (i32.const 0))")),
        (
            "describe grows its memory for ever",
            describe(
                "(loop (br_if 0 (i32.const 1) (drop (memory.grow (i32.const 100))))) i32.const 0",
            ),
        ),
        (
            "describe fills its memory for ever",
            describe(
                "(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 131072)) br 0) i32.const 0",
            ),
        ),
        ("an answer outside the memory", describe("i32.const -16")),
        ("an answer across the memory's end", describe("i32.const 131068")),
        ("an answer that is not aligned", describe("i32.const 1025")),
        ("a name of 4 GiB", answers(1028, "\\ff\\ff\\ff\\ff")),
        ("a name of 65 characters", answers(1028, "\\41\\00\\00\\00")),
        ("a name across the memory's end", answers(1024, "\\fc\\ff\\01\\00\\08\\00\\00\\00")),
        ("a name that is not UTF-8", answers(1024, "\\00\\04\\00\\00\\01\\00\\00\\00")),
        ("a schema that is neither there nor not", answers(1048, "\\07")),
        ("a list of a billion extensions", answers(1064, "\\ff\\ff\\ff\\3f")),
        (
            "a realloc that loops",
            module("(func $realloc (param i32 i32 i32 i32) (result i32) (loop br 0) i32.const 0)"),
        ),
        (
            "a realloc that gives wild pointers",
            module("(func $realloc (param i32 i32 i32 i32) (result i32) i32.const -4)"),
        ),
        (
            "a result that is neither well nor ill",
            module(
                "(func $choose (param i32) (result i32) i32.const 2048) (data (i32.const 2048) \"\\09\")",
            ),
        ),
        (
            "an accelerator that is none",
            module(
                "(func $choose (param i32) (result i32) i32.const 2048) (data (i32.const 2052) \"\\09\")",
            ),
        ),
        (
            "a refusal without a reason",
            module(
                "(func $choose (param i32) (result i32) i32.const 2048) (data (i32.const 2048) \"\\01\")",
            ),
        ),
        ("a launch of no memory and no CPUs", module("")),
    ]
}

fn wat_module() -> Vec<u8> {
    wat::parse_str(r#"(module (func (export "qhost:policy/decide@0.1.0#describe")))"#).expect("WAT")
}

/// The outcome of a plan under this policy file, in a line.
fn tried(qhost: &Qhost, name: &str, file: &str) -> String {
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let done = qhost.run(&["plan", "--policy", &format!("hostile={file}"), &job]);
    let said = format!("{}{}", done.stdout, done.stderr);
    // A policy's own panic would be shown as well, so that a line of the command's panic is looked for.
    assert!(!said.lines().any(|line| line.starts_with("thread '")), "{name}: {said}");
    let message = said.lines().find(|line| line.starts_with("error:")).unwrap_or_else(|| {
        let verdict = said.lines().find(|line| !line.trim().is_empty());
        verdict.unwrap_or("nothing")
    });
    // Digests change with the compilers.
    let is_digest = |word: &str| {
        word.contains("sha256:")
            // The compiler's process id.
            || word.trim_matches(|c| "()".contains(c)).parse::<u32>().is_ok_and(|_| word.starts_with('('))
            || (word.len() == 12 && word.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let message: Vec<_> = message.split(' ').filter(|word| !is_digest(word)).collect();
    let message = message.join(" ");
    format!("{name:<40} exit {:<3} {}\n", done.code, message.trim_start_matches("error: "))
}

#[test]
fn what_each_hostile_case_got() {
    let qhost = qhost();
    let mut list = String::new();
    for (name, bytes) in files() {
        let file = qhost.file("hostile.wasm", bytes);
        list += &tried(&qhost, name, &file);
    }
    let large = qhost.folder().join("large.wasm");
    fs::File::create(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    let pipe = qhost.folder().join("pipe");
    succeed("mkfifo", &[pipe.to_str().unwrap()]);
    let unreadable = qhost.folder().join("folder");
    fs::create_dir(&unreadable).unwrap();
    for (name, path) in [
        ("a file of 64 MiB and a byte", large),
        ("a pipe without a writer", pipe),
        ("a folder", unreadable),
        ("a device that never ends", PathBuf::from("/dev/zero")),
        ("no file", qhost.folder().join("gone")),
    ] {
        list += &tried(&qhost, name, path.to_str().unwrap());
    }
    for probe in
        ["fickle", "hoards", "huge-answer", "recurses", "spins", "traps", "wasi", "wasi-files"]
    {
        let file = policy(&format!("probe-{probe}"));
        list += &tried(&qhost, &format!("probe-{probe}"), file.to_str().unwrap());
    }
    qhost.assert_nothing_left();
    snapshot("hostile", &list, &qhost);
}

/// A configuration, too, may have any content.
#[test]
fn what_each_hostile_configuration_got() {
    let qhost = qhost();
    let deep = format!(
        "[policies.x]\nmodule = \"x\"\nsettings = {}1{}\n",
        "{a=".repeat(500),
        "}".repeat(500)
    );
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let mut list = String::new();
    for (name, text) in [
        ("no TOML", b"policies: {}\n".to_vec()),
        ("no UTF-8", b"[ports]\nallow = [\"\xff\"]\n".to_vec()),
        ("a key twice", b"[ports]\nallow = []\nallow = []\n".to_vec()),
        ("settings 500 deep", deep.into_bytes()),
        ("a number beyond all", b"[image]\nmax_bytes = 99999999999999999999999999\n".to_vec()),
        ("a negative size", b"[image]\nmax_bytes = -1\n".to_vec()),
        ("a range the wrong way round", b"[ports]\nallow = [\"9-1\"]\n".to_vec()),
        ("a chain of one who is not there", b"[host]\nchain = [\"gone\"]\n".to_vec()),
        ("2 MiB of comment", [b"#".repeat(2 << 20), b"\n[nonsense]\n".to_vec()].concat()),
        ("escapes in a name", b"[\"policies\".\"\\u001b[31m\"]\nmodule = \"x\"\n".to_vec()),
    ] {
        fs::write(qhost.folder().join("qhost.toml"), text).unwrap();
        let done = qhost.run(&["plan", &job]);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(!said.contains("panicked") && !said.contains('\u{1b}'), "{name}: {said}");
        let message = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let message: Vec<_> = message.filter(|line| !line.starts_with('|')).take(3).collect();
        let mut message = message.join(" ");
        message.truncate(message.floor_char_boundary(200));
        list += &format!("{name:<40} exit {:<3} {message}\n", done.code);
    }
    snapshot("hostile-configurations", &list, &qhost);
}

/// The seed of `tests/fuzz` is a policy of the current contract.
#[test]
fn the_fuzzers_seed_is_a_policy() {
    let qhost = qhost();
    let seed = root().join("tests/fuzz/corpus/component/component.wasm");
    let bytes = component_of(&module_of_today(""));
    if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
        fs::write(&seed, &bytes).expect("a seed");
    }
    assert_eq!(fs::read(&seed).expect("a seed"), bytes, "INSTA_UPDATE=always writes it");
    qhost.run(&["policy", "inspect", seed.to_str().unwrap()]).exits(0);
}
