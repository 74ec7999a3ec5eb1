//! The texts of tenants, guests, policies and QEMU, on a real terminal: they steer nothing, and no line of them looks like qhost's own.

use std::fs;

use serde_json::json;

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    hostile::module,
    terminal::{assert_harmless, on_terminal, plain, run_on_terminal},
    wait_for,
};

use crate::{
    cage::{deeds_on_disk, with_stand_in},
    qhost,
};

const SAID: &str =
    "\x1b]52;c;aGk=\x07\x1b]0;owned\x07\x1b[2J\x1b[1;31mred\x1b[0m gr\u{fc}n \u{202e}\r\n";

/// A job whose task has this name and whose guest says a text.
fn job(qhost: &Qhost, server: &ImageServer, name: &str, disk: Vec<u8>) -> String {
    let job = qhost.job(&server.serve("/image", disk), json!({}));
    let mut job: serde_json::Value = serde_json::from_slice(&fs::read(job).unwrap()).unwrap();
    job["name"] = name.into();
    qhost.file("job.json", job.to_string())
}

/// On a terminal, a console's control characters are escaped, wherever the text is cut; in a pipe and by `--raw` a console is what the
/// guest wrote.
#[test]
fn a_console_is_shown_as_text() {
    let (qhost, server) = (qhost(), ImageServer::start());
    // The guest prints ASCII, as boot sectors are; the text is written behind it.
    let job = job(&qhost, &server, "web", boot_sector::disk("I am web", Then::Hang));
    let run = qhost.start(&["run", "--grace", "0", &job]);
    qhost.console_has("I am web");
    let follow = on_terminal(&qhost, 80, &["logs", "--follow", "web"]);
    let mut follow = { follow }
        .stdout(fs::File::create(qhost.folder().join("followed")).unwrap())
        .spawn()
        .unwrap();
    let log = qhost.vms()[0].join("console.log");
    let seen = || fs::read_to_string(qhost.folder().join("followed")).unwrap_or_default();
    wait_for("the follower", || seen().contains("I am web").then_some(()));
    // The bytes come one at a time, so that each is read alone.
    for (number, byte) in SAID.bytes().enumerate() {
        use std::io::Write as _;
        let mut log = fs::File::options().append(true).open(&log).unwrap();
        log.write_all(&[byte]).unwrap();
        if number % 8 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
    }
    const SHOWN: &str = "\\u{1b}]52;c;aGk=\\u{7}\\u{1b}]0;owned\\u{7}red grün \\u{202e}\n";
    wait_for("what was said", || seen().contains(SHOWN).then_some(()));
    let shown = run_on_terminal(&qhost, 80, &["logs", "web"]).exits(0);
    assert!(shown.stdout.ends_with(SHOWN), "{:?}", shown.stdout);
    assert_harmless(&shown.stdout, "\x1b");
    let raw = run_on_terminal(&qhost, 80, &["logs", "--raw", "web"]).exits(0);
    assert!(raw.stdout.ends_with(SAID), "{:?}", raw.stdout);
    let piped = qhost.run(&["logs", "web"]).exits(0);
    assert_eq!(piped.stdout.as_bytes(), fs::read(&log).unwrap());
    qhost.run(&["kill", "web"]).exits(0);
    run.end().exits(130);
    follow.wait().unwrap();
}

/// The end of a failed guest's console, and a name with invisible characters.
#[test]
fn names_and_last_words() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let said = "\x1b]52;c;aGk=\x07\x1b[2J\r\nhost      allowed by every one\r\n\x1b[1mbold\x1b[0m";
    let names =
        ["web\u{3164}", "web\u{34f}", "web\u{e0100}", "web\u{2800}", "web\u{a0}", "\u{336}web"];
    // The first run warms up, so that later runs show no progress.
    let first = job(&qhost, &server, "first", boot_sector::disk(said, Then::Panic));
    qhost.run(&["run", &first]).exits(20);
    qhost.run(&["rm", "first"]).exits(0);
    for name in names {
        let job = job(&qhost, &server, name, boot_sector::disk(said, Then::Panic));
        let run = run_on_terminal(&qhost, 80, &["run", &job]).exits(20);
        assert_harmless(&run.stdout.replace(['\r'], ""), "host      allowed by every one");
        let text = plain(&run.stdout);
        assert!(
            text.contains("          | host      allowed by every one\n          | bold\n"),
            "{text}"
        );
        let [name] = [name].map(|name| {
            name.chars()
                .map(|c| if c.is_ascii() { c.into() } else { c.escape_unicode().to_string() })
                .collect::<String>()
        });
        for args in [&["ps", "--all"][..], &["events"]] {
            qhost.run(args).exits(0).says(&name);
        }
    }
    let wide = run_on_terminal(&qhost, 80, &["ps", "--all"]).exits(0);
    assert_harmless(&wide.stdout, "\x1b");
    assert_eq!(plain(&wide.stdout).lines().count(), 1 + names.len());
    for columns in [40, 80] {
        let shown = run_on_terminal(&qhost, columns, &["ps", "--all"]).exits(0);
        let shown = plain(&shown.stdout);
        assert!(shown.lines().all(|line| line.chars().count() <= columns), "{shown}");
        assert!(columns == 80 || shown.contains("STATE   failed"), "{shown}");
        let events = plain(&run_on_terminal(&qhost, columns, &["events"]).exits(0).stdout);
        assert!(events.lines().all(|line| line.chars().count() <= columns), "{events}");
    }
    assert!(!qhost.run(&["ps", "--all"]).exits(0).stdout.contains('…'));
}

/// QEMU's standard error has several lines, none of which looks like one of qhost's own.
#[test]
fn qemu_forges_no_line() {
    let (qhost, server) = (with_stand_in(qhost()), ImageServer::start());
    let wide = " ".repeat(60);
    let said = format!(
        "fail broken\\nhost      allowed by every one\\n\x1b]0;x\x07{wide}host      allowed by every one"
    );
    let job = job(&qhost, &server, "web", deeds_on_disk(&[&said]));
    let run = qhost.run(&["run", &job]).exits(20);
    assert_harmless(&run.stdout, "host      allowed by every one");
    assert_harmless(&run.stderr, "host ");
    run.says("          | host      allowed by every one\n");
    let on_terminal = |args: &[&str]| {
        let done = run_on_terminal(&qhost, 80, args);
        assert_harmless(&done.stdout, "host      allowed by every one");
        let text = plain(&done.stdout);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    };
    for args in [&["inspect", "web"][..], &["ps", "--all"], &["events"], &["wait", "web"]] {
        on_terminal(args);
    }
    qhost.run(&["rm", "web"]).exits(0);
    on_terminal(&["run", &job]);
}

/// A policy's version stands beside its digest, and must not look like one.
#[test]
fn a_policys_version_is_one_word() {
    let qhost = qhost();
    let version = "1.0 47dd0c61466a";
    let module = module(&format!(
        r#"(data (i32.const 1032) "\00\08\00\00\{:02x}\00\00\00") (data (i32.const 2048) "{version}")"#,
        version.len()
    ));
    let file = qhost.file("hostile.wasm", module);
    let job = qhost.job(&("https://images.example/x".into(), "0".repeat(64)), json!({}));
    let sha256 = qhost_model::digest::Sha256::of(&fs::read(&file).unwrap()).to_string();
    qhost
        .run(&["plan", "--policy", &format!("hostile={file}"), &job])
        .says(&format!("hostile 1.0\\u{{20}}47dd0c61466a sha256:{}\n", &sha256[..12]));
}

/// A settings schema that is longer than the bound is cut, wherever the bound falls.
#[test]
fn a_settings_schema_has_a_bound() {
    let qhost = qhost();
    // The JSON text has a million letters, and across the 65,536th byte a letter of two bytes.
    let module = module(
        r#"(memory $memory 40)
           (func $describe (result i32)
             (memory.fill (i32.const 131072) (i32.const 97) (i32.const 1000000))
             (i32.store8 (i32.const 131072) (i32.const 34))
             (i32.store16 (i32.const 196607) (i32.const 0xa9c3))
             (i32.store8 (i32.const 1131071) (i32.const 34))
             i32.const 1024)
           (data (i32.const 1048) "\01\00\00\00\00\00\02\00\40\42\0f\00")"#,
    );
    let file = qhost.file("hostile.wasm", module);
    let inspect = ["policy", "inspect", &file, "--json"];
    let inspected = qhost.run(&inspect).exits(0).json();
    let schema = inspected["settings_schema"].as_str().unwrap();
    assert!(schema.starts_with("\"aaa") && schema.len() <= 1100, "{}", schema.len());
    // The inspection is kept, so that the policy is compiled once.
    qhost.run(&[&["-v"][..], &inspect].concat()).exits(0);
    let again = qhost.run(&[&["-v"][..], &inspect].concat()).exits(0);
    assert!(!again.stderr.contains("compiling"), "{}", again.stderr);
}
