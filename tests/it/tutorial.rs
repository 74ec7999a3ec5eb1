//! The way from nothing to a policy: every command of `host/docs/policies.md` is run, and prints the page's output.

use std::{fs, os::unix::fs::symlink};

use qhost_tests::{command, languages::can_build, root};

use crate::qhost;

/// A command with its further lines, and its output.
struct Step {
    command: String,
    prints: String,
}

/// The steps of the console block under a heading.
fn steps(heading: &str) -> Vec<Step> {
    let page = fs::read_to_string(root().join("host/docs/policies.md")).expect("the page");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the section");
    let (_, block) = section.split_once("```console\n").expect("its console block");
    let (block, _) = block.split_once("```").expect("its end");
    let mut steps: Vec<Step> = vec![];
    for line in block.lines() {
        match (line.strip_prefix("$ "), line.strip_prefix("> "), steps.last_mut()) {
            (Some(command), _, _) => {
                steps.push(Step { command: command.into(), prints: String::new() });
            }
            (None, Some(more), Some(step)) => step.command += &format!("\n{more}"),
            (None, None, Some(step)) => step.prints += &format!("{line}\n"),
            (None, _, None) => panic!("{line:?} before the first command"),
        }
    }
    steps
}

/// Makes lines comparable: keys, digests, sizes and ids differ from run to run, and `…` stands for what the page leaves out.
fn alike(line: &str) -> String {
    let word = |word: &str| match word {
        _ if word.contains('…') => "…".to_owned(),
        _ if word.contains("sha256:") || word.starts_with("RW") => "…".into(),
        _ if word.len() >= 12
            && word.trim_end_matches(':').bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            "…".into()
        }
        _ if word.bytes().all(|byte| byte.is_ascii_digit()) && word.len() > 3 => "…".into(),
        _ => word.into(),
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_way_to_a_policy_prints_what_the_page_says() {
    if !can_build("rust") {
        return;
    }
    let qhost = qhost().as_author();
    let bin = qhost.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(qhost.program(), bin.join("qhost")).unwrap();
    let work = qhost.folder().join("work");
    fs::create_dir(&work).unwrap();
    let steps = steps("Write a policy");
    assert!(steps.len() >= 8, "{} steps", steps.len());
    for Step { command: line, prints } in steps {
        let output = command("bash")
            .args(["-c", &line])
            .current_dir(&work)
            .envs(qhost.variables())
            .env("PATH", format!("{}:{}", bin.display(), qhost.variable("PATH")))
            .env("QHOST_STATE_DIR", qhost.state())
            .env_remove("QHOST_CONFIG")
            .output()
            .expect("bash runs");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr);
        let [found, expected] =
            [&said, &prints].map(|text| text.lines().map(alike).collect::<Vec<_>>());
        assert_eq!(found, expected, "$ {line}\n{said}\n{errors}");
    }
}
