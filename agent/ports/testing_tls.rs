//! Certificates for the tests, good and bad, made by openssl; and a TLS server that shows them.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A directory with the authority `CN=Test CA,O=Corp`, and what it issues.
#[derive(Debug)]
pub struct TestCa {
    dir: tempfile::TempDir,
}

/// A certificate to be made; what is left out is as a careful person would have it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub subject: &'a str,
    /// Lines of its extensions; none make version 1.
    pub extensions: &'a str,
    /// As `20260101000000Z`.
    pub from: &'a str,
    pub until: &'a str,
    /// What `openssl req` makes the key of.
    pub key: &'a [&'a str],
    pub digest: &'a str,
    /// Whose files sign it, or its own.
    pub by: Option<&'a str>,
}

pub const LONG_AGO: &str = "20200101000000Z";
pub const FAR_AWAY: &str = "20400101000000Z";
pub const EC: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign,digitalSignature";
/// Of a server on this machine's loopback.
pub const LOCAL: &str = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1";

impl Default for Wanted<'_> {
    fn default() -> Self {
        let (from, until) = (LONG_AGO, FAR_AWAY);
        Self { subject: "/CN=server", extensions: LOCAL, from, until, key: EC, digest: "sha256", by: Some("ca") }
    }
}

impl TestCa {
    pub fn made() -> Self {
        let ca = Self { dir: tempfile::tempdir().unwrap() };
        let policy = "[p]\norganizationName=optional\ncommonName=optional\n";
        let database = "[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\npolicy=p\nunique_subject=no\n";
        std::fs::write(ca.path("ca.cnf"), format!("[ca]\ndefault_ca=d\n{database}{policy}")).unwrap();
        std::fs::write(ca.path("index.txt"), "").unwrap();
        ca.make("ca", Wanted { subject: "/O=Corp/CN=Test CA", extensions: AUTHORITY, by: None, ..Wanted::default() });
        ca
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The authority's own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Makes `NAME.pem` and `NAME.key`.
    pub fn make(&self, name: &str, wanted: Wanted<'_>) -> (PathBuf, PathBuf) {
        let (key, request, made) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let mut req = vec!["req", "-newkey"];
        req.extend(wanted.key);
        req.extend(["-nodes", "-subj", wanted.subject, "-keyout", &key, "-out", &request]);
        self.openssl(&req);
        let (by_cert, by_key) =
            (format!("{}.pem", wanted.by.unwrap_or_default()), format!("{}.key", wanted.by.unwrap_or_default()));
        let mut ca = vec!["ca", "-batch", "-notext", "-config", "ca.cnf", "-in", &request, "-out", &made];
        ca.extend(["-startdate", wanted.from, "-enddate", wanted.until, "-md", wanted.digest]);
        match wanted.by {
            Some(_) => ca.extend(["-cert", &by_cert, "-keyfile", &by_key]),
            None => ca.extend(["-selfsign", "-keyfile", &key]),
        }
        std::fs::write(self.path("x.ext"), format!("[x]\n{}\n", wanted.extensions)).unwrap();
        if !wanted.extensions.is_empty() {
            ca.extend(["-extfile", "x.ext", "-extensions", "x"]);
        }
        self.openssl(&ca);
        std::fs::set_permissions(self.path(&key), Permissions::from_mode(0o600)).unwrap();
        (self.path(&made), self.path(&key))
    }

    pub fn openssl(&self, words: &[&str]) {
        let ended = Command::new("openssl").args(words).current_dir(self.dir.path()).stdin(Stdio::null()).output();
        let ended = ended.unwrap_or_else(|error| panic!("openssl: {error}: `tests/run` installs it"));
        assert!(ended.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// `openssl s_server` with one certificate; answers each GET with a page of its own.
#[derive(Debug)]
pub struct TlsServer {
    child: Child,
    pub port: u16,
}

impl TlsServer {
    /// `more` are further options of `s_server`. What is wrong with the certificate is nothing to the server itself.
    pub fn start(certificate: &Path, key: &Path, more: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-cipher", "DEFAULT@SECLEVEL=0", "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("openssl: {error}: `tests/run` installs it"));
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = says.map_while(Result::ok).find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:")?.parse().ok());
        Self { port: port.expect("openssl says where it listens"), child }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Speaks TLS before a server that does not, and shows and asks for what the test says at each connection.
#[derive(Debug)]
pub struct TlsProxy {
    shown: Arc<Mutex<Arc<ServerConfig>>>,
    task: tokio::task::JoinHandle<()>,
    pub port: u16,
}

impl TlsProxy {
    /// Before `to`, with this certificate and key; of clients it wants certificates that `authority` has issued.
    pub async fn start(to: SocketAddr, certificate: &Path, key: &Path, authority: Option<&Path>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = Arc::new(Mutex::new(Self::config(certificate, key, authority)));
        let shows = Arc::clone(&shown);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let config = Arc::clone(&shows.lock().unwrap());
                tokio::spawn(async move {
                    let Ok(mut near) = TlsAcceptor::from(config).accept(stream).await else { return };
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { shown, task, port }
    }

    /// From the next connection on.
    pub fn show(&self, certificate: &Path, key: &Path, authority: Option<&Path>) {
        *self.shown.lock().unwrap() = Self::config(certificate, key, authority);
    }

    pub fn config(certificate: &Path, key: &Path, authority: Option<&Path>) -> Arc<ServerConfig> {
        let read = |file: &Path| CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match authority {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(read(file));
                let roots = Arc::new(roots);
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap(),
                )
            }
        };
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        Arc::new(builder.with_single_cert(read(certificate), key).unwrap())
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A proxy of HTTP, as tinyproxy is one: it takes `CONNECT`, and requests for whole addresses. Says what it was asked for.
pub async fn http_proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let notes = Arc::clone(&notes);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let line = head.lines().next().unwrap_or_default().to_owned();
                notes.lock().unwrap().push(line.clone());
                let Some(to) = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else { return };
                let mut far = TcpStream::connect(to).await.unwrap();
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, asked)
}
