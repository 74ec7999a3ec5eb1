//! Reads an artifact as the image: jobs for Nomad's own driver name their image so. The client fetches the artifact into the task's folder,
//! and `image_path` names it there.

use serde_json::Value;

use super::super::{
    config::ImageKeys,
    cursor::{Cursor, Object},
};
use crate::limits;

/// The endings of packed files, which a client unpacks and removes from the name.
const PACKED: [&str; 4] = [".gz", ".xz", ".zst", ".bz2"];

const NOT_IN_THE_GUEST: &str =
    "qhost gives a guest its image and nothing else; put this into the image";

/// Finds a task's image. Notes a problem where the image is not clear, or where artifacts are something else.
pub(super) fn image<'a>(task: &Object<'a>, config: &Object<'a>) -> ImageKeys<'a> {
    let path = config.optional("image_path");
    let Some(path) = path.filter(|_| config.optional("image_source").is_none()) else {
        task.unsupported(&["Artifacts"], NOT_IN_THE_GUEST);
        return ImageKeys::InConfig;
    };
    let artifacts = task.optional("Artifacts");
    let artifacts = match artifacts {
        Some(list) => list.array(limits::NOMAD_ITEMS, "artifacts"),
        None => Some(vec![]),
    };
    let Some(artifacts) = artifacts else { return ImageKeys::Refused };
    let mut artifacts: Vec<_> =
        artifacts.into_iter().filter_map(|one| one.any_object("an artifact")).collect();
    let is_the_image = |artifact: &Object<'_>| puts(artifact, path.value());
    match (artifacts.pop(), artifacts.as_slice()) {
        (None, _) => {
            path.refuse_with_hint::<()>(
                "image_source and checksum: qhost reads no file of this host for a job",
                "put: image_source = \"https://…\" and checksum = \"sha256:…\", printed by: sha256sum FILE; a file of this host's goes into its store with: qhost image import FILE --url URL",
            );
            ImageKeys::Refused
        }
        (Some(artifact), []) => {
            let source = artifact.optional("GetterSource");
            let options = artifact.optional("GetterOptions");
            let options = options.and_then(|options| options.any_object("options"));
            let checksum = options.and_then(|options| options.optional("checksum"));
            match (source, checksum) {
                (Some(source), Some(checksum)) if is_the_image(&artifact) => {
                    ImageKeys::At { source, checksum }
                }
                (source, checksum) => not_clear(&path, source.as_ref(), checksum.as_ref()),
            }
        }
        (Some(last), rest) => {
            let all = rest.iter().chain([&last]);
            let image = all.into_iter().find(|one| is_the_image(one));
            let source = image.and_then(|image| image.optional("GetterSource"));
            task.unsupported(&["Artifacts"], NOT_IN_THE_GUEST);
            not_clear(&path, source.as_ref(), None)
        }
    }
}

/// Notes the problem with the exact lines to write instead.
fn not_clear<'a>(
    path: &Cursor<'_>,
    source: Option<&Cursor<'_>>,
    checksum: Option<&Cursor<'_>>,
) -> ImageKeys<'a> {
    let text = |cursor: Option<&Cursor<'_>>, instead: &str| {
        let text = cursor.and_then(|cursor| cursor.value().as_str()).unwrap_or(instead);
        super::super::cursor::quoted_url(text)
    };
    let missing = if checksum.is_none() { ", printed by: sha256sum FILE" } else { "" };
    path.refuse_with_hint::<()>(
        "the file that the task's one artifact is, with a checksum in its options; or image_source and checksum",
        format!(
            "put into config, instead of image_path and the artifact: image_source = {} and checksum = {}{missing}",
            text(source, "https://…"),
            text(checksum, "sha256:…"),
        ),
    );
    ImageKeys::Refused
}

/// Whether an artifact ends up at a path of the task's folder.
fn puts(artifact: &Object<'_>, path: &Value) -> bool {
    let text = |key: &str| artifact.optional(key).and_then(|value| value.value().as_str());
    let (Some(source), Some(path)) = (text("GetterSource"), path.as_str()) else { return false };
    let path = in_task_folder(path);
    let destination = in_task_folder(text("RelativeDest").unwrap_or("local/"));
    if text("GetterMode") == Some("file") {
        return path == destination;
    }
    let source = source.split(['?', '#']).next().unwrap_or_default();
    let name = source.rsplit('/').next().unwrap_or_default();
    let unpacked = PACKED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let Some((folder, file)) = path.rsplit_once('/') else { return false };
    folder == destination.trim_end_matches('/') && (file == name || file == unpacked)
}

/// A path below the task's folder, without the part that an agent would fill in.
fn in_task_folder(path: &str) -> String {
    path.replace("${NOMAD_TASK_DIR}", "local")
        .trim_start_matches("./")
        .trim_start_matches('/')
        .to_owned()
}
