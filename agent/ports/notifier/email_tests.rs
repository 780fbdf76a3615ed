//! A mail server as Postfix answers, plain and by STARTTLS; TLS from the first byte is a proxy before it.

use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::email::Email;
use super::tests::{message, via};
use super::{DeliveryError, Letter, Notifier, ThreadKey};
use crate::model::message::{MailServer, MailTls};
use crate::model::{Message, Tls};
use crate::ports::Via;
use crate::ports::testing_tls::{TestCa, TlsProxy, Wanted};
use crate::ports::tls::TlsContext;

const PASSWORD: &str = "hush-mail-91";
/// `\0unwait\0hush-mail-91`
const PLAIN: &str = "AHVud2FpdABodXNoLW1haWwtOTE=";

#[derive(Clone, Default)]
struct Postfix {
    tls: Option<Arc<ServerConfig>>,
    wants_login: bool,
    /// What it answers to this command in place of a yes.
    says: Option<(&'static str, &'static str)>,
    mails: Arc<Mutex<Vec<String>>>,
}

impl Postfix {
    async fn start(self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.clone().greet(stream));
            }
        });
        port
    }

    async fn greet(self, mut stream: TcpStream) {
        let greeting = self.answer("greeting").unwrap_or("220 mail.test ESMTP Postfix");
        stream.write_all(format!("{greeting}\r\n").as_bytes()).await.unwrap();
        let Some(config) = self.tls.clone() else {
            self.serve(stream, false).await;
            return;
        };
        let mut stream = self.serve(stream, true).await.expect("the client asks for TLS");
        stream.write_all(b"220 2.0.0 Ready to start TLS\r\n").await.unwrap();
        if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
            self.serve(stream, false).await;
        }
    }

    fn answer(&self, command: &str) -> Option<&'static str> {
        self.says.filter(|(to, _)| *to == command).map(|(_, says)| says)
    }

    /// Up to the end, or to STARTTLS, whose stream it gives back.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, before_tls: bool) -> Option<S> {
        let mut stream = BufReader::new(stream);
        let mut known = !self.wants_login;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let command = line.split([' ', '\r']).next().unwrap_or_default().to_owned();
            let answer = match command.as_str() {
                said if self.answer(said).is_some() => self.answer(said).unwrap().to_owned(),
                "EHLO" if before_tls => "250-mail.test\r\n250-8BITMIME\r\n250 STARTTLS".into(),
                "EHLO" if self.wants_login => "250-mail.test\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN".into(),
                "EHLO" => "250-mail.test\r\n250 8BITMIME".into(),
                "STARTTLS" => return Some(stream.into_inner()),
                _ if before_tls => "530 5.7.0 Must issue a STARTTLS command first".into(),
                "AUTH" if line.trim_end() == format!("AUTH PLAIN {PLAIN}") => {
                    known = true;
                    "235 2.7.0 Authentication successful".into()
                }
                "AUTH" => "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6".into(),
                _ if !known => "530 5.7.0 Authentication required".into(),
                "DATA" => {
                    stream.write_all(b"354 End data with <CR><LF>.<CR><LF>\r\n").await.ok()?;
                    let mut mail = String::new();
                    while !mail.ends_with("\r\n.\r\n") {
                        if stream.read_line(&mut mail).await.ok()? == 0 {
                            return None;
                        }
                    }
                    self.mails.lock().unwrap().push(mail);
                    "250 2.0.0 Ok: queued as 4F2A".into()
                }
                "QUIT" => "221 2.0.0 Bye".into(),
                _ => "250 2.1.0 Ok".into(),
            };
            stream.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
        }
    }
}

fn email(port: u16, tls: MailTls, password: Option<&str>, via: Via) -> Email {
    let login = password.map(|password| ("unwait".to_owned(), password.to_owned().into()));
    let server = MailServer { host: "127.0.0.1".into(), port, tls };
    let to = ["sre@corp.test".to_owned(), "Ops <ops@corp.test>".to_owned()];
    Email::new(server, "unwait <unwait@corp.test>", &to, login, via, "bj1_03.corp").unwrap()
}

async fn told(postfix: &Postfix, password: Option<&str>) -> Result<Option<ThreadKey>, DeliveryError> {
    let email = email(postfix.clone().start().await, MailTls::None, password, via());
    let told = email.deliver(Letter::new("m-1", &message())).await;
    assert!(!format!("{told:?} {email:?}").contains(PASSWORD), "{told:?}");
    told
}

#[tokio::test]
async fn a_mail_says_whom_it_is_of_and_what_follows_refers_to_it() {
    let postfix = Postfix::default();
    let email = email(postfix.clone().start().await, MailTls::None, None, via());
    let first = email.deliver(Letter::new("m-1", &message())).await.unwrap().unwrap();
    assert_eq!(first, ThreadKey("<m-1@bj1-03.corp>".into()));
    let chinese =
        Message { title: "已恢复\r\nBcc: all@corp.test".into(), lines: vec!["连接泄漏".into()], ..message() };
    let letter = Letter { thread: Some(&first), ..Letter::new("m-2", &chinese) };
    assert_eq!(email.deliver(letter).await, Ok(None));

    let all = postfix.mails.lock().unwrap();
    assert_eq!(all.len(), 4, "each to both, by itself");
    let mails: Vec<&String> = all.iter().step_by(2).collect();
    for expected in [
        "From: unwait <unwait@corp.test>\r\n",
        "To: sre@corp.test, Ops <ops@corp.test>\r\n",
        "Subject: rpc-order.service: restarted & back in traffic\r\n",
        "Message-ID: <m-1@bj1-03.corp>\r\n",
        "Date: Sun, 22 Nov 2026 18:43:29 +0000\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "Content-Type: text/plain; charset=utf-8\r\n",
        "\r\n\r\n288 sockets in CLOSE_WAIT > 200\r\n",
    ] {
        assert!(mails[0].contains(expected), "{expected} in {}", mails[0]);
    }
    assert!(!mails[0].contains("In-Reply-To"));
    assert!(mails[1].contains("In-Reply-To: <m-1@bj1-03.corp>\r\nReferences: <m-1@bj1-03.corp>\r\n"), "{}", mails[1]);
    assert!(mails[1].is_ascii() && !mails[1].contains("\nBcc"), "{}", mails[1]);
}

#[tokio::test]
async fn a_refusal_has_the_servers_words_and_what_may_pass_is_tried_later() {
    for (says, is_later, words) in [
        (("RCPT", "550 5.1.1 <sre@corp.test>: Recipient address rejected: User unknown"), true, "User unknown"),
        (("RCPT", "451 4.7.1 Greylisting in action, please come back later"), true, "Greylisting"),
        (("MAIL", "452 4.3.1 Insufficient system storage"), true, "Insufficient system storage"),
        (("greeting", "421 4.3.2 Service not available"), true, "Service not available"),
        (("greeting", "HTTP/1.1 400 Bad Request"), true, ""),
    ] {
        let told = told(&Postfix { says: Some(says), ..Postfix::default() }, None).await;
        let Err(error) = &told else { panic!("{says:?}: {told:?}") };
        assert_eq!(matches!(error, DeliveryError::Later { .. }), is_later, "{says:?}: {error}");
        assert!(error.to_string().starts_with("email: ") && error.to_string().contains(words), "{error}");
    }
    let away = email(1, MailTls::None, None, via()).deliver(Letter::new("m-1", &message())).await;
    assert!(matches!(away, Err(DeliveryError::Later { .. })), "{away:?}");
}

#[tokio::test]
async fn a_login_that_is_refused_is_tried_again_since_a_person_may_mend_it() {
    let postfix = Postfix { wants_login: true, ..Postfix::default() };
    told(&postfix, Some(PASSWORD)).await.unwrap();
    for (password, words) in [(Some("hush-wrong"), "authentication failed"), (None, "Authentication required")] {
        let Err(DeliveryError::Later { detail, .. }) = told(&postfix, password).await else { panic!("{password:?}") };
        assert!(detail.contains(words), "{detail}");
    }
    let Err(DeliveryError::Later { detail, .. }) = told(&Postfix::default(), Some(PASSWORD)).await else { panic!() };
    assert!(detail.contains("authentication mechanism"), "{detail}");
}

#[tokio::test]
async fn tls_is_the_hosts_own_from_the_first_byte_and_by_starttls() {
    let ca = TestCa::made();
    let (certificate, key) = ca.make("server", Wanted::default());
    let believing = || Tls { ca_file: Some(ca.ca_file()), ..Tls::default() };
    let by = |tls: Tls| Via::from(TlsContext::new("notify email", tls).unwrap());
    let plain = Postfix { wants_login: true, ..Postfix::default() };
    let front = ([127, 0, 0, 1], plain.clone().start().await).into();
    let implicit = TlsProxy::start(front, &certificate, &key, None).await;
    let upgrading = Postfix { tls: Some(TlsProxy::config(&certificate, &key, None)), ..plain.clone() };
    let starttls = upgrading.start().await;
    for (port, tls) in [(implicit.port, MailTls::Implicit), (starttls, MailTls::StartTls)] {
        let trusted = email(port, tls, Some(PASSWORD), by(believing()));
        trusted.deliver(Letter::new("m-1", &message())).await.unwrap();
        let unknown =
            email(port, tls, Some(PASSWORD), by(Tls::default())).deliver(Letter::new("m-1", &message())).await;
        let Err(DeliveryError::Later { detail, .. }) = unknown else { panic!("{tls:?}: {unknown:?}") };
        assert!(detail.contains("which the system's CA store does not have"), "{detail}");
    }
    assert_eq!(plain.mails.lock().unwrap().len(), 4, "one to each of both, by each way");

    // Nothing is sent in plain text where TLS was asked for.
    let without = email(Postfix::default().start().await, MailTls::StartTls, Some(PASSWORD), by(believing()));
    let told = without.deliver(Letter::new("m-1", &message())).await;
    assert!(told.is_err(), "{told:?}");
}
