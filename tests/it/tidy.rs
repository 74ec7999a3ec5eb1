//! Rules of the code about itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qhost_tests::{root, succeed};

fn files(extension: &str) -> Vec<PathBuf> {
    let listed =
        succeed("git", &["-C", root().to_str().unwrap(), "ls-files", "-co", "--exclude-standard"]);
    let wanted =
        |path: &PathBuf| path.extension().is_some_and(|found| found == extension) && path.exists();
    listed.lines().map(|line| root().join(line)).filter(wanted).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in files("rs") {
        assert!(read(&path).starts_with("//! "), "{} does not open with //!", path.display());
    }
}

#[test]
fn no_file_is_long() {
    let is_code = |path: &PathBuf| path.starts_with(root().join("host"));
    for path in files("rs").into_iter().filter(is_code) {
        let lines = read(&path).lines().count();
        assert!(lines <= 450, "{} has {lines} lines: is it still one thing?", path.display());
    }
}

/// A sentence whose subject cannot be pointed at has to be read twice.
#[test]
fn sentences_have_subjects() {
    let banned = ["who", "some", "no", "any", "every"].map(|start| match start {
        "who" => "who".to_owned() + "ever",
        start => format!("{start}body"),
    });
    let texts = ["rs", "md", "wit", "toml", "py", "js", "c", "snap"].into_iter().flat_map(files);
    for path in texts {
        let text = read(&path).to_lowercase();
        for (number, line) in text.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric());
            let found = words.into_iter().find(|word| banned.iter().any(|one| one == word));
            assert_eq!(found, None, "{}:{}", path.display(), number + 1);
        }
    }
}

#[test]
fn every_probe_has_a_test() {
    let tests =
        ["sandbox", "contracts"].map(|name| read(&root().join(format!("tests/it/{name}.rs"))));
    let tests = tests.concat();
    let folders = fs::read_dir(root().join("guest-policies")).unwrap().flatten();
    let probes = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let probes: Vec<_> = probes.filter(|name| name.starts_with("probe-")).collect();
    assert!(probes.len() >= 10, "{probes:?}");
    for probe in probes {
        assert!(
            tests.contains(&format!("\"{probe}\"")),
            "{probe} is in none of the files about sandboxes"
        );
    }
}

#[test]
fn every_limit_is_used() {
    let is_limits = |path: &PathBuf| path.ends_with("limits.rs");
    let code: String =
        files("rs").iter().filter(|path| !is_limits(path)).map(|path| read(path)).collect();
    let limits: String =
        files("rs").iter().filter(|path| is_limits(path)).map(|path| read(path)).collect();
    let names =
        limits.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    for name in names {
        assert!(code.contains(&format!("limits::{name}")), "{name} is not used");
    }
}
