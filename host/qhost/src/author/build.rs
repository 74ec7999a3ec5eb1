//! Building a project: its language's own tools make a module or a component, and a module is made a component.

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use qhost_model::digest::Sha256;
use qhost_policy::Kind;
use qhost_sys::state;

use super::{
    AuthorError, Language, c,
    tool::{Part, Tool},
    unreadable, unwritable,
};

/// A component that was built.
#[derive(Debug, Serialize)]
pub struct Built {
    /// The component's file.
    pub file: PathBuf,
    /// The file's size in bytes.
    pub bytes: usize,
    /// The file's digest.
    pub sha256: Sha256,
}

/// Builds a project's folder, or makes a component from a core module's file. The component is `NAME.wasm` in the project's folder, where
/// NAME is the folder's name, unless `output` names another place.
pub fn build(project: &Path, output: Option<&Path>, wasi: bool) -> Result<Built, AuthorError> {
    let metadata = fs::metadata(project).map_err(unreadable(project))?;
    if !metadata.is_dir() {
        return core_module(project, output.unwrap_or(project));
    }
    let folder = fs::canonicalize(project).map_err(unreadable(project))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let beside = project.join(format!("{name}.wasm"));
    let output = output.unwrap_or(&beside);
    let work = tempfile::tempdir().map_err(unwritable(&std::env::temp_dir()))?;
    let made = work.path().join("made.wasm");
    let language = language(project)?;
    if wasi && !matches!(language, Language::Python | Language::Js) {
        return Err(AuthorError::NoWasi { language });
    }
    match language {
        Language::Rust => {
            let module = rust(project, &folder)?;
            return componentize(&module, output);
        }
        Language::Python => python(project, &folder, &made, wasi)?,
        Language::Js => js(project, &folder, &made, wasi)?,
        Language::C => c::compile(project, &folder, &made)?,
    }
    componentize(&made, output)
}

/// Whether a folder is a policy's project.
pub fn is_project(folder: &Path) -> bool {
    language(folder).is_ok()
}

fn language(folder: &Path) -> Result<Language, AuthorError> {
    let mut found = Language::ALL.to_vec();
    found.retain(|language| folder.join(language.rules()).exists());
    match found.as_slice() {
        [language] => Ok(*language),
        found => Err(AuthorError::NoProject {
            folder: folder.into(),
            found: found.iter().map(|language| language.rules()).collect(),
        }),
    }
}

fn core_module(module: &Path, output: &Path) -> Result<Built, AuthorError> {
    let bytes = fs::read(module).map_err(unreadable(module))?;
    match Kind::of(&bytes) {
        Ok(Kind::Module) => componentize(module, output),
        Ok(Kind::Component) => {
            let reason = "a component already; expected a core module or a folder".into();
            Err(AuthorError::Unfit { path: module.into(), reason })
        }
        Err(reason) => Err(AuthorError::Unfit { path: module.into(), reason }),
    }
}

/// Writes a component, made from a core module if need be.
fn componentize(made: &Path, output: &Path) -> Result<Built, AuthorError> {
    let bytes = fs::read(made).map_err(unreadable(made))?;
    let unfit = |reason| AuthorError::Unfit { path: made.into(), reason };
    let component = qhost_policy::componentize(&bytes).map_err(unfit)?;
    state::write_shared(output, &component).map_err(unwritable(output))?;
    Ok(Built { file: output.into(), bytes: component.len(), sha256: Sha256::of(&component) })
}

/// The standard library for WebAssembly, which a build needs.
const PARTS: &[Part] = &[Part {
    program: "rustc",
    args: &["--print=target-libdir", "--target=wasm32-unknown-unknown"],
}];

/// The core module that cargo made.
fn rust(project: &Path, folder: &Path) -> Result<PathBuf, AuthorError> {
    let cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let mut args = vec![
        "build",
        "--release",
        "--lib",
        "--target=wasm32-unknown-unknown",
        "--message-format=json-render-diagnostics",
    ];
    if !io::stderr().is_terminal() {
        args.push("--quiet");
    }
    let tool = Tool {
        name: "cargo",
        language: Language::Rust,
        folder,
        project,
        beside: cargo,
        prints_json: true,
        parts: PARTS,
    };
    let said = tool.run(&args)?;
    let artifact = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let files = message.get("filenames")?.as_array()?;
        let mut files = files.iter().filter_map(|file| file.as_str().map(PathBuf::from));
        files.rfind(|file| file.extension().is_some_and(|found| found == "wasm"))
    };
    let no_module = || AuthorError::Unfit {
        path: folder.join("Cargo.toml"),
        reason: "cargo built no .wasm; expected [lib] crate-type = [\"cdylib\"]".into(),
    };
    said.lines().filter_map(artifact).next_back().ok_or_else(no_module)
}

fn python(project: &Path, folder: &Path, made: &Path, wasi: bool) -> Result<(), AuthorError> {
    let beside = Some(folder.join(".venv/bin/componentize-py"));
    let tool = Tool {
        name: "componentize-py",
        language: Language::Python,
        folder,
        project,
        beside,
        prints_json: false,
        parts: &[],
    };
    let mut args = ["-q", "-d", "wit", "-w", "policy", "componentize"].map(OsString::from).to_vec();
    if wasi {
        // The project's own `rules` module then imports all of WASI, and prints to its standard output.
        args.push("rules".into());
    } else {
        let main = made.with_file_name("main.py");
        fs::write(&main, include_str!("main.py")).map_err(unwritable(&main))?;
        let beside = made.parent().unwrap_or(made).as_os_str().to_owned();
        let paths = ["-p".into(), ".".into(), "-p".into(), beside];
        args.extend(["--stub-wasi".into(), "main".into()].into_iter().chain(paths));
    }
    args.extend(["-o".into(), made.into()]);
    tool.run(&args).map(drop)
}

/// The version of the policy contract in a project.
fn contract_version(folder: &Path) -> Result<String, AuthorError> {
    let wit = folder.join("wit/policy.wit");
    let text = fs::read_to_string(&wit).map_err(unreadable(&wit))?;
    let mut lines = text.lines();
    let version =
        lines.find_map(|line| line.strip_prefix("package qhost:policy@")?.strip_suffix(';'));
    version.map(str::to_owned).ok_or_else(|| AuthorError::Unfit {
        path: wit.clone(),
        reason: "it is not qhost's contract: expected a line of package qhost:policy".into(),
    })
}

fn js(project: &Path, folder: &Path, made: &Path, wasi: bool) -> Result<(), AuthorError> {
    let beside = Some(folder.join("node_modules/.bin/jco"));
    let tool = Tool {
        name: "jco",
        language: Language::Js,
        folder,
        project,
        beside,
        prints_json: false,
        parts: &[],
    };
    let made = made.as_os_str();
    // QuickJS is a tenth of the other engine's size, and can be had without WASI. The main module lies beside the rules, since jco takes
    // modules from the first one's folder, and from those below it.
    let mut builder = tempfile::Builder::new();
    let main = builder.prefix(".main-").suffix(".js").tempfile_in(folder);
    let main = main.map_err(unwritable(folder))?;
    let text = include_str!("main.js").replace("__version__", &contract_version(folder)?);
    fs::write(main.path(), text).map_err(unwritable(main.path()))?;
    let rules = OsString::from("rules.js");
    let first = if wasi { &rules } else { main.path().as_os_str() };
    let mut args = vec![OsString::from("componentize"), first.to_owned()];
    let options =
        ["--wit=wit", "--world-name=policy", "--backend=qjs", "--backend-qjs-disable-async"];
    args.extend(options.map(OsString::from));
    args.extend((!wasi).then(|| OsString::from("--backend-qjs-stub-wasi")));
    args.extend(["-o".into(), made.into()]);
    tool.run(&args).map(drop)
}
