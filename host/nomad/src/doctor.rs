//! Checks whether an agent's configuration and plugin folder are as this plugin needs them. Nothing is changed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use qhost_engine::{
    config::Config,
    doctor::{Finding, Health},
};
use qhost_model::{name::is_name, printable};
use qhost_sys::trusted;

use crate::{NAME, error::in_a_line, limits, settings::Settings};

/// The configuration with which Nomad's packages start an agent.
pub const AGENT_CONFIG: &str = "/etc/nomad.d";

/// Checks an agent's configuration, which is a file or a folder of files, and the paths that it names.
///
/// # Example
/// ```
/// use qhost_nomad::examine;
///
/// let findings = examine(std::path::Path::new("/no/such/folder"));
/// assert!(findings[0].found.contains("No such file"));
/// ```
pub fn examine(path: &Path) -> Vec<Finding> {
    let agent = match Agent::read(path) {
        Ok(agent) => agent,
        Err(why) => {
            let fix = "name the file or folder that the agent is started with: --nomad=PATH";
            return vec![Finding::new("nomad agent", Health::Bad, why, fix)];
        }
    };
    let found = format!("{} in {}", counted(agent.files, "file"), path.display());
    let mut findings = vec![Finding::new("nomad agent", Health::Good, found, "")];
    // Agents read the first version of HCL, which allows more than this reader does.
    let fix = "what it says is not looked at here; an agent may be able to read it";
    findings.extend(
        agent.unread.iter().map(|why| Finding::new("nomad agent", Health::Lacking, why, fix)),
    );
    findings.push(match agent.plugin_dir() {
        Some(folder) => program(&folder),
        None => {
            let fix = "set plugin_dir to the folder of the link to qhost";
            let found = "neither plugin_dir nor data_dir is set";
            Finding::new("nomad plugin", Health::Bad, found, fix)
        }
    });
    findings.extend(configuration(agent.block.as_ref()));
    findings
}

/// The parts of an agent's configuration that are about plugins.
#[derive(Default)]
struct Agent {
    files: usize,
    /// The files that were not read, each with the reason.
    unread: Vec<String>,
    data_dir: Option<PathBuf>,
    plugin_dir: Option<PathBuf>,
    /// The block of the plugin.
    block: Option<Value>,
}

impl Agent {
    fn read(path: &Path) -> Result<Self, String> {
        let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let mut files = vec![path.to_owned()];
        if fs::metadata(path).map_err(|error| failed(path, error))?.is_dir() {
            let entries = fs::read_dir(path).map_err(|error| failed(path, error))?;
            files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            files.retain(|file| kind(file).is_some());
            // An agent reads the files in this order, and the last file that has a key counts.
            files.sort();
        }
        let mut agent = Self::default();
        for file in files.iter().take(limits::AGENT_FILES) {
            match document(file) {
                Ok(document) => agent.take(document),
                Err(why) => agent.unread.push(why),
            }
        }
        let more = files.len().saturating_sub(limits::AGENT_FILES);
        if more > 0 {
            agent.unread.push(format!("{} beyond {}", counted(more, "file"), limits::AGENT_FILES));
        }
        if agent.files == 0 && agent.unread.is_empty() {
            return Err(format!("{} has no file *.hcl or *.json", path.display()));
        }
        Ok(agent)
    }

    fn take(&mut self, document: Map<String, Value>) {
        self.files += 1;
        let path = |key: &str| Some(PathBuf::from(document.get(key)?.as_str()?));
        self.data_dir = path("data_dir").or(self.data_dir.take());
        self.plugin_dir = path("plugin_dir").or(self.plugin_dir.take());
        let blocks = document.get("plugin").map(listed).unwrap_or_default();
        let block = blocks.into_iter().filter_map(|blocks| blocks.get(NAME)).next_back();
        self.block = block.cloned().or(self.block.take());
    }

    /// The plugin folder, which is below the agent's data where the configuration names none.
    fn plugin_dir(&self) -> Option<PathBuf> {
        let below = || Some(self.data_dir.as_ref()?.join("plugins"));
        self.plugin_dir.clone().or_else(below)
    }
}

/// The format of a file of an agent's configuration; none of any other file.
fn kind(file: &Path) -> Option<&str> {
    file.extension()?.to_str().filter(|kind| ["hcl", "json"].contains(kind))
}

fn document(file: &Path) -> Result<Map<String, Value>, String> {
    let named = |why: String| format!("{}: {why}", file.display());
    let metadata = fs::metadata(file).map_err(|error| named(error.to_string()))?;
    if metadata.len() > limits::AGENT_FILE_BYTES || !metadata.is_file() {
        let most = limits::AGENT_FILE_BYTES >> 10;
        return Err(named(format!("no file of at most {most} KiB")));
    }
    let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let read = if kind(file) == Some("json") {
        serde_json::from_str::<Map<_, _>>(&text).map_err(|error| error.to_string())
    } else {
        hcl::from_str(&text).map_err(|error| error.to_string())
    };
    let shown = |why: String| named(printable::line(&why, limits::TEXT_CHARS).to_string());
    read.map_err(shown)
}

/// The blocks of one name: JSON has one object for a single block, and a list for several.
fn listed(blocks: &Value) -> Vec<&Value> {
    blocks.as_array().map_or_else(|| vec![blocks], |several| several.iter().collect())
}

/// Checks the program that the agent starts as the plugin.
fn program(folder: &Path) -> Finding {
    let about = "nomad plugin";
    let path = folder.join(NAME);
    let this = std::env::current_exe().unwrap_or_else(|_| "/usr/local/bin/qhost".into());
    let link = format!("ln -s {} {}", this.display(), path.display());
    let bad = |found: String, fix: &str| Finding::new(about, Health::Bad, found, fix);
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) => return bad(format!("{}: {error}", path.display()), &link),
    };
    if let Err(error) = trusted::look(&path) {
        return bad(in_a_line(&error), "the agent runs it as root");
    }
    if !found.is_file() || found.mode() & 0o111 == 0 {
        return bad(format!("{} is no program", path.display()), &link);
    }
    let is_this = fs::metadata(&this)
        .is_ok_and(|this| (this.dev(), this.ino()) == (found.dev(), found.ino()));
    if !is_this {
        let found = format!("{} is another program than this qhost", path.display());
        let fix = format!("where it should be this one: {link}");
        return Finding::new(about, Health::Lacking, found, &fix);
    }
    Finding::new(about, Health::Good, format!("{} is this qhost", path.display()), "")
}

/// Checks the plugin's block, and the configuration that the block names.
fn configuration(block: Option<&Value>) -> Vec<Finding> {
    let about = "nomad config";
    let bad = |found: String, fix: &str| vec![Finding::new(about, Health::Bad, found, fix)];
    let Some(block) = block else {
        let found = format!("there is no block plugin \"{NAME}\"");
        return bad(found, "add one: since Nomad 1.7 a plugin without a block is passed over");
    };
    let given = listed(block).into_iter().filter_map(|block| block.get("config")).next_back();
    let given = given.map(listed).and_then(|mut blocks| blocks.pop()).cloned();
    let settings = match Settings::of(given.unwrap_or_default()) {
        Ok(settings) => settings,
        Err(error) => return bad(in_a_line(&error), "the agent's log would say the same"),
    };
    let config = match Config::load(settings.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return bad(in_a_line(&error), "until then no task is sent to this host"),
    };
    let file = config.file().map_or_else(
        || "no configuration of qhost's: what is not said has its default".into(),
        |file| format!("{} loads", file.display()),
    );
    let mut findings = vec![Finding::new(about, Health::Good, file, "")];
    for (namespace, tenant) in &settings.tenants {
        let is_there =
            if config.has_tenants() { config.has_tenant(tenant) } else { is_name(tenant) };
        if !is_there {
            let found = format!(
                "the namespace {namespace} belongs to the tenant {tenant}, which is not there"
            );
            let fix = format!("add [tenants.{tenant}] to qhost's configuration, or name another");
            findings.push(Finding::new(about, Health::Bad, found, &fix));
        }
    }
    let binds = config.rules().binds;
    let loopback = binds.iter().all(|bind| bind.is_loopback());
    findings.push(if loopback {
        let fix = "add the address of the agent's network to ports.bind, so that tasks with ports are not refused";
        let found = "forwarded ports are on this host's loopback alone";
        Finding::new("nomad ports", Health::Lacking, found, fix)
    } else {
        let binds: Vec<_> = binds.iter().map(ToString::to_string).collect();
        let found = format!("tasks may have ports at {}", binds.join(", "));
        Finding::new("nomad ports", Health::Good, found, "")
    });
    findings
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_twice_the_later_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "a.hcl",
            "data_dir = \"/srv\"\nplugin \"qhost\" {\nconfig {\nconfig = \"/a\"\n}\n}\n",
        );
        write("b.json", r#"{"plugin": [{"qhost": {"config": {"config": "/b"}}}, {"x": {}}]}"#);
        write("notes.txt", "{");
        let agent = Agent::read(folder.path()).unwrap();
        assert_eq!((agent.files, agent.plugin_dir()), (2, Some("/srv/plugins".into())));
        let block = agent.block.unwrap();
        assert_eq!(block["config"]["config"], "/b");
        write("c.hcl", "plugin_dir = ");
        let agent = Agent::read(folder.path()).unwrap();
        assert!(agent.unread[0].contains("c.hcl"), "{:?}", agent.unread);
        assert_eq!(agent.files, 2);
    }
}
