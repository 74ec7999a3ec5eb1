//! The job file: two forms are accepted, told apart by their keys, and both become one [`Task`]. Nomad's form may be written in
//! JSON or in HCL.
//!
//! No code outside this module sees JSON that a tenant wrote. Nothing here does I/O: the caller reads the file.

mod syntax;
pub mod json;
mod jobspec;
pub(crate) mod cursor;
mod error;
pub(crate) mod block;
pub(crate) mod config;
mod lifecycle;
mod own;
mod nomad;
mod rules;
mod schema;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    digest::{FileDigest, Sha256, Sha512},
    launch::Asked,
    limits,
};

use block::Form;
use jobspec::Jobspec;
use syntax::Syntax;

pub use config::HINTS;
pub use error::{JobError, Position, Problem};
pub use lifecycle::{Ready, ReadyCheck, Restart, RestartWhen};
pub use nomad::keys::{Keys, OBJECTS as NOMAD_OBJECTS, Treatment};
pub use rules::{INSTEAD, check};
pub use schema::schema;

/// The tenant of a task that is run for no tenant by name.
pub const DEFAULT_TENANT: &str = "default";

/// A task that a tenant asks for, well formed, from either form of job file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The tenant that asks, as the operator named it.
    pub tenant: String,
    /// The job's name; in qhost's own form, the task's name is also the job's.
    pub job: String,
    /// The task's name.
    pub name: String,
    /// The disk image to boot.
    pub image: ImageRequest,
    /// What the task asks of its launch.
    #[serde(flatten)]
    pub asked: Asked,
    /// Extra QEMU arguments. The host refuses every one that it was not configured to allow.
    pub args: Vec<String>,
    /// When the task is started again after its end.
    #[serde(default, skip_serializing_if = "Restart::is_default")]
    pub restart: Restart,
    /// How it is known that the task's guest is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// The job's own notes.
    pub meta: BTreeMap<String, String>,
    /// The places in a Nomad job's file that only Nomad acts on, as JSON pointers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_looked_at: Vec<String>,
}

impl Task {
    /// The same task with the SHA-256 of its image, once that is known.
    pub fn with_image(&self, sha256: Sha256) -> Self {
        let checksum = Checksum::Image { sha256 };
        Self { image: ImageRequest { checksum, ..self.image.clone() }, ..self.clone() }
    }
}

/// An image, and the digest that its bytes must have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// The URL that serves the image: http or https, without user name or password.
    pub source: Url,
    /// Further URLs that serve the image; each is asked in order when the one before does not deliver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Url>,
    /// The digest by which the image is checked.
    #[serde(flatten)]
    pub checksum: Checksum,
}

impl ImageRequest {
    /// The source and its mirrors.
    pub fn sources(&self) -> impl Iterator<Item = &Url> {
        std::iter::once(&self.source).chain(&self.mirrors)
    }
}

/// A digest that the job names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Checksum {
    /// The digest of a list of checksums, which in turn has the digest of the image's file.
    List {
        /// The URL that serves the list.
        sums: Url,
        /// The digest of the list.
        sha256: Sha256,
        /// The name that the file has in the list; absent where that is the end of its source's path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The digest of the image's file as served.
    Image {
        /// The digest of the file.
        sha256: Sha256,
    },
    /// The SHA-512 of the image's file as served. Its SHA-256, by which images are stored and policies decide, is known once it
    /// was fetched.
    Sha512 {
        /// The digest of the file.
        sha512: Sha512,
    },
}

impl Checksum {
    /// The SHA-256 that the job names, be it of the file or of a list.
    pub fn pin(&self) -> Option<Sha256> {
        match self {
            Self::List { sha256, .. } | Self::Image { sha256 } => Some(*sha256),
            Self::Sha512 { .. } => None,
        }
    }

    /// The digest that the job names, be it of the file or of a list.
    pub fn digest(&self) -> FileDigest {
        match self {
            Self::List { sha256, .. } | Self::Image { sha256 } => FileDigest::Sha256(*sha256),
            Self::Sha512 { sha512 } => FileDigest::Sha512(*sha512),
        }
    }

    /// The URL of the list of checksums, if the job names one.
    pub fn sums(&self) -> Option<&Url> {
        match self {
            Self::List { sums, .. } => Some(sums),
            Self::Image { .. } | Self::Sha512 { .. } => None,
        }
    }

    /// Whether the image's SHA-256 is not known from the job alone.
    pub fn is_indirect(&self) -> bool {
        match self {
            Self::List { .. } | Self::Sha512 { .. } => true,
            Self::Image { .. } => false,
        }
    }
}

/// Reads a job file's bytes. `file` is its name for errors; `select` names the task where a Nomad job has several
/// (`TASK` or `GROUP/TASK`). All problems of the file are reported at once.
pub fn parse(
    file: &str,
    bytes: &[u8],
    tenant: &str,
    select: Option<&str>,
) -> Result<Task, JobError> {
    let syntax = Syntax::of(file, bytes);
    if let Syntax::Other(format) = syntax {
        return Err(JobError::OtherFormat { file: file.into(), format });
    }
    let most =
        if syntax == Syntax::Hcl { limits::JOBSPEC_BYTES as u64 } else { limits::JOB_FILE_BYTES };
    if bytes.len() as u64 > most {
        return Err(JobError::TooLarge { file: file.into(), most });
    }
    let bytes = syntax::without_mark(bytes);
    let (root, problems, lines) = if syntax == Syntax::Hcl {
        let Jobspec { job, problems, lines } = jobspec::parse(file, bytes)?;
        (job, problems, Some(lines))
    } else {
        let parsed = json::parse(bytes, json::Floats::Whole);
        let (root, problems) =
            parsed.map_err(|source| JobError::NotJson { file: file.into(), source })?;
        (root, problems, None)
    };
    // Parts of HCL that were not understood are missing here, and would be reported a second time as missing.
    let task = if lines.is_some() && !problems.is_empty() {
        None
    } else {
        let cursor = cursor::Cursor::root(&root, &problems);
        match Form::of(&root) {
            Form::Own => own::read(cursor, tenant, select),
            Form::Nomad => nomad::read(cursor, tenant, select),
        }
    };
    let mut problems = problems.into_vec();
    let mut task = task.filter(|_| problems.is_empty());
    if let Some(lines) = &lines {
        problems.iter_mut().for_each(|problem| lines.place(problem));
        let told = task.iter_mut().flat_map(|task| &mut task.not_looked_at);
        told.for_each(|pointer| lines.add_to(pointer));
    }
    task.ok_or_else(|| JobError::Invalid { file: file.into(), problems })
}

/// Reads an image as a command line names it; the error says what is wrong.
pub fn image_request(sources: &[String], checksum: &str) -> Result<ImageRequest, String> {
    let block = serde_json::json!({"image_source": sources, "checksum": checksum});
    let problems = error::Problems::default();
    let image = cursor::Cursor::root(&block, &problems)
        .any_object("an image")
        .and_then(|block| config::image(&block));
    let problems: Vec<_> = problems.into_vec().iter().map(ToString::to_string).collect();
    image.filter(|_| problems.is_empty()).ok_or_else(|| problems.join("\n"))
}
