//! Policies in Python and JavaScript that try every way of their languages to a host: built as their authors would, with no WASI, and with
//! all of it granted. The result of each try is in the snapshots.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::json;

use qhost_tests::{Qhost, command, languages::can_build, root};

use crate::{qhost, snapshot};

/// A tool and its arguments, without the name of the file that it makes.
struct Tool {
    language: &'static str,
    source: &'static str,
    program: &'static str,
    /// The arguments for a component without imports, as `qhost policy build` makes it. A Python policy then traps wherever it would ask a
    /// host, and takes long to compile; `author.rs` tests one.
    bare: Option<&'static [&'static str]>,
    /// The arguments for a component with all of WASI that the tool can import.
    full: &'static [&'static str],
}

const PYTHON: Tool = Tool {
    language: "python",
    source: "probe.py",
    program: "componentize-py",
    bare: None,
    full: &["-q", "-d", "wit", "-w", "policy", "componentize", "rules", "-o"],
};

const JS: Tool = Tool {
    language: "js",
    source: "probe.js",
    program: "jco",
    bare: Some(&[
        "componentize",
        "rules.js",
        "--wit=wit",
        "--world-name=policy",
        "--backend=qjs",
        "--backend-qjs-stub-wasi",
        "--backend-qjs-disable-async",
        "-o",
    ]),
    full: &[
        "componentize",
        "rules.js",
        "--wit=wit",
        "--world-name=policy",
        "--backend=qjs",
        "--backend-qjs-disable-async",
        "-o",
    ],
};

/// Makes a component of a probe in a project of its own.
fn build(qhost: &Qhost, tool: &Tool, args: &[&str], made: &str) {
    let project = qhost.folder().join("probe");
    let source = root().join("tests/fixtures/policies").join(tool.source);
    let rules = Path::new(tool.source).extension().unwrap();
    fs::copy(source, project.join("rules").with_extension(rules)).unwrap();
    let built = command(tool.program)
        .args(args)
        .arg(made)
        .current_dir(&project)
        .env("PATH", qhost.variable("PATH"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// The outcome of a plan under a built probe for one try, in a line.
fn tried(qhost: &Qhost, made: &str, grant: bool, name: &str) -> String {
    let file = qhost.folder().join("probe").join(made);
    let sha256 = qhost_model::digest::Sha256::of(&fs::read(&file).unwrap());
    // The deadline is long, so that on a busy machine only attempts that never end meet it.
    let deadline_ms = if ENDLESS.contains(&name) { 3000 } else { 20_000 };
    qhost.config(&format!(
        "[policies.probe]\nmodule = {file:?}\nsha256 = \"{sha256}\"\nwasi = {grant}\n\
         settings = {{ try = {name:?} }}\ndeadline_ms = {deadline_ms}\n[host]\nchain = [\"probe\"]\n"
    ));
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let done = qhost.run(&["plan", &job]);
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(!said.contains("panicked") && !said.contains('\u{1b}'), "{said}");
    let got = said.lines().find_map(|line| line.trim_start().strip_prefix("tried it: "));
    let failed = || {
        let error = said.lines().find(|line| line.starts_with("error:"))?;
        let error = error.split_once(" failed in validate: ").map_or(error, |(_, why)| why);
        // The place in the interpreter differs with the machine's speed.
        Some(error.split("\\n").next().unwrap_or_default())
    };
    got.or_else(failed).unwrap_or(&said).replace(&format!(" (sha256:{sha256})"), "")
}

/// The tries that never end by themselves.
const ENDLESS: [&str; 2] = ["spin", "backtrack"];

/// The names of a probe's tries, read from its source.
fn tries(tool: &Tool) -> Vec<String> {
    let source =
        fs::read_to_string(root().join("tests/fixtures/policies").join(tool.source)).unwrap();
    let names = source.lines().filter_map(|line| {
        let line = line.strip_prefix("    ").or_else(|| line.strip_prefix("  "))?;
        let (name, _) = line.strip_prefix('"')?.split_once("\": ")?;
        Some(name.to_owned())
    });
    names.collect()
}

fn all(tool: &Tool) {
    if !can_build(tool.language) {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "probe", "--lang", tool.language]).exits(0);
    let tries = tries(tool);
    let mut text = String::new();
    let builds = [("bare.wasm", tool.bare, false), ("full.wasm", Some(tool.full), true)];
    for (made, args, grant) in builds {
        let Some(args) = args else { continue };
        build(&qhost, tool, args, made);
        writeln!(text, "built {} WASI:", if grant { "with, and granted," } else { "without" })
            .unwrap();
        for name in &tries {
            writeln!(text, "  {name:<40} {}", tried(&qhost, made, grant, name)).unwrap();
        }
    }
    // Without the grant, a policy that imports anything is not loaded.
    text += "built with WASI, granted nothing:\n";
    writeln!(text, "  {}", tried(&qhost, "full.wasm", false, "a file")).unwrap();
    snapshot(&format!("hostile-{}", tool.language), &text, &qhost);
}

#[test]
fn what_a_python_policy_got() {
    all(&PYTHON);
}

#[test]
fn what_a_javascript_policy_got() {
    all(&JS);
}
