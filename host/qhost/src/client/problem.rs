//! What a service says of what it did not do: `application/problem+json` (RFC 9457).

use serde::Deserialize;

use qhost_model::{job, kind::Kind};
use qhost_policy::Decision;

use super::ClientError;

/// Why a request was not done.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// The name of its kind, as in `urn:qhost:denied`.
    #[serde(rename = "type", default)]
    name: String,
    /// The status of the answer.
    #[serde(default)]
    status: u16,
    /// What was found, and what was expected.
    pub detail: String,
    /// Why, each cause under the one before.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// What refused it.
    pub refused_by: Option<String>,
    /// The problems of a job, each with its place.
    #[serde(default)]
    pub problems: Vec<job::Problem>,
    /// Who said what, where policies or the host's rules refused it.
    pub decision: Option<Box<Decision>>,
}

impl Problem {
    /// Whether something is not there that was named.
    pub fn is_not_found(&self) -> bool {
        self.status == 404
    }

    fn kind(&self) -> Kind {
        let named = self.name.strip_prefix("urn:qhost:").and_then(Kind::named);
        named.unwrap_or(match self.status {
            403 => Kind::Denied,
            429 | 500.. => Kind::HostUnable,
            _ => Kind::InvalidArgument,
        })
    }
}

impl ClientError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::File { .. } | Self::Access(_) => Kind::InvalidArgument,
            Self::Unreachable { .. } | Self::Malformed { .. } => Kind::HostUnable,
            Self::Problem(problem) => problem.kind(),
        }
    }

    /// What the service said, where it said something.
    pub fn problem(&self) -> Option<&Problem> {
        if let Self::Problem(problem) = self { Some(problem) } else { None }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.hint.clone(),
            Self::Unreachable { .. } => {
                Some("is qhost serve running there, and does --host name where it listens?".into())
            }
            Self::File { .. } | Self::Access(_) | Self::Malformed { .. } => None,
        }
    }
}
