//! The results of cases as JUnit XML, which CI services read.

use std::{path::Path, time::Duration};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use qhost_sys::state::write_shared;

use super::{TrialError, Tried};

/// Writes a report: a suite for each file of cases.
pub fn junit(path: &Path, policy: &str, tried: &[Tried]) -> Result<(), TrialError> {
    let unwritable = |source| TrialError::Unwritable { path: path.into(), source };
    let mut report = Report::new(policy);
    for of_file in tried.chunk_by(|a, b| a.file == b.file) {
        let mut suite = TestSuite::new(of_file.first().map_or("", |tried| tried.file.as_str()));
        suite.add_test_cases(of_file.iter().map(case));
        report.add_test_suite(suite);
    }
    let xml = report.to_string().map_err(|error| unwritable(std::io::Error::other(error)))?;
    write_shared(path, xml.as_bytes()).map_err(unwritable)
}

fn case(tried: &Tried) -> TestCase {
    let status = if tried.passed {
        TestCaseStatus::success()
    } else {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        let contract_breaches: String = tried
            .contract_breaches
            .iter()
            .map(|what| format!("! contract breach: {what}\n"))
            .collect();
        status
            .set_message("not as expected")
            .set_description(tried.diff.clone() + &contract_breaches);
        status
    };
    let mut case = TestCase::new(tried.name.as_str(), status);
    case.set_time(Duration::from_micros(tried.micros));
    case
}
