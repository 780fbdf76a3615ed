//! Each fault of the table on a real server, by its words; and files that change while connections are made.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::ports::testing_tls::{AUTHORITY, EC, LOCAL, TestCa, TlsServer, Wanted};

fn believing(ca_file: &Path) -> Tls {
    Tls { ca_file: Some(ca_file.into()), ..Tls::default() }
}

fn showing(ca: &TestCa, name: &str) -> Tls {
    let (cert_file, key_file) = (Some(ca.path(&format!("{name}.pem"))), Some(ca.path(&format!("{name}.key"))));
    Tls { cert_file, key_file, ..believing(&ca.ca_file()) }
}

fn context(files: Tls) -> Arc<TlsContext> {
    TlsContext::new("registry consul", files).unwrap()
}

/// A handshake, a question and the beginning of its answer: in TLS 1.3 a client learns only then that it is refused.
async fn ask(context: &Arc<TlsContext>, port: u16, host: &str) -> Result<(), TlsFailure> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = context.connect(stream, host).await?;
    let asked = async {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        stream.read_exact(&mut [0; 12]).await
    };
    asked.await.map(drop).map_err(|error| context.failed(&error).unwrap_or_else(|| panic!("{error:?} is not of TLS")))
}

async fn words(context: &Arc<TlsContext>, port: u16, host: &str) -> String {
    let failure = ask(context, port, host).await.unwrap_err();
    assert!(failure.needs_a_person, "{failure:?}");
    assert!(!failure.words.contains('\n') && failure.words.len() < 400, "{failure:?}");
    failure.words
}

#[tokio::test]
async fn each_certificate_that_is_not_believed_is_named_with_what_is_wrong_and_what_to_do() {
    let ca = TestCa::made();
    let rsa: &[&str] = &["rsa:1024"];
    let end = |until| Wanted { until, ..Wanted::default() };
    let with = |extensions| Wanted { extensions, ..Wanted::default() };
    for (what, wanted, expected) in [
        (
            "expired",
            end("20210203040506Z"),
            "the server's certificate `CN=server` expired at 2021-02-03T04:05:06Z: renew it on the server",
        ),
        ("early", Wanted { from: "20390101000000Z", ..Wanted::default() }, "is not valid before 2039-01-01T00:00:00Z"),
        ("cn", with("basicConstraints=CA:FALSE"), "`CN=server` has no subjectAltName, and a CN alone is not accepted"),
        (
            "other",
            with("subjectAltName=DNS:consul.corp,IP:10.0.0.1"),
            "is for `consul.corp`, `10.0.0.1`, not for `127.0.0.1`; name one of these by `tls: { server_name: NAME }`",
        ),
        ("v1", with(""), "is of X.509 version 1: make one of version 3, with a subjectAltName"),
        (
            "client",
            with("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=clientAuth"),
            "is not for servers: its extendedKeyUsage lacks serverAuth",
        ),
        ("weak", Wanted { key: rsa, ..Wanted::default() }, "has a weak key: RSA of 1024 bits"),
        (
            "sha1",
            Wanted { digest: "sha1", ..Wanted::default() },
            "is signed with SHA-1, which is not accepted any more",
        ),
        (
            "selfca",
            Wanted { by: None, extensions: &format!("{AUTHORITY}\nsubjectAltName=IP:127.0.0.1"), ..Wanted::default() },
            "`CN=server` is self-signed as a CA (CA:TRUE): make it with CA:FALSE",
        ),
    ] {
        let (certificate, key) = ca.make(what, wanted);
        let server = TlsServer::start(&certificate, &key, &[]);
        // A self-signed one is believed by name, and is none all the same.
        let believed = if what == "selfca" { certificate.clone() } else { ca.ca_file() };
        let context = context(believing(&believed));
        let words = words(&context, server.port, "127.0.0.1").await;
        // OpenSSL 3.6 makes one of version 3 all the same, without a name in it.
        let is_named = words.contains(expected) || what == "v1" && words.contains("has no subjectAltName");
        assert!(words.starts_with("TLS: the server's certificate ") && is_named, "{what}: {words}");
        assert!(context.seen().theirs.is_some_and(|theirs| theirs.subject == "CN=server"));
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_known_is_named_and_so_is_the_place_where_it_lacks() {
    let (ca, other) = (TestCa::made(), TestCa::made());
    ca.make("server", Wanted::default());
    ca.make("between", Wanted { subject: "/CN=Between", extensions: AUTHORITY, ..Wanted::default() });
    ca.make("below", Wanted { by: Some("between"), ..Wanted::default() });
    ca.make("alone", Wanted { by: None, ..Wanted::default() });
    let server = |name: &str| TlsServer::start(&ca.path(&format!("{name}.pem")), &ca.path(&format!("{name}.key")), &[]);

    let by_file = context(believing(&other.ca_file()));
    let below = words(&context(believing(&ca.ca_file())), server("below").port, "127.0.0.1").await;
    let has_not = format!("is issued by `CN=Between`, which {} does not have", ca.ca_file().display());
    assert!(below.contains(&has_not) && below.contains("let the server send its intermediate"), "{below}");
    let by_system = words(&context(Tls::default()), server("server").port, "127.0.0.1").await;
    assert!(by_system.contains("`CN=Test CA,O=Corp`, which the system's CA store does not have"), "{by_system}");
    assert!(by_system.contains("tls: { ca_file: PATH }"), "{by_system}");
    let alone = words(&by_file, server("alone").port, "127.0.0.1").await;
    assert!(alone.contains("`CN=server` is self-signed, and not in /"), "{alone}");
    // Another CA of the same name.
    let renamed = words(&by_file, server("server").port, "127.0.0.1").await;
    assert!(renamed.contains("not signed by `CN=Test CA,O=Corp`") || renamed.contains("is issued by"), "{renamed}");
    // What is between them, sent along, is enough.
    let whole = ca.path("whole.pem");
    let parts = ["below.pem", "between.pem"].map(|part| std::fs::read_to_string(ca.path(part)).unwrap());
    std::fs::write(&whole, parts.concat()).unwrap();
    let whole = TlsServer::start(&whole, &ca.path("below.key"), &["-cert_chain", whole.to_str().unwrap()]);
    ask(&context(believing(&ca.ca_file())), whole.port, "127.0.0.1").await.unwrap();
}

#[tokio::test]
async fn a_name_of_our_own_is_verified_and_asked_for() {
    let ca = TestCa::made();
    let (certificate, key) =
        ca.make("named", Wanted { extensions: "subjectAltName=DNS:consul.corp", ..Wanted::default() });
    let server = TlsServer::start(
        &certificate,
        &key,
        &["-servername", "consul.corp", "-servername_fatal", "-cert2"]
            .iter()
            .copied()
            .chain([certificate.to_str().unwrap(), "-key2", key.to_str().unwrap()])
            .collect::<Vec<_>>(),
    );
    let named = Tls { server_name: Some("consul.corp".into()), ..believing(&ca.ca_file()) };
    ask(&context(named), server.port, "127.0.0.1").await.unwrap();
    let unknown = Tls { server_name: Some("nomad.corp".into()), ..believing(&ca.ca_file()) };
    let unknown = words(&context(unknown), server.port, "127.0.0.1").await;
    assert!(unknown.contains("the server knows no such name"), "{unknown}");
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_is_told_from_one_that_refuses_ours() {
    let (ca, strange) = (TestCa::made(), TestCa::made());
    let (certificate, key) = ca.make("server", Wanted::default());
    let client = |extensions| Wanted { subject: "/CN=agent", extensions, ..Wanted::default() };
    ca.make("client", client("extendedKeyUsage=clientAuth"));
    strange.make("client", client("extendedKeyUsage=clientAuth"));
    let root = ca.ca_file();
    let wants = ["-Verify", "1", "-verify_return_error", "-CAfile", root.to_str().unwrap()];
    for version in ["-tls1_2", "-tls1_3"] {
        let server = TlsServer::start(&certificate, &key, &[&wants[..], &[version]].concat());
        let none = context(believing(&root));
        let says = words(&none, server.port, "127.0.0.1").await;
        let add = "add `tls: { cert_file: PATH, key_file: PATH }`";
        assert!(says.contains("the server wants a client certificate, and none is configured"), "{version}: {says}");
        assert!(says.contains(add) && none.seen().asks_for_ours, "{version}: {says}");

        let ours = context(showing(&ca, "client"));
        ask(&ours, server.port, "127.0.0.1").await.unwrap();
        assert_eq!(ours.seen().version, Some(if version == "-tls1_3" { "TLS 1.3" } else { "TLS 1.2" }));
        let all: Vec<(Whose, String)> =
            ours.certificates().into_iter().map(|(whose, certificate)| (whose, certificate.subject)).collect();
        let of = |whose, subject: &str| (whose, subject.to_owned());
        let expected =
            [of(Whose::Own, "CN=agent"), of(Whose::Authority, "CN=Test CA,O=Corp"), of(Whose::Theirs, "CN=server")];
        assert_eq!(all, expected);

        let theirs = context(Tls { ca_file: Some(root.clone()), ..showing(&strange, "client") });
        let says = words(&theirs, server.port, "127.0.0.1").await;
        assert!(says.contains("the server refuses our certificate `CN=agent` of /"), "{version}: {says}");
        assert!(says.contains("which ends at 2040-01-01T00:00:00Z"), "{version}: {says}");
    }
}

#[tokio::test]
async fn no_tls_and_no_common_version_are_said_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let says = words(&context(Tls::default()), port, "127.0.0.1").await;
    assert!(says.contains("no TLS there"), "{says}");
    plain.abort();
    let ca = TestCa::made();
    let (certificate, key) = ca.make("server", Wanted::default());
    let old = TlsServer::start(&certificate, &key, &["-tls1_1"]);
    let says = words(&context(believing(&ca.ca_file())), old.port, "127.0.0.1").await;
    assert!(says.contains("TLS 1.2 nor 1.3"), "{says}");
}

#[tokio::test]
async fn files_that_change_are_in_use_at_the_next_handshake_and_what_cannot_be_used_leaves_the_former() {
    let ca = TestCa::made();
    let (certificate, key) = ca.make("server", Wanted::default());
    let client = |subject| Wanted { subject, extensions: "extendedKeyUsage=clientAuth", ..Wanted::default() };
    ca.make("one", client("/CN=one"));
    ca.make("two", client("/CN=two"));
    let (root, put) = (ca.path("root.pem"), |from: &str, to: &str| {
        std::fs::copy(ca.path(from), ca.path(to)).unwrap();
    });
    for (from, to) in [("ca.pem", "root.pem"), ("one.pem", "ours.pem"), ("one.key", "ours.key")] {
        put(from, to);
    }
    let believed = ca.ca_file();
    let wants = ["-Verify", "1", "-verify_return_error", "-CAfile", believed.to_str().unwrap()];
    let server = TlsServer::start(&certificate, &key, &wants);
    let context = context(Tls { ca_file: Some(root.clone()), ..showing(&ca, "ours") });
    let own = || context.certificates().into_iter().find(|(whose, _)| *whose == Whose::Own).unwrap().1.subject;
    ask(&context, server.port, "127.0.0.1").await.unwrap();
    // A certificate whose key is not written yet.
    put("two.pem", "ours.pem");
    ask(&context, server.port, "127.0.0.1").await.unwrap();
    let torn = context.look().unwrap_err();
    assert!(own() == "CN=one" && torn.contains("is not the key of the certificate in"), "{torn}");
    put("two.key", "ours.key");
    ask(&context, server.port, "127.0.0.1").await.unwrap();
    assert!(own() == "CN=two" && context.look().is_ok());
    // A bundle that is cut, then one with another authority besides, then that one alone.
    let (bundle, other) = (std::fs::read_to_string(&root).unwrap(), TestCa::made());
    std::fs::write(&root, &bundle[..bundle.len() / 2]).unwrap();
    ask(&context, server.port, "127.0.0.1").await.unwrap();
    assert!(context.look().unwrap_err().contains("END line"));
    let new = std::fs::read_to_string(other.ca_file()).unwrap();
    std::fs::write(&root, format!("{bundle}{new}")).unwrap();
    ask(&context, server.port, "127.0.0.1").await.unwrap();
    std::fs::write(&root, new).unwrap();
    words(&context, server.port, "127.0.0.1").await;
    // What is wrong with the files stands beside the failure that it may be the cause of.
    std::fs::write(&root, "no PEM").unwrap();
    let says = words(&context, server.port, "127.0.0.1").await;
    assert!(says.contains("the former files are in use: ") && says.contains("holds no PEM certificate"), "{says}");
    std::fs::remove_file(&root).unwrap();
    assert!(context.look().unwrap_err().contains("root.pem: No such file"));
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let ca = TestCa::made();
    ca.make("one", Wanted::default());
    ca.make("two", Wanted::default());
    let file = |name: &str, text: &[u8]| -> PathBuf {
        std::fs::write(ca.path(name), text).unwrap();
        std::fs::set_permissions(ca.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        ca.path(name)
    };
    ca.openssl(&["pkey", "-in", "one.key", "-aes256", "-passout", "pass:hush", "-out", "closed.key"]);
    ca.openssl(&["x509", "-in", "one.pem", "-outform", "DER", "-out", "one.der"]);
    let pair =
        |cert: &str, key: &str| Tls { cert_file: Some(ca.path(cert)), key_file: Some(ca.path(key)), ..Tls::default() };
    let key = std::fs::read_to_string(ca.path("one.key")).unwrap();
    for (files, says) in [
        (believing(&file("empty.pem", b"")), "empty.pem: holds no PEM certificate"),
        (believing(&ca.path("one.der")), "one.der: holds no PEM certificate"),
        (believing(&ca.path("one.key")), "one.key: holds no PEM certificate"),
        (believing(&file("cut.pem", b"-----BEGIN CERTIFICATE-----\nMIIB\n")), "END line is missing"),
        (believing(Path::new("/nowhere/ca.pem")), "/nowhere/ca.pem: No such file"),
        (pair("one.pem", "two.key"), "two.key: is not the key of the certificate in"),
        (pair("one.pem", "closed.key"), "closed.key: the key is encrypted"),
        (pair("one.pem", "one.pem"), "one.pem: refused: unwait runs as root, and the file is open to others"),
        (
            Tls { key_file: Some(file("none.key", b"hush")), ..pair("one.pem", "") },
            "none.key: holds no PEM private key",
        ),
    ] {
        let wrong = TlsContext::new("registry consul", files).unwrap_err();
        assert!(wrong.contains(says) && !wrong.contains("hush"), "{wrong}");
        assert!(!key.lines().any(|line| wrong.contains(line)), "{wrong}");
    }
    for kind in [EC, &["rsa:2048"]] {
        ca.make("ours", Wanted { key: kind, extensions: LOCAL, ..Wanted::default() });
        // PKCS#8, and the older PKCS#1 and SEC1.
        context(pair("ours.pem", "ours.key"));
        ca.openssl(&["pkey", "-in", "ours.key", "-traditional", "-out", "old.key"]);
        context(pair("ours.pem", "old.key"));
    }
}
