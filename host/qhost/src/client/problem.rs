//! A service's refusals: `application/problem+json` (RFC 9457).

use serde::Deserialize;

use qhost_model::{job, kind::Kind};
use qhost_policy::Decision;

use super::ClientError;

/// Why a request was not done.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// The name of the problem's kind, as in `urn:qhost:denied`.
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
    /// The part of the host that refused the request: a policy, a quota, the ports, the image's checksum.
    pub refused_by: Option<String>,
    /// The problems of a job, each with its place.
    #[serde(default)]
    pub problems: Vec<job::Problem>,
    /// The decision, if policies or the host's rules refused the request.
    pub decision: Option<Box<Decision>>,
}

impl Problem {
    /// Whether the request named an object that is not there.
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
    /// The error's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::File { .. } | Self::Access(_) => Kind::InvalidArgument,
            Self::Unreachable { .. } | Self::Malformed { .. } => Kind::HostUnable,
            Self::Problem(problem) => problem.kind(),
        }
    }

    /// The service's problem, if the service answered with one.
    pub fn problem(&self) -> Option<&Problem> {
        if let Self::Problem(problem) = self { Some(problem) } else { None }
    }

    /// What to do about the error.
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
