//! Which crate may use which: the rooms of DESIGN and `host/docs/architecture.md`, held against Cargo's own answer.

mod circles;

use std::{collections::BTreeSet, env, fs, path::Path};

use qhost_tests::{root, succeed};

/// Each crate below `host`, and the crates there that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sys", &["model"]),
    ("policy", &["model", "sys"]),
    ("image", &["model", "sys"]),
    ("cage", &["model", "sys"]),
    ("vm", &["model", "sys", "cage"]),
    ("engine", &["model", "sys", "policy", "image", "cage", "vm"]),
    ("nomad", &["model", "sys", "policy", "image", "cage", "vm", "engine"]),
    ("serve", &["model", "sys", "policy", "image", "cage", "vm", "engine"]),
    ("qhost", &["model", "sys", "policy", "image", "cage", "vm", "engine", "nomad", "serve"]),
];

fn cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// All that a crate links, by Cargo's own answer.
fn linked(package: &str) -> BTreeSet<String> {
    let args = ["tree", "--locked", "--offline", "--prefix", "none", "--edges", "normal"];
    let manifest = root().join("Cargo.toml");
    let manifest = ["--manifest-path", manifest.to_str().expect("UTF-8"), "--package", package];
    let tree = succeed(&cargo(), &[&args[..], &manifest].concat());
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != package).map(str::to_owned).collect()
}

#[test]
fn each_uses_only_those_that_it_may() {
    let folders = fs::read_dir(root().join("host")).unwrap().flatten();
    let crates = folders.filter(|folder| folder.path().join("Cargo.toml").exists());
    let found: BTreeSet<_> = crates.map(|one| one.file_name().into_string().unwrap()).collect();
    let named: BTreeSet<_> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, named, "a crate below host is not in the table");
    let package = |name: &str| match name {
        "qhost" => name.to_owned(),
        _ => format!("qhost-{name}"),
    };
    for (name, may) in ARROWS {
        let may: BTreeSet<_> = may.iter().map(|one| package(one)).collect();
        let uses = linked(&package(name));
        let uses: BTreeSet<_> = uses.into_iter().filter(|one| one.starts_with("qhost")).collect();
        let more: Vec<_> = uses.difference(&may).collect();
        assert!(more.is_empty(), "{name} uses {more:?}, and may use {may:?}");
    }
}

/// Each VM has its own supervisor, which must stay small.
#[test]
fn the_supervisor_has_neither_policies_nor_http() {
    let linked = linked("qhost-vm");
    let heavy = ["wasmtime", "reqwest", "hyper", "rustls", "clap", "wit-component", "imago"];
    for name in heavy {
        assert!(!linked.contains(name), "qhost-vm links {name}");
    }
    // The tests' own supervisor links what the tests link, so that another build is made.
    let args = ["build", "--locked", "--offline", "--quiet", "--workspace", "--manifest-path"];
    let manifest = root().join("Cargo.toml");
    let which = [manifest.to_str().expect("UTF-8"), "--bin", "qhost-supervisor"];
    succeed(&cargo(), &[&args[..], &which].concat());
    let program = Path::new(env!("CARGO_BIN_EXE_qhost-under-test-supervisor"));
    let program = fs::read(program.with_file_name("qhost-supervisor")).unwrap();
    // A Rust symbol has the name of its crate in it, with its length before it.
    for name in ["8wasmtime", "7reqwest", "5hyper", "12clap_builder"] {
        let is_there = program.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(!is_there, "the supervisor has symbols of {name}");
    }
    let names_its_own = program.windows(8).any(|bytes| bytes == b"8qhost_v");
    assert!(names_its_own, "the supervisor has no symbols that could be looked at");
}

/// Code that the compiler cannot check is in few crates.
#[test]
fn those_that_need_no_unsafe_code_forbid_it() {
    for (name, _) in ARROWS {
        let library =
            fs::read_to_string(root().join("host").join(name).join("src/lib.rs")).unwrap();
        let forbids = library.contains("#![forbid(unsafe_code)]");
        let needs = ["sys", "policy", "image", "cage", "vm"].contains(name);
        assert!(forbids || needs, "{name} does not forbid unsafe code");
        assert!(!(forbids && needs), "{name} forbids unsafe code: take it out of this list");
    }
}
