//! `qhost policy new` and `build`.

use serde_json::json;

use super::{RunError, show};
use crate::{
    author::{self, AuthorError, Built},
    cli::{BuildArgs, NewArgs, Shared},
    exit::Exit,
};

fn end(shared: &Shared, done: Result<String, AuthorError>) -> Exit {
    match done {
        Ok(text) => {
            show::print(&text);
            Exit::Done
        }
        // The tool's own output is all that an author needs.
        Err(AuthorError::Compile { .. }) if !shared.json => Exit::CheckFailed,
        Err(error) => show::failure(shared, &RunError::from(error)),
    }
}

pub(super) fn new(shared: &Shared, args: &NewArgs) -> Exit {
    end(shared, try_new(shared, args))
}

fn try_new(shared: &Shared, NewArgs { folder, language }: &NewArgs) -> Result<String, AuthorError> {
    let (name, files) = author::new(folder, *language)?;
    if shared.json {
        return Ok(show::json(&json!({"name": name, "folder": folder, "files": files})));
    }
    let folder = folder.display();
    let mut text = format!("made      {folder}, a policy in {language}\n");
    for file in files.iter().filter(|file| !file.starts_with("vendor")) {
        text += &format!("          {}\n", file.display());
    }
    Ok(text + &format!("next      qhost policy build {folder} && qhost policy test {folder}\n"))
}

pub(super) fn build(shared: &Shared, args: &BuildArgs) -> Exit {
    end(shared, try_build(shared, args))
}

fn try_build(shared: &Shared, args: &BuildArgs) -> Result<String, AuthorError> {
    let built = author::build(&args.project, args.output.as_deref(), args.wasi)?;
    if shared.json {
        return Ok(show::json(&built));
    }
    let Built { file, bytes, sha256 } = built;
    Ok(format!("built     {}, {bytes} bytes, sha256:{sha256}\n", file.display()))
}
