//! Decides a task whose image can come from several places: its source, mirrors, a list of checksums. Policies decide the task
//! once for each place, as if that place were the source, so that no image comes from a place that a policy was not shown.

use url::Url;

use qhost_model::launch::{Launch, Violation};

use super::{
    Answer, Approved, Chain, Deadline, Decision, HostRecord, OtherPlace, PolicyRecord, Request,
    Verdict,
};
use crate::limits;

impl Chain {
    /// Decides a task with the time that a decision has by default.
    pub fn decide(&self, request: Request) -> Verdict {
        self.decide_until(request, Deadline::after(limits::DECISION))
    }

    /// Decides a task until a deadline. Where the time runs out, the verdict is a failure.
    pub fn decide_until(&self, mut request: Request, deadline: Deadline) -> Verdict {
        let mirrors = std::mem::take(&mut request.task.image.mirrors);
        let sums = request.task.image.checksum.sums().cloned();
        if mirrors.is_empty() && sums.is_none() {
            return self.decide_one(request, deadline);
        }
        let source = request.task.image.source.clone();
        let mut approved = match self.decide_one(request.clone(), deadline) {
            Verdict::Approved(approved) => approved,
            other @ (Verdict::Denied(_) | Verdict::CannotRun(_) | Verdict::Failed(..)) => {
                return other;
            }
        };
        let mut others = vec![];
        for place in mirrors.iter().chain(&sums) {
            request.task.image.source = place.clone();
            let verdict = match self.decide_one(request.clone(), deadline) {
                Verdict::Approved(same) if are_alike(same.launch(), approved.launch()) => {
                    others.push((place.clone(), same.decision));
                    continue;
                }
                Verdict::Approved(other) => Verdict::Denied(other.with_another_launch()),
                other @ (Verdict::Denied(_) | Verdict::CannotRun(_) | Verdict::Failed(..)) => other,
            };
            others.insert(0, (source, approved.decision));
            return verdict.about(Some(place.clone()), &others);
        }
        approved.task.image.mirrors = mirrors;
        Verdict::Approved(approved).about(None, &others)
    }
}

/// Whether two launches are the same, warnings aside.
fn are_alike(one: &Launch, other: &Launch) -> bool {
    let without_warnings = |launch: &Launch| Launch { warnings: vec![], ..launch.clone() };
    without_warnings(one) == without_warnings(other)
}

impl Verdict {
    /// Adds which place the verdict is about, and what was decided about the other places.
    fn about(mut self, place: Option<Url>, others: &[(Url, Decision)]) -> Self {
        let decision = match &mut self {
            Self::Approved(approved) => &mut approved.decision,
            Self::Denied(decision) | Self::CannotRun(decision) | Self::Failed(_, decision) => {
                decision
            }
        };
        let others = others.iter().map(|(place, other)| other.beside(place, decision));
        decision.places = others.collect();
        decision.place = place;
        self
    }
}

impl Decision {
    /// What this decision says otherwise than another decision of the same chain.
    fn beside(&self, place: &Url, other: &Self) -> OtherPlace {
        let pairs = self.policies.iter().zip(&other.policies);
        let differing = pairs.filter(|(here, there)| !here.says_the_same_as(there));
        let warnings = self.launch.warnings.iter();
        let conflicts = self.conflicts.iter();
        OtherPlace {
            place: place.clone(),
            policies: differing.map(|(here, _)| here.clone()).collect(),
            conflicts: conflicts.filter(|one| !other.conflicts.contains(one)).cloned().collect(),
            warnings: warnings
                .filter(|one| !other.launch.warnings.contains(one))
                .cloned()
                .collect(),
        }
    }
}

impl PolicyRecord {
    /// Whether two records are the same but for what asking cost.
    fn says_the_same_as(&self, other: &Self) -> bool {
        Self { cost: other.cost, ..self.clone() } == *other
    }
}

impl Approved {
    fn with_another_launch(mut self) -> Decision {
        let violation = Violation {
            code: "host.another-launch".into(),
            field: "image.source".into(),
            message: "from this place, the policies would launch it otherwise than from its source"
                .into(),
            hint: Some("name one place only, or places that the policies treat alike".into()),
        };
        self.decision.host = HostRecord { answer: Answer::Refused, violations: vec![violation] };
        self.decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Warnings change nothing about a launch, and are worth knowing of each place all the same.
    #[test]
    fn what_is_said_of_one_place_alone() {
        let task = qhost_model::job::parse(
            "job.json",
            br#"{"name": "x", "driver": "qemu", "resources": {"memory_mib": 32}, "config": {
                "image_source": "https://a.example/x",
                "checksum": "0000000000000000000000000000000000000000000000000000000000000000"}}"#,
            "acme",
            None,
        );
        let task = task.unwrap();
        let (source, mut mirror) = (Decision::none(&task), Decision::none(&task));
        mirror.launch.warnings = vec!["slow".into()];
        assert!(are_alike(&mirror.launch, &source.launch));
        let place = task.image.source;
        let said = mirror.beside(&place, &source);
        assert_eq!((said.warnings, said.policies), (vec!["slow".to_owned()], vec![]));
        assert_eq!(source.beside(&place, &mirror).warnings, [""; 0]);
    }
}
