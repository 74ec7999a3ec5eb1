//! The README and `host/docs` are true: their generated parts match the code, links and paths lead where they say, and each test that is
//! named exists. `QHOST_UPDATE_DOCS=1` writes the generated parts.

mod made;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use qhost_tests::root;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The README and the pages below `host/docs`.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("host/docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = docs.chain([root().join("README.md")]).collect();
    pages.sort();
    pages
}

#[test]
fn the_readme_is_read_in_five_minutes() {
    let readme = read(&root().join("README.md"));
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
    for page in pages().iter().filter(|page| !page.ends_with("README.md")) {
        let name = page.file_name().unwrap().to_string_lossy();
        assert!(
            readme.contains(&format!("(host/docs/{name})")),
            "README.md does not lead to {name}"
        );
    }
}

#[test]
fn what_is_made_from_the_code_is_as_the_code_has_it() {
    for page in pages() {
        let text = read(&page);
        let made = made::filled(&text);
        if env::var_os("QHOST_UPDATE_DOCS").is_some() {
            fs::write(&page, made).unwrap();
        } else {
            assert!(text == made, "{} is stale: run with QHOST_UPDATE_DOCS=1", page.display());
        }
    }
}

/// The page of migration and the code know the same keys: each key in a table's first column is a job's or has a hint, and each key with a
/// hint is in a table.
#[test]
fn the_page_of_migration_has_the_keys_that_the_code_has() {
    let page = read(&root().join("host/docs/migrating.md"));
    let firsts = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let firsts = firsts.filter(|first| first.contains('`') && !first.contains("the plugin's"));
    let named: BTreeSet<&str> =
        firsts.flat_map(|first| first.split('`').skip(1).step_by(2)).collect();
    let schema = qhost_model::job::schema();
    let known = schema["$defs"]["config"]["properties"].as_object().unwrap();
    let hinted: BTreeSet<&str> = qhost_model::job::HINTS.iter().map(|(key, _)| *key).collect();
    for key in &named {
        let outer = key.split('.').next().unwrap();
        assert!(
            known.contains_key(outer) || hinted.contains(outer),
            "{key} is unknown to the code"
        );
    }
    let outer: BTreeSet<&str> = named.iter().map(|key| key.split('.').next().unwrap()).collect();
    let missing: Vec<_> = hinted.difference(&outer).collect();
    assert!(missing.is_empty(), "{missing:?} are not on the page");
    // Each key of Nomad's older driver that qhost reads is in the tables.
    for key in ["host_port", "guest_ports", "port_map", "accelerator", "machine_type", "args"] {
        assert!(named.contains(key) && known.contains_key(key), "{key}");
    }
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        for after in text.split("](").skip(1) {
            let link = after.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let has = |line: &str| line.starts_with('#') && anchor(line) == wanted;
            assert!(
                wanted.is_empty() || read(&target).lines().any(has),
                "{}: {link} has no such heading",
                page.display()
            );
        }
    }
    assert!(links >= 20, "{links} links");
}

/// What stands between backticks outside of code blocks.
fn quoted(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_path_exists() {
    let mut paths = 0;
    for page in pages() {
        for word in quoted(&read(&page)) {
            let roots = ["host/", "tests/", "wit/", "guest-policies/"];
            let is_path = roots.iter().any(|start| word.starts_with(start))
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_path {
                paths += 1;
                assert!(root().join(&word).exists(), "{}: {word}", page.display());
            }
        }
    }
    assert!(paths >= 60, "{paths} paths");
}

#[test]
fn every_test_that_is_named_exists() {
    let page = root().join("host/docs/security.md");
    let named = quoted(&read(&page)).into_iter().filter(|word| word.contains("::"));
    let named: BTreeSet<_> = named.collect();
    assert!(named.len() >= 30, "{named:?}");
    for name in named {
        let (module, function) = name.rsplit_once("::").unwrap();
        let path = root().join("tests/it").join(module.replace("::", "/")).with_extension("rs");
        // The name of a module of tests means all its tests.
        let whole = root().join("tests/it").join(name.replace("::", "/")).with_extension("rs");
        let exists = whole.exists()
            || (path.exists() && {
                let text = read(&path);
                text.contains(&format!("fn {function}(")) || text.contains(&format!("{function}:"))
            });
        assert!(exists, "{}: no test {name}", page.display());
    }
}

#[test]
fn the_questions_are_twenty_five_or_more() {
    let page = read(&root().join("host/docs/architecture.md"));
    let (_, section) = page.split_once("\n## Where is …\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("the next");
    assert!(section.lines().filter(|line| line.contains(".rs`")).count() >= 25);
}
