//! Policies as their authors make them: a project from a template, built with the language's own tools, tried, and then
//! deciding a real job.

use std::{fs, path::PathBuf};

use serde_json::json;

use qhost_tests::{ImageServer, Qhost, boot_sector, languages::can_build, root};

use crate::qhost;

/// Checks that a project of this language lets a real VM in, and keeps one out.
fn decides_a_real_job(language: &str, settings: &str) {
    if !can_build(language) {
        return;
    }
    let qhost = qhost().as_author();
    qhost.project(language, "team-rules");
    qhost.run(&["policy", "test", "team-rules"]).exits(0).says(" passed, 0 failed");
    let found = qhost.run(&["policy", "lint", "team-rules", "--json"]).json();
    let found = found["findings"].as_array().expect("a list").clone();
    // An interpreter may be slow on a machine that is busy with other tests.
    assert!(found.iter().all(|finding| finding["code"] == "slow"), "{found:?}");

    let server = ImageServer::start();
    let image = server.serve("/image", boot_sector::disk(language, boot_sector::Then::PowerOff));
    let run = |team: &str| {
        let job = qhost.job(&image, json!({}));
        let mut text: serde_json::Value =
            serde_json::from_slice(&fs::read(&job).expect("the job")).expect("JSON");
        text["meta"] = json!({"team": team});
        fs::write(&job, text.to_string()).expect("the job");
        let mut args = vec!["run", "--policy", "team-rules/team-rules.wasm"];
        if !settings.is_empty() {
            args.extend(["--policy-settings", settings]);
        }
        args.push(&job);
        qhost.run(&args)
    };
    run("sales").exits(11).says("refused by team-rules").says("no-team meta.team");
    assert_eq!(server.requests(), [""; 0], "a denied job made a request");
    run("web").exits(0).says("allowed by team-rules");
    qhost.assert_nothing_left();
}

const SETTINGS: &str = r#"team-rules={"teams": ["web"], "memory_mib": 512}"#;

#[test]
fn a_rust_policy_decides_a_real_job() {
    decides_a_real_job("rust", SETTINGS);
}

#[test]
fn a_python_policy_decides_a_real_job() {
    decides_a_real_job("python", SETTINGS);
}

#[test]
fn a_javascript_policy_decides_a_real_job() {
    decides_a_real_job("js", SETTINGS);
}

#[test]
fn a_c_policy_decides_a_real_job() {
    decides_a_real_job("c", "");
}

/// componentize-py's own default is a component that imports all of WASI, which needs the operator's grant.
#[test]
fn a_python_policy_with_all_of_wasi_needs_the_grant() {
    if !can_build("python") {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "team-rules", "--lang", "python"]).exits(0);
    let built = qhost_tests::command("componentize-py")
        .args(["-q", "-d", "wit", "-w", "policy", "componentize", "rules", "-o", "all.wasm"])
        .current_dir(qhost.folder().join("team-rules"))
        .env("PATH", qhost.variable("PATH"))
        .status();
    assert!(built.expect("componentize-py runs").success());
    let file = qhost.folder().join("team-rules/all.wasm");
    let sha256 = qhost_model::digest::Sha256::of(&fs::read(&file).expect("a component"));
    let configure = |more: &str| {
        qhost.config(&format!(
            "[policies.all]\nmodule = {file:?}\nsha256 = \"{sha256}\"\n\
             settings = {{ teams = [\"web\"], memory_mib = 512 }}\n{more}\n[host]\nchain = [\"all\"]\n"
        ));
    };
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    configure("");
    let refused = qhost.run(&["plan", &job]).exits(12);
    for import in ["wasi:random/random", "wasi:filesystem/types", "wasi:sockets/tcp"] {
        assert!(refused.stderr.contains(import), "{import} is not named: {}", refused.stderr);
    }
    configure("wasi = true");
    qhost.run(&["plan", &job]).exits(11).says("no-team meta.team");
}

#[test]
fn a_project_is_made_whole_or_not_at_all() {
    let qhost = qhost();
    qhost.run(&["policy", "new", "mine", "--lang", "c"]).exits(0).says("qhost policy build mine");
    qhost.run(&["policy", "new", "mine", "--lang", "js"]).exits(2).says("mine is there already");
    assert!(!qhost.folder().join("mine/rules.js").exists());
    qhost.run(&["policy", "new", "Mine"]).exits(2).says("\"Mine\" cannot name a policy's project");
    qhost.run(&["policy", "new", "no/such/mine"]).exits(2).says("cannot write no/such");
    let names = fs::read_dir(qhost.folder()).unwrap().flatten().map(|entry| entry.file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    let made = qhost.run(&["policy", "new", "other", "--json"]).exits(0).json();
    assert_eq!(made["name"], "other");
    let text = fs::read_to_string(qhost.folder().join("other/Cargo.toml")).unwrap();
    assert!(text.contains("name = \"other\""), "{text}");
}

#[test]
fn what_cannot_be_built_says_why() {
    let qhost = qhost();
    let empty = qhost.folder().join("empty");
    fs::create_dir(&empty).unwrap();
    qhost.run(&["policy", "build", "empty"]).exits(2).says("empty has no policy's source");
    fs::write(empty.join("rules.c"), "").unwrap();
    fs::write(empty.join("rules.py"), "").unwrap();
    qhost.run(&["policy", "build", "empty"]).exits(2).says("empty has rules.py and rules.c");
    qhost.run(&["policy", "build", "gone"]).exits(2).says("cannot read gone");

    // Without a tool on $PATH, each error says how to install what is missing.
    for (language, install) in [
        ("rust", "rustup target add"),
        ("python", "pip install -r requirements.txt"),
        ("js", "npm install"),
        ("c", "apt-get install clang"),
    ] {
        qhost.run(&["policy", "new", language, "--lang", language]).exits(0);
        let output = qhost.command(&["policy", "build", language]).env("PATH", "/nowhere").output();
        let output = output.expect("qhost runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is not installed") && said.contains(install), "{said}");
    }
}

#[test]
fn a_tool_that_fails_is_heard() {
    if !can_build("c") {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "mine", "--lang", "c"]).exits(0);
    let rules = qhost.folder().join("mine/rules.c");
    let text = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("{text}\nint broken(void) {{ return nothing_of_that_name; }}\n"))
        .unwrap();
    let done = qhost.run(&["policy", "build", "mine"]).exits(1);
    assert!(done.stderr.contains("nothing_of_that_name"), "{}", done.stderr);
    // The compiler's text is all of the output.
    assert!(
        !done.stderr.contains("clang failed") && !done.stderr.contains("apt-get"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.trim_end().ends_with("1 error generated."), "{}", done.stderr);
    let done = qhost.run(&["policy", "build", "mine", "--json"]).exits(1).json();
    assert_eq!(
        done["error"]["message"],
        "clang failed (exit status: 1); its output is on standard error"
    );
    assert!(!qhost.folder().join("mine/mine.wasm").exists());
    // A policy that prints would import files, which no policy gets: the build says so, not the run.
    fs::write(
        &rules,
        text.replace("#include <stdlib.h>", "#include <stdio.h>\n#include <stdlib.h>"),
    )
    .unwrap();
    fs::write(
        qhost.folder().join("mine/more.c"),
        "#include <stdio.h>\n__attribute__((constructor)) void say(void) { puts(\"hello\"); }\n",
    )
    .unwrap();
    qhost.run(&["policy", "build", "mine"]).exits(1).says("wasi_snapshot_preview1");
}

#[test]
fn a_core_module_is_built_into_a_component() {
    let qhost = qhost();
    let target = std::env::var_os("QHOST_GUEST_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root().join("guest-policies/target"));
    let module = target.join("wasm32-unknown-unknown/release/limits.wasm");
    let module = qhost.file("limits-module.wasm", fs::read(module).expect("a core module"));
    let built = |qhost: &Qhost| {
        qhost
            .run(&["policy", "build", &module, "--output", "limits.wasm", "--json"])
            .exits(0)
            .json()
    };
    let sha256 = built(&qhost)["sha256"].clone();
    let inspected = qhost.run(&["policy", "inspect", "limits.wasm", "--json"]).exits(0).json();
    assert_eq!((&inspected["kind"], &inspected["sha256"]), (&json!("component"), &sha256));
    // The one import is the log, for the message of a panic.
    assert_eq!(inspected["imports"], json!(["qhost:policy/log@0.2.0"]));
    qhost.run(&["policy", "build", "limits.wasm"]).exits(1).says("a component already");
    let text = qhost.file("text.wasm", "no wasm");
    qhost.run(&["policy", "build", &text]).exits(1).says("not a WebAssembly file");
    let circle = root().join("tests/fixtures/policies/packages-in-a-circle.wasm");
    let args = ["policy", "build", circle.to_str().unwrap(), "-o", "out.wasm"];
    qhost.run(&args).exits(1).says("the compiler died");
    assert!(!qhost.folder().join("out.wasm").exists());
    let bare = qhost.file("bare.wasm", b"\0asm\x01\0\0\0");
    qhost.run(&["policy", "build", &bare]).exits(1).says("no policy: it does not export");
}

/// Runs a command of a project's README in its folder, with the author's tools on the path.
fn of_readme(qhost: &Qhost, line: &str) -> String {
    let output = qhost_tests::command("bash")
        .args(["-c", line])
        .current_dir(qhost.folder().join("mine"))
        .envs(qhost.variables())
        .output()
        .expect("bash runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "$ {line}\n{said}");
    said
}

/// The project's README has unit tests, code in a file beside the rules, and an editor's types.
#[test]
fn what_the_readme_of_a_python_project_says() {
    if !can_build("python") {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "mine", "--lang", "python"]).exits(0);
    of_readme(&qhost, "componentize-py -d wit -w policy bindings editor");
    let tested = of_readme(&qhost, "PYTHONPATH=editor python3 -m unittest");
    assert!(tested.contains("Ran 2 tests") && tested.contains("OK"), "{tested}");
    of_readme(&qhost, "grep -q 'class Request' editor/wit_world/imports/types.py");
    of_readme(
        &qhost,
        "printf 'HINT = \"ask the web team\"\n' > shared.py && sed -i 's/^import json$/import json\\nimport shared/; s/\"the task names no team of ours\"/shared.HINT/' rules.py",
    );
    qhost.run(&["policy", "build", "mine"]).exits(0);
    said_in_a_plan(&qhost, SETTINGS, "ask the web team");
}

#[test]
fn what_the_readme_of_a_rust_project_says() {
    if !can_build("rust") {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "mine"]).exits(0);
    // Several policies can share a crate beside the project.
    of_readme(
        &qhost,
        "mkdir -p ../rules/src && printf '[package]\\nname = \"rules\"\\nversion = \"0.1.0\"\\nedition = \"2024\"\\n[workspace]\\n' > ../rules/Cargo.toml && printf 'pub const HINT: &str = \"ask the web team\";\\n' > ../rules/src/lib.rs",
    );
    of_readme(
        &qhost,
        "sed -i 's|^serde = |rules = { path = \"../rules\" }\\nserde = |' Cargo.toml && sed -i 's/\"the task names no team of ours\"/rules::HINT/' src/lib.rs",
    );
    let tested = of_readme(&qhost, "cargo test");
    assert!(tested.contains("1 passed"), "{tested}");
    qhost.run(&["policy", "build", "mine"]).exits(0);
    said_in_a_plan(&qhost, SETTINGS, "ask the web team");
}

#[test]
fn what_the_readme_of_a_javascript_project_says() {
    if !can_build("js") {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "mine", "--lang", "js"]).exits(0);
    let tested = of_readme(&qhost, "node --test rules.test.js");
    assert!(tested.contains("pass 1"), "{tested}");
    of_readme(
        &qhost,
        "printf 'export const hint = \"ask the web team\";\n' > shared.js && sed -i '1i import { hint } from \"./shared.js\";' rules.js && sed -i 's/\"the task names no team of ours\"/hint/' rules.js",
    );
    qhost.run(&["policy", "build", "mine"]).exits(0);
    of_readme(&qhost, "jco transpile mine.wasm -o editor");
    of_readme(&qhost, "grep -q 'interface Request' editor/interfaces/qhost-policy-types.d.ts");
    said_in_a_plan(&qhost, SETTINGS, "ask the web team");
    // A policy built with WASI imports what only a grant lets it have.
    qhost.run(&["policy", "build", "mine", "--wasi"]).exits(0);
    let inspected = qhost.run(&["policy", "inspect", "mine/mine.wasm", "--json"]).exits(0).json();
    assert!(inspected["imports"].to_string().contains("wasi:"), "{inspected}");
}

#[test]
fn what_the_readme_of_a_c_project_says() {
    if !can_build("c") {
        return;
    }
    let qhost = qhost().as_author();
    qhost.run(&["policy", "new", "mine", "--lang", "c"]).exits(0);
    of_readme(
        &qhost,
        "printf 'const char *hint(void) { return \"ask the web team\"; }\n' > names.c && mkdir test && printf 'const char *hint(void);\nint main(void) { return hint()[0] != 97; }\n' > test/names.c",
    );
    of_readme(&qhost, "cc -o test/names names.c test/names.c && ./test/names");
    qhost.run(&["policy", "build", "mine"]).exits(0);
    of_readme(&qhost, "clang $(cat compile_flags.txt) -fsyntax-only rules.c");
    qhost.run(&["policy", "build", "mine", "--wasi"]).exits(2).says("needs no WASI");
}

/// Checks that a plan of a task without a team says this.
fn said_in_a_plan(qhost: &Qhost, settings: &str, says: &str) {
    let settings = settings.replacen("team-rules", "mine", 1);
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let args = ["plan", "--policy", "mine/mine.wasm", "--policy-settings", &settings, &job];
    qhost.run(&args).exits(11).says(says);
}
