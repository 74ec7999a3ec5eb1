//! Policies in C: the contract's header is generated into `bindings`, and clang compiles every `.c` file of the project with it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use wit_bindgen_core::{Files, wit_parser::Resolve};

use super::{
    AuthorError, Language,
    tool::{Part, Tool},
    unreadable, unwritable,
};

/// The parts that clang needs: the linker, the C library's part that is linked first, and the compiler's own functions.
const PARTS: &[Part] = &[
    Part { program: "clang", args: &["-print-prog-name=wasm-ld"] },
    Part { program: "clang", args: &["--target=wasm32-wasi", "-print-file-name=crt1-reactor.o"] },
    Part {
        program: "clang",
        args: &["--target=wasm32-wasi", "-rtlib=compiler-rt", "-print-libgcc-file-name"],
    },
];

/// The memory holds 64 KiB of stack, the data, and some 400 KiB of heap.
const INITIAL_MEMORY: &str = "-Wl,--initial-memory=524288";

/// Compiles a core module that carries its world's type.
pub(super) fn compile(project: &Path, folder: &Path, made: &Path) -> Result<(), AuthorError> {
    let mut files = sources(folder)?;
    files.extend(bindings(folder)?);
    let args = [
        "--target=wasm32-wasi",
        "-mexec-model=reactor",
        "-Os",
        "-Wall",
        "-Wl,--strip-debug",
        // The C library's allocator uses the memory behind the data first, so that no decision grows the memory.
        INITIAL_MEMORY,
        "-I",
        "bindings",
        "-o",
    ];
    let args = args.map(OsString::from).into_iter().chain([made.into()]);
    let args: Vec<_> = args.chain(files.into_iter().map(OsString::from)).collect();
    let tool = Tool {
        name: "clang",
        language: Language::C,
        folder,
        project,
        beside: None,
        prints_json: false,
        parts: PARTS,
    };
    tool.run(&args).map(drop)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, AuthorError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(unreadable(folder))?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
    files.sort();
    Ok(files)
}

/// Generates the contract's header with the files that belong to it; gives the files to compile and link.
fn bindings(folder: &Path) -> Result<Vec<PathBuf>, AuthorError> {
    let wit = folder.join("wit");
    let unfit = |reason: String| AuthorError::Unfit { path: wit.clone(), reason };
    let mut resolve = Resolve::default();
    let mut generated = Files::default();
    let mut generate = || {
        let (package, _) = resolve.push_path(&wit)?;
        let world = resolve.select_world(&[package], Some("policy"))?;
        wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut generated)
    };
    generate().map_err(|error| unfit(format!("{error:#}")))?;
    let out = folder.join("bindings");
    fs::create_dir_all(&out).map_err(unwritable(&out))?;
    let mut link = vec![];
    for (name, bytes) in generated.iter() {
        let path = out.join(name);
        fs::write(&path, bytes).map_err(unwritable(&path))?;
        if !name.ends_with(".h") {
            link.push(path);
        }
    }
    Ok(link)
}
