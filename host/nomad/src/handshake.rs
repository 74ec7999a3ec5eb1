//! The handshake of an agent and a plugin: the agent sets variables, and the plugin answers with one line on its standard output.
//! Source: github.com/hashicorp/go-plugin, server.go.

use std::{env, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::{NomadError, tls::Tls};

/// The variable that shows that an agent started the plugin, and not a person.
const COOKIE: (&str, &str) = (
    "NOMAD_PLUGIN_MAGIC_COOKIE",
    "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
);
/// The versions of Nomad's protocol that an agent takes, with commas between.
const VERSIONS: &str = "PLUGIN_PROTOCOL_VERSIONS";
/// The folder for the socket; where the variable is absent, the folder for temporary files is taken.
const SOCKET_DIR: &str = "PLUGIN_UNIX_SOCKET_DIR";
/// The certificate of an agent that wants TLS on the socket.
const CLIENT_CERT: &str = "PLUGIN_CLIENT_CERT";

/// The version of go-plugin's own protocol.
const CORE_PROTOCOL: u32 = 1;
/// The version of Nomad's protocol.
const PROTOCOL: &str = "2";

/// Whether an agent of Nomad's started this process as a plugin.
pub fn is_by_agent() -> bool {
    env::var(COOKIE.0).is_ok_and(|value| value == COOKIE.1)
}

/// A socket that only this process's user may connect to. The socket's folder is removed when this is dropped.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    /// The plugin's side of TLS; present where the agent asked for TLS.
    pub(crate) tls: Option<Tls>,
    /// The socket's folder, which outlives the listener.
    pub(crate) folder: TempDir,
}

impl Socket {
    /// Understands the agent's variables, and binds the socket.
    pub(crate) fn bind() -> Result<Self, NomadError> {
        if !is_by_agent() {
            return Err(NomadError::NotByAgent);
        }
        let versions = env::var(VERSIONS).unwrap_or_else(|_| PROTOCOL.into());
        if !versions.split(',').any(|version| version.trim() == PROTOCOL) {
            return Err(NomadError::Protocol { offered: versions });
        }
        let certificate = env::var_os(CLIENT_CERT).filter(|pem| !pem.is_empty());
        let tls = certificate.map(|pem| Tls::with_agent(&pem.to_string_lossy())).transpose()?;
        let parent = env::var_os(SOCKET_DIR).filter(|dir| !dir.is_empty());
        let parent = parent.map_or_else(env::temp_dir, Into::into);
        let failed = |source| NomadError::Socket { folder: parent.clone(), source };
        // Another user of the host could otherwise talk to the plugin, which acts as root.
        let private = std::fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new()
            .prefix("qhost-plugin-")
            .permissions(private)
            .tempdir_in(&parent)
            .map_err(failed)?;
        let listener = UnixListener::bind(path(folder.path())).map_err(failed)?;
        Ok(Self { listener, tls, folder })
    }

    /// Tells the agent where the socket is.
    pub(crate) fn announce(&self) -> Result<(), NomadError> {
        let path = path(self.folder.path());
        let certificate = self.tls.as_ref().map_or("", |tls| &tls.certificate);
        let line =
            format!("{CORE_PROTOCOL}|{PROTOCOL}|unix|{}|grpc|{certificate}\n", path.display());
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(line.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(NomadError::Announce)
    }
}

fn path(folder: &Path) -> std::path::PathBuf {
    folder.join("socket")
}
