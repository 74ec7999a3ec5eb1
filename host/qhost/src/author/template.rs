//! The projects that `qhost policy new` makes: the files of `guest-policies/templates`, which the tests build and try.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{AuthorError, Language, unwritable};

/// The placeholder for the project's name in a template.
const NAME: &str = "__name__";

type File = (&'static str, &'static str);

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../../guest-policies/templates/", $path))
    };
}

const CASES: &str = template!("cases.toml");
const WIT: File = ("wit/policy.wit", include_str!("../../../../wit/policy.wit"));

macro_rules! sdk {
    ($path:literal) => {
        include_str!(concat!("../../../../guest-policies/sdk/src/", $path))
    };
}

/// The SDK is part of the project until it is published.
const RUST: &[File] = &[
    ("Cargo.toml", template!("rust/Cargo.toml")),
    ("src/lib.rs", template!("rust/src/lib.rs")),
    ("settings.schema.json", template!("settings.schema.json")),
    ("vendor/qhost-policy-sdk/Cargo.toml", template!("rust/vendor/qhost-policy-sdk/Cargo.toml")),
    ("vendor/qhost-policy-sdk/src/lib.rs", sdk!("lib.rs")),
    ("vendor/qhost-policy-sdk/src/arena.rs", sdk!("arena.rs")),
    ("vendor/qhost-policy-sdk/src/example.rs", sdk!("example.rs")),
    ("vendor/qhost-policy-sdk/src/log.rs", sdk!("log.rs")),
    ("vendor/qhost-policy-sdk/src/tables.rs", sdk!("tables.rs")),
    WIT,
    ("cases/__name__.toml", CASES),
    ("README.md", template!("rust/README.md")),
    (".gitignore", template!("rust/gitignore")),
];

const PYTHON: &[File] = &[
    ("rules.py", template!("python/rules.py")),
    ("test_rules.py", template!("python/test_rules.py")),
    ("requirements.txt", template!("python/requirements.txt")),
    WIT,
    ("cases/__name__.toml", CASES),
    ("README.md", template!("python/README.md")),
    (".gitignore", template!("python/gitignore")),
];

const JS: &[File] = &[
    ("rules.js", template!("js/rules.js")),
    ("rules.test.js", template!("js/rules.test.js")),
    ("package.json", template!("js/package.json")),
    WIT,
    ("cases/__name__.toml", CASES),
    ("README.md", template!("js/README.md")),
    (".gitignore", template!("js/gitignore")),
];

const C: &[File] = &[
    ("rules.c", template!("c/rules.c")),
    ("compile_flags.txt", template!("c/compile_flags.txt")),
    WIT,
    ("cases/__name__.toml", template!("c/cases.toml")),
    ("README.md", template!("c/README.md")),
    (".gitignore", template!("c/gitignore")),
];

impl Language {
    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => RUST,
            Self::Python => PYTHON,
            Self::Js => JS,
            Self::C => C,
        }
    }
}

/// Makes a project, whole or not at all. Gives its name and its files.
pub fn new(folder: &Path, language: Language) -> Result<(String, Vec<PathBuf>), AuthorError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !is_name(&name) {
        return Err(AuthorError::Name { name });
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let made = tempfile::Builder::new()
        .prefix(".qhost-new-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(unwritable(parent))?;
    let mut files = vec![];
    for (path, text) in language.files() {
        let path = PathBuf::from(path.replace(NAME, &name));
        let file = made.path().join(&path);
        let folder = file.parent().unwrap_or(parent);
        let written =
            fs::create_dir_all(folder).and_then(|()| fs::write(&file, text.replace(NAME, &name)));
        written.map_err(unwritable(&file))?;
        files.push(path);
    }
    // The kernel renames a folder over an empty one, and refuses to over any other.
    match fs::rename(made.path(), folder) {
        Ok(()) => Ok((name, files)),
        Err(error) if is_there(&error) => Err(AuthorError::Exists { folder: folder.into() }),
        Err(error) => Err(unwritable(folder)(error)),
    }
}

fn is_there(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

/// Whether cargo, npm and the contract all take a name.
fn is_name(name: &str) -> bool {
    name.len() <= qhost_model::limits::POLICY_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
