//! The plugin's own configuration: the `config` of its `plugin` block in an agent's configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};

use qhost_engine::config::{Config, default_state_dir};
use qhost_model::job::DEFAULT_TENANT;

use crate::{
    NomadError,
    defaults::Defaults,
    msgpack,
    names::{Names, namespace},
    proto::{
        driver::TaskConfig,
        hclspec::{BlockAttrs, Spec, spec::Block},
    },
    schema,
};

/// The operator's settings for the plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The file of qhost's configuration; the default file where it is absent.
    pub(crate) config: Option<PathBuf>,
    /// The state folder; the default one where it is absent.
    pub(crate) state_dir: Option<PathBuf>,
    /// Tenants by namespace. A namespace that is not listed belongs to the tenant of `names`, or of its own name.
    pub(crate) tenants: BTreeMap<String, String>,
    /// The names that tenants, jobs and tasks have here.
    pub(crate) names: Names,
    /// The defaults for keys that a task's `config` leaves out.
    pub(crate) defaults: Defaults,
}

impl Settings {
    /// The schema of the settings, for an agent.
    pub(crate) fn schema() -> Spec {
        // A map is a block in an agent's configuration.
        let tenants =
            BlockAttrs { name: "tenants".into(), r#type: "string".into(), required: false };
        let tenants = ("tenants".to_owned(), Spec { block: Some(Block::BlockAttrs(tenants)) });
        let text = |name: &'static str| schema::attribute(name, "string");
        let config = text("config");
        let state_dir = default_state_dir();
        let state_dir = schema::defaulting(
            text("state_dir"),
            state_dir.as_deref().and_then(Path::to_str).map(Value::from).as_ref(),
        );
        let names = schema::block("names", schema::object(Names::KEYS.into_iter().map(text)));
        let defaults = schema::block("defaults", schema::of_task(&Map::new()));
        schema::object([config, state_dir, tenants, names, defaults].into_iter())
    }

    /// Reads the settings as an agent sends them.
    pub(crate) fn read(packed: &[u8]) -> Result<Self, NomadError> {
        Self::of(msgpack::read(packed).map_err(|error| NomadError::Settings(error.to_string()))?)
    }

    /// Reads the settings from a value.
    pub(crate) fn of(given: Value) -> Result<Self, NomadError> {
        let refused = |why: String| NomadError::Settings(why);
        let given = match given {
            Value::Object(object) => msgpack::without_nulls(object),
            // The plugin's block has no config.
            Value::Null => Map::new(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(refused(format!("it is {given}; expected an object")));
            }
        };
        let settings: Self = serde_json::from_value(Value::Object(given))
            .map_err(|error| refused(error.to_string()))?;
        for (key, path) in [("config", &settings.config), ("state_dir", &settings.state_dir)] {
            // The operator does not think of the agent's working folder, so that a relative path would be misread.
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                let found = path.display();
                return Err(refused(format!("{key}: {found}; expected a path from the root")));
            }
        }
        Ok(settings)
    }

    /// The tenant that a task belongs to.
    pub(crate) fn tenant(&self, task: &TaskConfig, config: &Config) -> String {
        let namespace = namespace(task);
        match (self.tenants.get(namespace), &self.names.tenant) {
            (Some(tenant), _) => tenant.clone(),
            (None, Some(rule)) => rule.of(task),
            (None, None) if config.has_tenants() => namespace.to_owned(),
            (None, None) => DEFAULT_TENANT.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rmpv::Value as Packed;

    use super::*;

    fn read(pairs: &[(&str, Packed)]) -> Result<Settings, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
        let mut bytes = vec![];
        rmpv::encode::write_value(&mut bytes, &Packed::Map(pairs)).unwrap();
        Settings::read(&bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn what_an_agent_sends() {
        let nothing =
            [("config", Packed::Nil), ("state_dir", Packed::Nil), ("tenants", Packed::Nil)];
        assert_eq!(read(&nothing), Ok(Settings::default()));
        assert_eq!(Settings::read(b"").unwrap(), Settings::default());
        let tenants = Packed::Map(vec![("prod".into(), "acme".into())]);
        let settings = read(&[("tenants", tenants), ("state_dir", "/srv/qhost".into())]).unwrap();
        assert_eq!(settings.state_dir, Some("/srv/qhost".into()));
        assert_eq!(settings.tenants["prod"], "acme");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pairs, found) in [
            (&[("tenant", Packed::from("acme"))][..], "unknown field `tenant`"),
            (
                &[("config", "qhost.toml".into())],
                "config: qhost.toml; expected a path from the root",
            ),
            (&[("state_dir", 7.into())], "invalid type: integer `7`"),
        ] {
            let error = read(pairs).unwrap_err();
            assert!(error.contains("plugin \"qhost\"") && error.contains(found), "{error}");
        }
    }

    #[test]
    fn a_namespace_has_a_tenant() {
        let mut settings = Settings::default();
        settings.tenants.insert("prod".into(), "acme".into());
        let none = Config::default();
        // On a host without tenants, all tasks belong to the default one, unless the operator names another.
        let of = |settings: &Settings, namespace: &str| {
            let (namespace, name) = (namespace.into(), "web".into());
            settings.tenant(&TaskConfig { namespace, name, ..TaskConfig::default() }, &none)
        };
        for (namespace, tenant) in [("", "default"), ("dev", "default"), ("prod", "acme")] {
            assert_eq!(of(&settings, namespace), tenant, "{namespace}");
        }
        settings.names.tenant = Some("n-{namespace}".to_owned().try_into().unwrap());
        assert_eq!((of(&settings, "dev"), of(&settings, "prod")), ("n-dev".into(), "acme".into()));
    }
}
