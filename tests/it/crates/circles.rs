//! No circle of files: the imports of a file, by its `use` declarations, never lead back to it. A module's use of its own submodules is how
//! it is put together, and does not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use qhost_tests::{root, succeed};

/// A module's path in its crate; the crate's own is empty.
type Module = Vec<String>;

/// A crate's modules, with their text except for their tests.
fn modules(sources: &Path) -> BTreeMap<Module, String> {
    let listed = succeed("git", &["-C", sources.to_str().unwrap(), "ls-files", "*.rs"]);
    let files = listed.lines().filter(|file| !file.starts_with("bin/") && *file != "main.rs");
    let read = |file: &str| {
        let text = fs::read_to_string(sources.join(file)).unwrap_or_default();
        let module = match file.trim_end_matches(".rs") {
            "lib" => vec![],
            path => path.split('/').map(str::to_owned).collect(),
        };
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
        (module, text)
    };
    files.map(read).collect()
}

/// The paths of a `use` declaration, one for each name.
fn paths(tree: &str, before: &str) -> Vec<String> {
    let mut found = vec![];
    let (mut depth, mut item) = (0, String::new());
    for c in tree.chars().chain([',']) {
        if c == ',' && depth == 0 {
            let whole = std::mem::take(&mut item);
            let whole = whole.trim();
            if let Some((start, inner)) = whole.split_once('{') {
                let inner = inner.strip_suffix('}').unwrap_or(inner);
                found.extend(paths(inner, &format!("{before}{start}")));
            } else if !whole.is_empty() {
                let path = whole.split(" as ").next().unwrap_or(whole);
                found.push(format!("{before}{path}"));
            }
        } else {
            depth += i32::from(c == '{') - i32::from(c == '}');
            item.push(c);
        }
    }
    found
}

/// The declarations of a text that begin at the start of a line with one of these words.
fn declared<'a>(text: &'a str, starts: &'a [&str]) -> impl Iterator<Item = &'a str> {
    starts.iter().flat_map(move |start| {
        let pieces = text.split(*start).skip(1);
        let own = pieces.filter_map(|piece| piece.split(';').next());
        own.collect::<Vec<_>>()
    })
}

struct Crate {
    modules: BTreeMap<Module, String>,
    /// The modules of the names that a module re-exports.
    handed_on: BTreeMap<(Module, String), Module>,
}

impl Crate {
    fn read(sources: &Path) -> Self {
        let modules = modules(sources);
        let mut handed_on = BTreeMap::new();
        for (module, text) in &modules {
            for tree in declared(text, &["\npub use ", "\npub(super) use ", "\npub(crate) use "]) {
                for path in paths(tree, "") {
                    let mut parts: Module = path.split("::").map(str::to_owned).collect();
                    let name = parts.pop().unwrap_or_default();
                    let from = [module.clone(), parts].concat();
                    handed_on.insert((module.clone(), name), from);
                }
            }
        }
        Self { modules, handed_on }
    }

    /// The file that a path's name is in.
    fn file_of(&self, path: &[String]) -> Module {
        let mut file: Module = vec![];
        for part in path {
            let below = [file.clone(), vec![part.clone()]].concat();
            if self.modules.contains_key(&below) {
                file = below;
                continue;
            }
            let from = self.handed_on.get(&(file.clone(), part.clone()));
            if let Some(from) = from.filter(|from| self.modules.contains_key(*from)) {
                file = from.clone();
            }
            break;
        }
        file
    }

    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let text = &self.modules[module];
        let trees = declared(text, &["\nuse crate::", "\nuse super::"]);
        let is_super = text.matches("\nuse crate::").count();
        let mut found = BTreeSet::new();
        for (number, tree) in trees.enumerate() {
            for path in paths(tree, "") {
                let mut parts: Module = path.split("::").map(str::to_owned).collect();
                let mut start: Module = vec![];
                if number >= is_super {
                    start = module[..module.len().saturating_sub(1)].to_vec();
                    while parts.first().is_some_and(|part| part == "super") {
                        parts.remove(0);
                        start.pop();
                    }
                }
                let file = self.file_of(&[start, parts].concat());
                if !file.starts_with(module) {
                    found.insert(file);
                }
            }
        }
        found
    }

    /// All modules that can be reached from a module.
    fn reached(&self, from: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(module) = next.pop() {
            for import in self.imports(&module) {
                if reached.insert(import.clone()) {
                    next.push(import);
                }
            }
        }
        reached
    }
}

#[test]
fn no_file_leads_back_to_itself() {
    for entry in fs::read_dir(root().join("host")).unwrap().flatten() {
        let sources = entry.path().join("src");
        if !sources.exists() {
            continue;
        }
        let one = Crate::read(&sources);
        let circle = |module: &&Module| one.reached(module).contains(*module);
        let circles: Vec<_> = one.modules.keys().filter(circle).map(|m| m.join("/")).collect();
        assert!(circles.is_empty(), "{}: {circles:?}", sources.display());
    }
}
