//! The socket of a plugin, with TLS if the agent asks for that.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use qhost_tests::{
    command,
    nomad::{
        Plugin, plugin_command,
        tls::{Certificate, Pair},
    },
};

use crate::qhost;

/// Each side takes the certificate of the other and no other, as OpenSSL sees it too.
#[test]
fn tls_where_the_agent_asks_for_it() {
    let qhost = qhost();
    let plugin = Plugin::launch_with_tls(&qhost, Certificate::new());
    assert_eq!(plugin.info().name, "qhost");
    let pair = plugin.tls.clone().unwrap();
    // This is another program of the agent's user, without the agent's key.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = Pair { agent: Certificate::new(), plugin: pair.plugin.clone() };
    let answered = runtime.block_on(async {
        use tokio::io::AsyncReadExt as _;
        // With TLS 1.3 a client hears of the refusal when it reads.
        other.connect(plugin.socket()).await?.read_u8().await
    });
    answered.unwrap_err();
    // This client uses no TLS.
    let mut plain = UnixStream::connect(plugin.socket()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = vec![];
    // The answer is an alert of TLS at most.
    let read = plain.read_to_end(&mut answer);
    assert!(read.is_err() || answer.first().is_none_or(|first| *first == 21), "{answer:?}");
    // OpenSSL shares neither this program's rules nor its libraries.
    let (certificate, key) = pair.agent.write_to(qhost.folder());
    let authority = qhost.folder().join("plugin.pem");
    let encoded = BASE64_STANDARD.encode(pair.plugin_der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n");
    std::fs::write(&authority, pem).unwrap();
    let mut client = command("openssl");
    client.args(["s_client", "-brief", "-verify_return_error", "-verify_hostname", "localhost"]);
    client.args(["-alpn", "h2", "-unix"]).arg(plugin.socket());
    client.arg("-cert").arg(certificate).arg("-key").arg(key).arg("-CAfile").arg(authority);
    let greeted = client.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&greeted.stderr).into_owned();
    assert!(greeted.status.success() && said.contains("Verification: OK"), "{said}");
    assert_eq!(plugin.info().name, "qhost", "it serves on");
    plugin.leave();
    // A value that is no certificate is refused before there is a socket.
    let output = plugin_command(&qhost).env("PLUGIN_CLIENT_CERT", "none").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("PLUGIN_CLIENT_CERT"), "{said}");
}
