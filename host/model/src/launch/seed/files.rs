//! Makes the files of a NoCloud disk, from the seed that a job asks for and the seed that policies left of it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::{AskedSeed, PartName, Seed, is_hostname};
use crate::limits;

/// The values from which a NoCloud disk is made.
#[derive(Debug)]
pub struct NoCloud<'a> {
    /// The seed that the job asks for.
    pub asked: &'a AskedSeed,
    /// The seed that is launched.
    pub launched: &'a Seed,
    /// The id by which cloud-init tells an instance from an earlier one.
    pub instance: &'a str,
    /// The task's name.
    pub task: &'a str,
    /// The operator's own part, vendor-data.
    pub vendor_data: Option<&'a str>,
}

/// A file of the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct NoCloudFile {
    /// The file's name.
    pub name: &'static str,
    /// The file's content.
    pub text: String,
}

impl NoCloud<'_> {
    /// Makes the files. cloud-init wants the first two even if they are empty.
    pub fn files(&self) -> Vec<NoCloudFile> {
        let file = |name, text| NoCloudFile { name, text };
        let mut files =
            vec![file("meta-data", self.meta_data()), file("user-data", self.user_data())];
        let network = self.part(PartName::NetworkConfig).map(str::to_owned);
        files.extend(network.map(|text| file("network-config", text)));
        files.extend(self.vendor_data.map(|text| file("vendor-data", text.to_owned())));
        files
    }

    /// The text of a part, if the part is launched.
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

    /// The task's name in the letters of a host name, or the VM's id where that is none.
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

/// A message of several parts. cloud-init takes each part for what the part's first words say.
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
