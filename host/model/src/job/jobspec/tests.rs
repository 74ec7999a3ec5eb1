//! Tests of job specifications in HCL: the values of expressions, and files that are made to take time, memory or
//! stack.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    job::{self, JobError},
    limits,
};

/// A job whose `config` holds a text.
fn jobspec(before: &str, config: &str) -> String {
    format!(
        r#"{before}
        job "web" {{
          group "vm" {{
            task "vm" {{
              driver = "qemu"
              config {{
                {config}
              }}
              resources {{ memory = 256 }}
            }}
          }}
        }}"#
    )
}

fn config(before: &str, config: &str) -> Result<Value, String> {
    let text = jobspec(before, config);
    let read = super::parse("job.hcl", text.as_bytes()).map_err(|error| error.to_string())?;
    let problems: Vec<_> = read.problems.into_vec().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        Ok(read.job.pointer("/TaskGroups/0/Tasks/0/Config").cloned().unwrap_or_default())
    } else {
        Err(problems.join("\n"))
    }
}

const NAMES: &str = r#"
    variable "name" { default = "web" }
    variable "count" { default = 3 }
    variable "none" {}
    variable "map" { default = { a = { b = [1, 2] } } }
    variables { other = true }
    locals {
      c = "${local.b}!"
      b = "${local.a}-${var.name}"
      a = "x"
    }
"#;

#[test]
fn expressions_have_their_values() {
    let rows: [(&str, Value); 32] = [
        ("x = null", json!(null)),
        ("x = -1", json!(-1)),
        ("x = 8080.0", json!(8080)),
        ("x = 1.5", json!(1.5)),
        (r#"x = "a\n\u00e9\"""#, json!("a\né\"")),
        (r#"x = ["a", 1, true]"#, json!(["a", 1, true])),
        (r#"x = { "a b" = 1, c : 2, (var.name) = 3 }"#, json!({"a b": 1, "c": 2, "web": 3})),
        ("x = var.name", json!("web")),
        ("x = var.count + 1", json!(4)),
        ("x = var.other", json!(true)),
        ("x = var.map.a.b[1]", json!(2)),
        (r#"x = var["name"]"#, json!("web")),
        ("x = local.c", json!("x-web!")),
        (r#"x = "${var.count}""#, json!(3)),
        (r#"x = "${var.name}:${var.count}""#, json!("web:3")),
        (r#"x = "$${var.name}""#, json!("${var.name}")),
        (r#"x = var.count > 2 ? "many" : "few""#, json!("many")),
        (r#"x = (var.other && !false)"#, json!(true)),
        (r#"x = upper("a")"#, json!("A")),
        (r#"x = lower("A")"#, json!("a")),
        (r#"x = trimspace(" a ")"#, json!("a")),
        (r#"x = tostring(8)"#, json!("8")),
        (r#"x = join("-", ["a", 1])"#, json!("a-1")),
        (r#"x = concat(["a"], ["b"])"#, json!(["a", "b"])),
        (r#"x = format("%s:%d %%", var.name, 80)"#, json!("web:80 %")),
        ("x = <<E\n  a\n  b\nE\n", json!("  a\n  b\n")),
        ("x = <<-E\n    a\n      b\n    E\n", json!("a\n  b\n")),
        ("x {\n y = 1\n }", json!({"y": 1})),
        ("x {\n y = 1\n }\n x {\n y = 2\n }", json!([{"y": 1}, {"y": 2}])),
        // A part that a Nomad client fills in stays, for the reader of the job to judge.
        (r#"x = "${NOMAD_PORT_http}""#, json!("${NOMAD_PORT_http}")),
        (r#"x = "${var.name} ${attr.kernel.name}""#, json!("web ${attr.kernel.name}")),
        (r#"x = "${env["HOME"]}""#, json!("${env[\"HOME\"]}")),
    ];
    for (text, expected) in rows {
        assert_eq!(config(NAMES, text).map(|config| config["x"].clone()), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_worked_out_has_its_line() {
    let rows = [
        ("x = var.none", "var.none", "with a default"),
        ("x = var.unknown", "var.unknown", "with a default"),
        ("x = local.unknown", "local.unknown", "a local of this file"),
        ("x = attr.kernel.name", "\"attr\"", "var.NAME"),
        ("x = unquoted", "\"unquoted\"", "in quotes"),
        (r#"x = file("x")"#, "\"file\"", "one of concat"),
        (r#"x = "${file("x")}""#, "\"file\"", "one of concat"),
        (r#"x = a::b("x")"#, "\"b\"", "one of concat"),
        ("x = [for a in [1] : a]", "a for expression", "written out"),
        ("x = { for a in [1] : a => a }", "a for expression", "written out"),
        (r#"x = "%{ if true }a%{ endif }""#, "directive", "written out"),
        (r#"x = upper("%{ for a in [1] }a%{ endfor }")"#, "directive", "written out"),
        (r#"x = "a ${~ var.name ~} b""#, "~", "without it"),
        ("x = var.map[*]", "with *", "written out"),
        ("x = var.map.a.b[5]", "without a value", "a value"),
        (r#"x = format("%5d", 1)"#, "%s, %d", "a value"),
        (r#"x = "${var.map} b""#, "in a text", "a text or a number"),
        (r#"x = upper(1)"#, "without a value", "a value"),
        ("x \"label\" {}", "label", "without labels"),
    ];
    for (text, found, expected) in rows {
        let problem = config(NAMES, text).expect_err(text);
        assert!(problem.contains(found) && problem.contains(expected), "{text}: {problem}");
        let whole = jobspec(NAMES, text);
        let line = whole[..whole.find(text).unwrap()].matches('\n').count() + 1;
        assert!(problem.contains(&format!("line {line}, column ")), "{text}: {problem}");
    }
}

#[test]
fn names_are_sound() {
    let rows = [
        ("locals {\n a = local.b\n b = local.a\n}", "in a circle"),
        ("variable \"x\" { default = file(\"x\") }", "\"file\""),
        ("x = 1", "an attribute"),
        ("output \"x\" {}", "an unknown block"),
        ("job \"other\" {}", "several jobs"),
    ];
    for (before, found) in rows {
        let problem = config(before, "").expect_err(before);
        assert!(problem.contains(found), "{before}: {problem}");
    }
    let none = super::parse("job.hcl", b"locals {}").unwrap().problems.into_vec();
    assert_eq!(none.first().map(|problem| problem.found.as_str()), Some("no job"));
}

/// Each file is made to nest, to repeat or to grow, and must be answered in a bounded time on a thread's stack of 2
/// MiB.
#[test]
fn hostile_text_is_bounded() {
    let deep =
        |open: &str, close: &str| format!("x = {}1{}", open.repeat(10_000), close.repeat(10_000));
    let wide = |one: &str| {
        let room = limits::JOBSPEC_BYTES - 2000;
        format!("x = [{}]", format!("{one},").repeat(room / (one.len() + 1)))
    };
    let level = |open: &str, close: &str| {
        let depth = 55 / open.matches(['(', '[', '{']).count().max(1);
        wide(&format!("{}1{}", open.repeat(depth), close.repeat(depth)))
    };
    let rows: Vec<(&str, String, String)> = [
        ("brackets", deep("[", "]")),
        ("parentheses", deep("(", ")")),
        ("objects", deep("{a=", "}")),
        ("templates", deep("\"${", "}\"")),
        ("blocks", format!("{}{}", "b {\n".repeat(10_000), "}\n".repeat(10_000))),
        ("functions", deep("upper(", ")")),
        ("fors", deep("[for a in ", "]")),
        ("fors after comments", deep("[/**/for a in ", "]")),
        ("fors after comment lines", deep("[#\nfor a in ", "]")),
        ("fors in objects", deep("{ for a in ", "}")),
        ("fors within fors", deep("[for a in b : ", "]")),
        ("nots", deep("!", "")),
        ("minuses", format!("x = 1{}", " - 1".repeat(50_000))),
        ("conditions", deep("1 ? 1 : ", "")),
        ("steps", format!("x = var.a{}", ".a".repeat(100_000))),
        ("splats", format!("x = var.a{}", "[*]".repeat(80_000))),
        ("indices", deep("var.a[", "]")),
        ("directives", format!("x = \"{}\"", "%{ if x }".repeat(10_000))),
        ("heredocs", "x = <<E\n".repeat(10_000)),
        ("quotes", "\"".repeat(200_000)),
        ("interpolations", format!("x = \"{}\"", "${1}".repeat(60_000))),
        ("wide brackets", level("[", "]")),
        ("wide parentheses", level("(", ")")),
        ("wide templates", level("\"${", "}\"")),
        ("wide objects", level("{a=", "}")),
        ("wide functions", level("upper(", ")")),
        ("many attributes", (0..20_000).map(|n| format!("a{n} = 1\n")).collect()),
        ("many blocks", "b {}\n".repeat(40_000)),
    ]
    .map(|(name, config)| (name, String::new(), config))
    .into();
    let doubled: String = (1..60)
        .map(|n| format!("a{n} = \"${{local.a{}}}${{local.a{}}}\"\n", n - 1, n - 1))
        .collect();
    let listed: String =
        (1..60).map(|n| format!("a{n} = [local.a{}, local.a{}]\n", n - 1, n - 1)).collect();
    let joined: String = (1..60)
        .map(|n| format!("a{n} = join(local.a{}, [{}])\n", n - 1, "1,".repeat(100)))
        .collect();
    let long = format!("variable \"a\" {{ default = \"{}\" }}", "x".repeat(100_000));
    let more = [
        ("doubled", format!("locals {{\na0 = \"x\"\n{doubled}}}"), "x = local.a59".to_owned()),
        ("doubled lists", format!("locals {{\na0 = \"x\"\n{listed}}}"), "x = local.a59".to_owned()),
        ("joined", format!("locals {{\na0 = \"x\"\n{joined}}}"), "x = local.a59".to_owned()),
        ("a long value many times", long, format!("x = [{}]", "var.a,".repeat(20_000))),
        (
            "many locals",
            (0..5000).map(|n| format!("locals {{\n a{n} = local.a{}\n}}\n", n + 1)).collect(),
            "x = 1".into(),
        ),
    ];
    for (name, before, text) in rows.into_iter().chain(more) {
        let (began, text) = (Instant::now(), jobspec(&before, &text));
        match job::parse("job.hcl", text.as_bytes(), "acme", None) {
            Ok(task) => panic!("{name}: {task:?}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let error = job::parse("job.hcl", b"job \"x\" {\n  a = \n}", "acme", None).unwrap_err();
    assert!(matches!(error, JobError::NotHcl { line: 2, .. }), "{error}");
    let error = job::parse("job.hcl", b"job \"x\" {\n  a = \"\xff\"\n}", "acme", None).unwrap_err();
    assert!(matches!(error, JobError::NotHcl { line: 2, .. }), "{error}");
    let large = format!("job \"x\" {{ # {}", "x".repeat(limits::JOBSPEC_BYTES));
    let error = job::parse("job.hcl", large.as_bytes(), "acme", None).unwrap_err();
    assert!(matches!(error, JobError::TooLarge { .. }), "{error}");
}
