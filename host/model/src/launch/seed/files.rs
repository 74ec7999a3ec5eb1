//! The files of a NoCloud disk, made of what a job asks for and of what the policies left of that.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::{AskedSeed, PartName, Seed, is_hostname};
use crate::limits;

/// What a NoCloud disk is made of.
#[derive(Debug)]
pub struct NoCloud<'a> {
    /// What the job asks for.
    pub asked: &'a AskedSeed,
    /// What is launched of it.
    pub launched: &'a Seed,
    /// The id by which cloud-init tells an instance from the one before.
    pub instance: &'a str,
    /// The task's name.
    pub task: &'a str,
    /// The operator's own part.
    pub vendor_data: Option<&'a str>,
}

/// A file of the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct NoCloudFile {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub text: String,
}

impl NoCloud<'_> {
    /// The files, of which cloud-init wants the first two even where they say nothing.
    pub fn files(&self) -> Vec<NoCloudFile> {
        let file = |name, text| NoCloudFile { name, text };
        let mut files =
            vec![file("meta-data", self.meta_data()), file("user-data", self.user_data())];
        let network = self.part(PartName::NetworkConfig).map(str::to_owned);
        files.extend(network.map(|text| file("network-config", text)));
        files.extend(self.vendor_data.map(|text| file("vendor-data", text.to_owned())));
        files
    }

    /// The text of a part that is launched.
    fn part(&self, name: PartName) -> Option<&str> {
        let is_launched = self.launched.parts.iter().any(|part| part.name == name);
        self.asked.texts.part(name).filter(|_| is_launched)
    }

    fn meta_data(&self) -> String {
        let asked = self.part(PartName::MetaData).and_then(|text| serde_json::from_str(text).ok());
        let mut map: Map<String, Value> = asked.unwrap_or_default();
        map.insert("instance-id".into(), self.instance.into());
        let hostname = self.launched.hostname.clone().unwrap_or_else(|| self.default_hostname());
        map.insert("local-hostname".into(), hostname.into());
        let texts = &self.asked.texts.ssh_keys;
        let keys: Vec<_> = self
            .launched
            .ssh_keys
            .iter()
            .filter_map(|fingerprint| texts.get(fingerprint))
            .collect();
        if !keys.is_empty() {
            map.insert("public-keys".into(), json!(keys));
        }
        Value::Object(map).to_string()
    }

    /// The task's name as far as it can be a host name, else the VM's id.
    fn default_hostname(&self) -> String {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let name: String = self.task.chars().map(letter).take(63).collect();
        let name = name.trim_matches('-').to_ascii_lowercase();
        if is_hostname(&name) { name } else { self.instance.to_owned() }
    }

    fn user_data(&self) -> String {
        match (self.part(PartName::UserData), self.part(PartName::CloudConfig)) {
            (Some(text), None) | (None, Some(text)) => text.to_owned(),
            (Some(text), Some(config)) => multipart([config, text]),
            (None, None) => String::new(),
        }
    }
}

/// A message of several parts, each of which cloud-init takes for what the part begins with.
fn multipart(parts: [&str; 2]) -> String {
    const BOUNDARY: &str = "==qhost==";
    let mut message =
        format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for part in parts {
        message += &format!(
            "--{BOUNDARY}\nContent-Type: text/plain; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n"
        );
        let encoded = BASE64_STANDARD.encode(part);
        for line in encoded.as_bytes().chunks(limits::BASE64_LINE_BYTES) {
            message += &String::from_utf8_lossy(line);
            message.push('\n');
        }
    }
    message + &format!("--{BOUNDARY}--\n")
}
