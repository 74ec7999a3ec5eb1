//! A real Prometheus on loopback: Debian's, which keeps the metrics that it scrapes in a folder.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{command, wait_for};

/// A Prometheus, which ends when this is dropped.
pub struct Prometheus {
    child: Child,
    folder: TempDir,
    address: String,
}

impl Prometheus {
    /// Starts a Prometheus with a configuration, and waits until it answers.
    pub fn start(config: &Path) -> Self {
        let folder = TempDir::with_prefix("qhost-prometheus-").expect("a folder for Prometheus");
        // Prometheus cannot say which port it took, so that a port is taken that was free a moment before.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        drop(listener);
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let child = command("prometheus")
            .arg("--config.file")
            .arg(config)
            .arg("--storage.tsdb.path")
            .arg(folder.path().join("data"))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Prometheus is installed: tests/prepare all");
        let mut prometheus = Self { child, folder, address };
        wait_for("Prometheus", || {
            let ended = prometheus.child.try_wait().expect("it can be waited for");
            let log = || fs::read_to_string(prometheus.folder.path().join("log"));
            assert!(ended.is_none(), "Prometheus ended: {}", log().unwrap_or_default());
            (prometheus.ask("status/buildinfo", &[])["status"] == "success").then_some(())
        });
        prometheus
    }

    /// The answer of its API; null where there is no answer.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut curl = command("curl");
        curl.args(["--silent", "--max-time", "60", "--get"]);
        for (name, value) in parameters {
            curl.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        curl.arg(format!("http://{}/api/v1/{path}", self.address));
        let output = curl.output().expect("curl");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The values of an expression over the last five minutes, as a dashboard asks for them.
    pub fn range(&self, expression: &str) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let (start, end) = ((now - 300).to_string(), now.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", "2")];
        self.ask("query_range", &parameters)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Prometheus may have ended by itself.
        let _ended = self.child.kill();
        self.child.wait().expect("it ends");
    }
}
