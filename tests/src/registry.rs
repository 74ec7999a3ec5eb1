//! A real OCI registry on loopback: Debian's docker-registry, which keeps its blobs in a folder.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Stdio},
};

use tempfile::TempDir;

use crate::{command, wait_for};

/// A registry, which ends when this is dropped.
pub struct Registry {
    child: Child,
    folder: TempDir,
    address: String,
}

impl Registry {
    /// Starts an empty registry.
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("qhost-registry-").expect("a folder for the registry");
        // The registry cannot say which port it took, so that a port is taken that was free a moment before.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        drop(listener);
        let config = folder.path().join("config.yml");
        let root = folder.path().join("root").display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: \"{address}\"}}\n"
        );
        fs::write(&config, text).expect("the registry's configuration");
        let child = command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed: tests/prepare all");
        wait_for("the registry", || TcpStream::connect(&address).ok());
        Self { child, folder, address }
    }

    /// The address of a repository in the registry.
    pub fn place(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// The file in which the registry keeps a blob.
    pub fn blob(&self, sha256: &str) -> PathBuf {
        let blobs = self.folder.path().join("root/docker/registry/v2/blobs/sha256");
        blobs.join(&sha256[..2]).join(sha256).join("data")
    }

    /// Asks for a manifest, as any client would.
    pub fn manifest(&self, repository: &str, tag: &str) -> String {
        self.ask("GET", &format!("/v2/{repository}/manifests/{tag}"), "")
    }

    /// Puts a manifest under a tag, as any client could.
    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &str) {
        self.ask("PUT", &format!("/v2/{repository}/manifests/{tag}"), manifest);
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the registry answers");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAccept: {kind}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("a request is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.contains(" 20"), "{method} {path}: {answer}");
        body.into()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().expect("the registry can be ended");
        self.child.wait().expect("it ends");
    }
}
