//! The names that a task of Nomad's has here, by a rule of the operator's: its tenant's, its job's and its own.

use std::fmt;

use serde::Deserialize;

use crate::proto::driver::TaskConfig;

/// The rule. A key that it leaves out has its default, as in [`Names::default`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Given")]
pub(crate) struct Names {
    /// The template for the tenant.
    pub(crate) tenant: Option<Template>,
    /// The template for the job; absent where it is `{job}`.
    job: Option<Template>,
    /// The template for the task; absent where it is `{task}`.
    task: Option<Template>,
}

/// The rule as the operator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    tenant: Option<String>,
    job: Option<String>,
    task: Option<String>,
}

impl TryFrom<Given> for Names {
    type Error = TemplateError;

    fn try_from(given: Given) -> Result<Self, TemplateError> {
        let read = |key: &'static str, text: Option<String>| {
            let read = text.map(Template::try_from).transpose();
            read.map_err(|error| TemplateError { key, ..error })
        };
        Ok(Self {
            tenant: read("tenant", given.tenant)?,
            job: read("job", given.job)?,
            task: read("task", given.task)?,
        })
    }
}

impl Names {
    /// The keys of the rule.
    pub(crate) const KEYS: [&str; 3] = ["tenant", "job", "task"];

    /// The job's name.
    pub(crate) fn job(&self, task: &TaskConfig) -> String {
        self.job.as_ref().map_or_else(|| Word::Job.of(task).to_owned(), |job| job.of(task))
    }

    /// The task's name.
    pub(crate) fn task(&self, task: &TaskConfig) -> String {
        self.task.as_ref().map_or_else(|| Word::Task.of(task).to_owned(), |name| name.of(task))
    }
}

/// A text with words in braces, which stand for Nomad's names of a task, such as `{namespace}-{job}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Word(Word),
}

/// A name that Nomad has for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Namespace,
    Job,
    Group,
    Task,
}

impl Word {
    const ALL: [(&str, Self); 4] = [
        ("namespace", Self::Namespace),
        ("job", Self::Job),
        ("group", Self::Group),
        ("task", Self::Task),
    ];

    fn of(self, task: &TaskConfig) -> &str {
        match self {
            Self::Namespace => namespace(task),
            Self::Job => {
                let names = [&task.job_name, &task.job_id, &task.name];
                names.into_iter().find(|name| !name.is_empty()).map_or("", String::as_str)
            }
            Self::Group if task.task_group_name.is_empty() => &task.name,
            Self::Group => &task.task_group_name,
            Self::Task => &task.name,
        }
    }
}

/// A task's namespace. An agent older than Nomad 1.2 names none.
pub(crate) fn namespace(task: &TaskConfig) -> &str {
    if task.namespace.is_empty() { "default" } else { &task.namespace }
}

impl Template {
    /// Fills in the words for a task.
    pub(crate) fn of(&self, task: &TaskConfig) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Word(word) => word.of(task),
        });
        parts.collect()
    }
}

/// Why a text cannot be a template.
#[derive(Debug, thiserror::Error)]
#[error(
    "names.{key}: {text}: {found}; expected a text with {{namespace}}, {{job}}, {{group}} or {{task}} where a name is to stand"
)]
pub(crate) struct TemplateError {
    key: &'static str,
    text: String,
    found: String,
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        let mut parts = vec![];
        let mut rest = text.as_str();
        let wrong = |found: String| Err(TemplateError { key: "", text: text.clone(), found });
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            let Some((name, behind)) = brace.strip_prefix('{').and_then(|it| it.split_once('}'))
            else {
                return wrong("a brace without its other one".into());
            };
            let Some((_, word)) = Word::ALL.into_iter().find(|(known, _)| *known == name) else {
                return wrong(format!("{{{name}}}"));
            };
            parts.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            parts.push(Part::Word(word));
            rest = behind;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        if parts.is_empty() {
            return wrong("nothing".into());
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Word(word) => {
                    let named = Word::ALL.into_iter().find(|(_, known)| known == word);
                    write!(f, "{{{}}}", named.map_or("", |(name, _)| name))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskConfig {
        TaskConfig {
            name: "vm".into(),
            task_group_name: "web".into(),
            job_name: "shop".into(),
            namespace: "prod".into(),
            ..TaskConfig::default()
        }
    }

    #[test]
    fn words_stand_for_names() {
        for (text, expected) in [
            ("{namespace}", "prod"),
            ("{job}", "shop"),
            ("{group}-{task}", "web-vm"),
            ("all", "all"),
            ("n-{namespace}.{task}{task}", "n-prod.vmvm"),
        ] {
            let template = Template::try_from(text.to_owned()).unwrap();
            assert_eq!(
                (template.of(&task()).as_str(), template.to_string().as_str()),
                (expected, text)
            );
        }
    }

    #[test]
    fn what_is_no_template() {
        for (text, found) in [
            ("", "nothing"),
            ("{alloc}", "{alloc}"),
            ("{}", "{}"),
            ("{task", "a brace"),
            ("task}", "a brace"),
            ("{{task}}", "{{task}"),
        ] {
            let error = Template::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(error.contains(found) && error.contains("{group}"), "{error}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_nomad_has_it() {
        let names = Names::default();
        assert_eq!((names.job(&task()), names.task(&task())), ("shop".into(), "vm".into()));
        let nameless = TaskConfig { name: "vm".into(), ..TaskConfig::default() };
        assert_eq!((names.job(&nameless), namespace(&nameless)), ("vm".into(), "default"));
    }
}
