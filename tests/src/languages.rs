//! Policies in every language, made and built as their authors make and build them.

use std::{fs, path::PathBuf, sync::OnceLock};

use crate::{Qhost, command, root, succeed};

/// The languages that a policy can be written in, each with the program that its build needs.
pub const LANGUAGES: [(&str, &str); 4] =
    [("rust", "cargo"), ("python", "componentize-py"), ("js", "jco"), ("c", "clang")];

/// A `$PATH` with the languages' tools in it, which `tests/languages` installs on first use.
fn path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let folders = std::env::var("QHOST_LANGUAGES").unwrap_or_else(|_| {
            succeed(root().join("tests/languages").to_str().expect("UTF-8"), &[]).trim().into()
        });
        format!("{folders}:{}", std::env::var("PATH").expect("$PATH"))
    })
}

/// Whether a language's program is installed; where it is not, this prints which tests are skipped. In CI it must be.
pub fn can_build(language: &str) -> bool {
    let (_, program) = LANGUAGES.iter().find(|(name, _)| *name == language).expect("a language");
    let there = path().split(':').any(|folder| PathBuf::from(folder).join(program).exists());
    assert!(there || std::env::var_os("CI").is_none(), "{program} is missing: tests/languages");
    if !there {
        eprintln!("SKIPPED: policies in {language}, because {program} is not installed");
    }
    there
}

impl Qhost {
    /// Gives commands the environment that authors have: their own `$PATH` and home folder, and what cargo needs to build
    /// Wasm.
    pub fn as_author(mut self) -> Self {
        self = self.env("PATH", path());
        for key in ["HOME", "CARGO_HOME", "RUSTUP_HOME"] {
            if let Ok(value) = std::env::var(key) {
                self = self.env(key, &value);
            }
        }
        // The folder is shared by all tests, since building the SDK's own crates takes most of the time.
        let target = std::env::var_os("QHOST_GUEST_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| root().join("guest-policies/target")).join("authors");
        self = self.env("CARGO_TARGET_DIR", target.to_str().expect("UTF-8"));
        rust_for_wasm().into_iter().fold(self, |qhost, (key, value)| qhost.env(key, &value))
    }

    /// Makes and builds a policy's project, and gives the component's file, `NAME/NAME.wasm` in this folder.
    pub fn project(&self, language: &str, name: &str) -> PathBuf {
        self.run(&["policy", "new", name, "--lang", language]).exits(0);
        self.run(&["policy", "build", name]).exits(0);
        self.folder().join(name).join(name).with_extension("wasm")
    }
}

/// The variables with which cargo builds Wasm: none where rustup has the target, else Debian's compiler
/// (`guest-policies/README.md`).
fn rust_for_wasm() -> Vec<(&'static str, String)> {
    let target = "wasm32-unknown-unknown";
    let folder = command("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let folder = folder.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let has = |folder: String| fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
    if folder.is_ok_and(has) {
        return vec![];
    }
    let rustup = succeed("rustc", &["--print", "sysroot"]);
    let lld = succeed("find", &[rustup.trim(), "-name", "rust-lld", "-type", "f"]);
    vec![
        ("CARGO", "/usr/bin/cargo".into()),
        ("RUSTC", "/usr/bin/rustc".into()),
        ("RUSTC_BOOTSTRAP", "1".into()),
        ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort".into()),
        ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", lld.lines().next().unwrap_or("").into()),
    ]
}
