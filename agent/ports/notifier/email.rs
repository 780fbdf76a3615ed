//! E-mail by SMTP (RFC 5321): one message a delivery, to all its recipients.
//!
//! `smtps://` is TLS from the first byte (RFC 8314), `smtp://` is STARTTLS (RFC 3207) and never goes on without, but in plain text to a relay on
//! this host. TLS is the agent's own, so the files and rules of `tls:` are those of every other connection. Taken is 250 behind
//! the message. 4xx and 5xx are tried later: a person may mend both. An incident is a thread: what follows its first message refers to it
//! (RFC 5322, section 3.6.4).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message as Mail};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;

use super::destination::first_line;
use super::text::{cut, facts, title, utf8};
use super::{DeliveryError, Letter, Notifier, Pace, ThreadKey};
use crate::model::message::{MailServer, MailTls};
use crate::ports::Via;

/// For the whole dialogue.
const DEADLINE: Duration = Duration::from_secs(12);
const SUBJECT_BYTES: usize = 400;
const TEXT_BYTES: usize = 100_000;
/// Of an answer before TLS.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

#[derive(Debug)]
pub struct Email {
    server: MailServer,
    from: Mailbox,
    to: Vec<Mailbox>,
    login: Option<(String, SecretString)>,
    via: Via,
    /// How we greet, and what stands behind the `@` of our messages' ids.
    host: String,
}

impl Email {
    /// Refused where an address is none.
    pub fn new(
        server: MailServer,
        from: &str,
        to: &[String],
        login: Option<(String, SecretString)>,
        via: Via,
        host: &str,
    ) -> Result<Self, DeliveryError> {
        let mailbox = |text: &str| {
            text.parse().map_err(|error| DeliveryError::Refused { detail: format!("email: {text:?}: {error}") })
        };
        let to = to.iter().map(|to| mailbox(to)).collect::<Result<_, _>>()?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let host = host.chars().map(plain).collect();
        Ok(Self { server, from: mailbox(from)?, to, login, via, host })
    }

    fn later(&self, words: &str) -> DeliveryError {
        DeliveryError::Later { after: None, detail: self.shown(words) }
    }

    fn refused(&self, words: &str) -> DeliveryError {
        DeliveryError::Refused { detail: self.shown(words) }
    }

    fn shown(&self, words: &str) -> String {
        let secret = self.login.iter().map(|(_, password)| password.expose_secret().to_owned());
        format!("email: {}", first_line(words, secret.collect()))
    }

    /// What the server does not take now it may take later: a person may mend a login, a mailbox, a server.
    fn failed(&self, error: &SmtpError) -> DeliveryError {
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            words = format!("{words}: {inner}");
            cause = inner.source();
        }
        self.later(&words)
    }

    fn mail(&self, letter: Letter<'_>) -> Result<(String, Mail), DeliveryError> {
        let id = format!("<{}@{}>", letter.id, self.host);
        let subject = cut(&title(letter.message), SUBJECT_BYTES, utf8).replace(|c: char| c.is_control(), " ");
        let text = format!("{}\n\n{}\n", letter.message.lines.join("\n"), facts(letter.message));
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted"); // RFC 3834
        let mut mail = Mail::builder()
            .from(self.from.clone())
            .subject(subject)
            .date(SystemTime::from(letter.message.at))
            .message_id(Some(id.clone()))
            .raw_header(HeaderValue::new(automatic, "auto-generated".into()))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        if let Some(ThreadKey(first)) = letter.thread {
            mail = mail.in_reply_to(first.clone()).references(first.clone());
        }
        let mail = mail.body(cut(text.trim_start(), TEXT_BYTES, utf8));
        Ok((id, mail.map_err(|error| self.refused(&error.to_string()))?))
    }

    /// A connection on which the server has greeted, or is taken to have.
    async fn connect(&self) -> Result<Box<dyn AsyncTokioStream>, DeliveryError> {
        let MailServer { host, port, tls } = &self.server;
        let io = |error: io::Error| self.later(&error.to_string());
        let mut stream = TcpStream::connect((host.as_str(), *port)).await.map_err(io)?;
        let peer = stream.peer_addr().map_err(io)?;
        match tls {
            MailTls::None => return Ok(Box::new(stream)),
            MailTls::Implicit => {}
            MailTls::StartTls => self.starttls(&mut stream).await?,
        }
        let stream = self.via.tls.connect(stream, host).await.map_err(|failure| self.later(&failure.words))?;
        let greeting: &[u8] = if *tls == MailTls::StartTls { b"220 TLS\r\n" } else { b"" };
        Ok(Box::new(Wire { greeting, stream, peer }))
    }

    /// Up to where TLS begins.
    async fn starttls(&self, stream: &mut TcpStream) -> Result<(), DeliveryError> {
        let io = |error: io::Error| self.later(&error.to_string());
        for (says, expected) in [("", "220"), (&*format!("EHLO {}\r\n", self.host), "250"), ("STARTTLS\r\n", "220")] {
            stream.write_all(says.as_bytes()).await.map_err(io)?;
            let answer = answer(stream).await.map_err(io)?;
            if !answer.starts_with(expected) {
                let words = format!("{} answered {answer}", says.split_whitespace().next().unwrap_or("the greeting"));
                return Err(self.later(&words));
            }
        }
        Ok(())
    }

    async fn greeted(&self) -> Result<AsyncSmtpConnection, DeliveryError> {
        let stream = self.connect().await?;
        let failed = |error| self.failed(&error);
        let hello = ClientId::Domain(self.host.clone());
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &hello).await.map_err(failed)?;
        if let Some((user, password)) = &self.login {
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(failed)?;
        }
        Ok(connection)
    }

    /// To each by itself: a mailbox that is gone costs the others nothing. It is taken where the server takes it for one.
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        let formatted = mail.formatted();
        let (mut open, mut taken, mut failure) = (None, false, None);
        for to in mail.envelope().to() {
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => self.greeted().await?,
            };
            let envelope = Envelope::new(mail.envelope().from().cloned(), vec![to.clone()]);
            let envelope = envelope.map_err(|error| self.refused(&error.to_string()))?;
            match connection.send(&envelope, &formatted).await {
                Ok(_) => {
                    taken = true;
                    open = Some(connection);
                }
                Err(error) => {
                    let error = self.failed(&error);
                    tracing::warn!(%to, %error, "the mail server does not take a message for {to}: {error}");
                    failure.get_or_insert(error);
                }
            }
        }
        if let Some(mut connection) = open {
            // It is taken, whatever the server says to that.
            let _ = connection.quit().await;
        }
        match failure {
            Some(error) if !taken => Err(error),
            _ => Ok(()),
        }
    }
}

/// The last line of an answer. No byte behind it is read: what comes next is TLS.
async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut lines = BufReader::with_capacity(1, stream).take(MAX_ANSWER_BYTES);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the connection"));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line);
        }
    }
}

#[async_trait]
impl Notifier for Email {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let (id, mail) = self.mail(letter)?;
        match tokio::time::timeout(DEADLINE, self.send(mail)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(self.later("no answer within 12s")),
        }
        Ok(letter.thread.is_none().then_some(ThreadKey(id)))
    }

    fn pace(&self) -> Pace {
        Pace { every: Duration::from_secs(2), joined_bytes: Some(20_000) }
    }
}

/// A connection as lettre takes it, which waits for a greeting. Behind STARTTLS no server greets again.
#[derive(Debug)]
struct Wire<S> {
    greeting: &'static [u8],
    stream: S,
    peer: SocketAddr,
}

impl<S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Sync + Unpin> AsyncTokioStream for Wire<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let (now, rest) = self.greeting.split_at(self.greeting.len().min(buf.remaining()));
        buf.put_slice(now);
        self.greeting = rest;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
