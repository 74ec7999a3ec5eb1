//! Checks the lengths, numbers and names of any version's answers. An answer that cannot be used ends the call. An answer that the contract
//! does not allow and that can be used all the same is a breach, which `lint` and `test` report.

use qhost_model::{launch::Violation, printable};

use super::super::error::Fault;
use crate::limits;

/// A violation as a policy gives it, before anything of it is checked.
pub(in super::super) struct GivenViolation {
    pub(super) code: String,
    pub(super) field: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Breaches of the contract in answers that can be used all the same: texts that are empty, or that are cut.
#[derive(Default)]
pub(in super::super) struct ContractBreaches(pub(in super::super) Vec<String>);

impl ContractBreaches {
    /// Notes a text that is longer than so many bytes.
    pub(super) fn cut(&mut self, what: &str, text: &str, most: usize) {
        if text.len() > most {
            self.0.push(format!("{what} has {} bytes, and the contract allows {most}", text.len()));
        } else if printable::line(text, most).to_string().ends_with('…') && !text.ends_with('…')
        {
            self.0.push(format!(
                "{what} is longer than {most} once its control characters are escaped"
            ));
        }
    }

    fn empty(&mut self, what: &str, text: &str) {
        if text.trim().is_empty() {
            self.0.push(format!("{what} is empty"));
        }
    }

    fn violation(&mut self, violation: &GivenViolation) {
        let GivenViolation { code, field, message, hint } = violation;
        let most = limits::POLICY_TEXT_BYTES;
        self.empty("the code of a violation", code);
        self.cut("the field of a violation", field, qhost_model::limits::POLICY_NAME_BYTES);
        self.empty("the message of a violation", message);
        self.cut("the message of a violation", message, most);
        self.cut("the hint of a violation", hint.as_deref().unwrap_or_default(), most);
    }

    /// Notes the warnings of a launch that are too long.
    pub(super) fn warnings(&mut self, warnings: &[String]) {
        for warning in warnings {
            self.cut("a warning", warning, limits::POLICY_TEXT_BYTES);
        }
    }
}

pub(in super::super) fn violations_in(
    violations: Vec<GivenViolation>,
    breaches: &mut ContractBreaches,
) -> Result<Vec<Violation>, Fault> {
    few("violations", violations.len())?;
    violations.iter().for_each(|violation| breaches.violation(violation));
    let one = |violation: GivenViolation| {
        Ok(Violation {
            code: name("code of a violation", &violation.code)?,
            field: printable::line(&violation.field, qhost_model::limits::POLICY_NAME_BYTES)
                .to_string(),
            message: text(&violation.message),
            hint: violation.hint.as_deref().map(text),
        })
    };
    violations.into_iter().map(one).collect()
}

/// Refuses extensions that are too many or too long.
pub(super) fn extensions(extensions: &[(String, String)]) -> Result<(), Fault> {
    few("extensions", extensions.len())?;
    let mut texts = extensions.iter().flat_map(|(key, value)| [key, value]);
    match texts.find(|text| text.len() > limits::POLICY_TEXT_BYTES) {
        Some(text) => Err(nonsense(format!("an extension of {} bytes", text.len()))),
        None => Ok(()),
    }
}

/// Reads a bind address of a policy's making.
pub(super) fn bind(text: &str) -> Result<std::net::Ipv4Addr, Fault> {
    let shown = || printable::line(text, qhost_model::limits::SHOWN_CHARS).to_string();
    text.parse().map_err(|_: std::net::AddrParseError| {
        nonsense(format!("the bind {:?} is no IPv4 address", shown()))
    })
}

/// Reads a name, version or code of a policy's making. One that is too long is refused and not cut, since two could then be taken for the
/// same one; characters that could pass for other parts of its line are escaped.
pub(in super::super) fn name(what: &str, name: &str) -> Result<String, Fault> {
    let (count, most) = (name.chars().count(), qhost_model::limits::POLICY_NAME_BYTES);
    if count > most {
        return Err(nonsense(format!("a {what} of {count} characters, more than {most}")));
    }
    Ok(printable::word(name, usize::MAX))
}

/// Escapes a word of a policy's making, and cuts it where it is too long.
pub(super) fn word(text: &str) -> String {
    printable::word(text, qhost_model::limits::POLICY_NAME_BYTES)
}

/// Escapes a sentence of a policy's making, and cuts it where it is too long.
pub(in super::super) fn text(text: &str) -> String {
    printable::line(text, limits::POLICY_TEXT_BYTES).to_string()
}

pub(super) fn few(what: &str, count: usize) -> Result<(), Fault> {
    if count <= limits::POLICY_LIST {
        Ok(())
    } else {
        Err(nonsense(format!("{count} {what}, more than {}", limits::POLICY_LIST)))
    }
}

pub(super) fn unknown(what: &str, found: &str) -> Fault {
    nonsense(format!("the {what} {:?} is not one that this host knows", word(found)))
}

pub(super) fn nonsense(what: String) -> Fault {
    Fault::Nonsense(what)
}
