//! HTTP as the adapters here speak it: no proxies, no redirects, no idle connections kept, bounded answers, and
//! errors that never show an address, since an address may be a credential.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Response, Url};

/// An answer longer than this is refused: a catalog of some 10,000 instances, at 800 B each, still fits.
pub(super) const MAX_ANSWER_BYTES: usize = 8 << 20;

/// For a connection: a round trip, and time for its packet to be sent once more after a second. Where nobody is, nothing was
/// done, and another member may be asked.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Reads an address without ever repeating it in the error.
pub(super) fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .map_err(|error| format!("the url cannot be read ({error}); expected http://HOST:PORT or https://HOST/PATH"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err("the url names no host".into()),
        _ => Err("the url must begin with http:// or https://".into()),
    }
}

/// A client for this address, each of whose calls ends by `deadline`.
///
/// Plain http is given no certificate roots: a host that has none installed is no reason to fail there.
/// A connection is closed after its answer: this agent least of all should hold idle ones.
pub(super) fn client(url: &Url, deadline: Duration) -> Result<Client, String> {
    let builder = plain(deadline);
    let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    built(builder)
}

/// The same, that believes only servers whose certificates one of these PEM certificates has signed.
pub(super) fn client_trusting(pem: &[u8], deadline: Duration) -> Result<Client, String> {
    let authorities = Certificate::from_pem_bundle(pem).map_err(failure)?;
    match authorities.is_empty() {
        true => Err("it holds no PEM certificate".into()),
        false => built(plain(deadline).tls_certs_only(authorities)),
    }
}

/// The servers of one cluster, each of which answers for all of them. The one that answered last is asked first.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<(Client, Url)>,
    last: AtomicUsize,
}

impl Members {
    /// `urls` has at least one address; each call ends by `deadline`.
    pub fn new(urls: &[String], deadline: Duration) -> Result<Self, String> {
        let member = |url: &String| {
            let base = address(url)?;
            Ok((client(&base, deadline)?, base))
        };
        let members = urls.iter().map(member).collect::<Result<Vec<_>, String>>()?;
        if members.is_empty() {
            return Err("no address is given; expected http://HOST:PORT".into());
        }
        Ok(Self { members, last: AtomicUsize::new(0) })
    }

    /// Asks one member; where its error may pass (it does not answer, or fails), the next one, until each had its turn. The
    /// error is that of the last. So what is asked may be done twice, and must be harmless then.
    pub async fn ask<T, E, F>(
        &self,
        call: impl Fn(Client, Url) -> F + Send + Sync,
        may_pass: impl Fn(&E) -> bool + Send + Sync,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
    {
        let first = self.last.load(Ordering::Relaxed);
        let mut turn = 0;
        loop {
            let at = (first + turn) % self.members.len();
            let (client, base) = self.members[at].clone();
            match call(client, base).await {
                Err(error) if may_pass(&error) && turn + 1 < self.members.len() => turn += 1,
                answer => {
                    if answer.is_ok() {
                        self.last.store(at, Ordering::Relaxed);
                    }
                    return answer;
                }
            }
        }
    }
}

/// A client whose every request goes to a server of this host by its unix socket, whatever host its URL names.
pub(super) fn local(socket: &Path, deadline: Duration) -> Result<Client, String> {
    built(plain(deadline).tls_certs_only([]).unix_socket(socket))
}

fn plain(deadline: Duration) -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .pool_max_idle_per_host(0)
        .timeout(deadline)
        .connect_timeout(deadline.min(CONNECT_DEADLINE))
        .user_agent(concat!("unwait/", env!("CARGO_PKG_VERSION")))
}

fn built(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|error| format!("no http client: {}", failure(error)))
}

/// What went wrong, from the innermost cause, without the address.
pub(super) fn failure(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer within the deadline".into();
    }
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The whole body, where it is at most `limit` bytes.
pub(super) async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if bytes.len() + chunk.len() > limit {
            return Err(format!("the answer is longer than {limit} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_being_shown() {
        for wrong in ["", "hooks.test/T0/secret", "ftp://hooks.test/secret", "http://", "unix:///secret.sock"] {
            let error = address(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{wrong}: {error}");
        }
        assert!(address("https://hooks.test/T0/B0/x\n").is_ok());
    }

    #[tokio::test]
    async fn the_next_member_answers_for_one_that_fails_and_is_asked_first_from_then_on() {
        let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"].map(String::from);
        let members = Members::new(&urls, Duration::from_secs(1)).unwrap();
        let asked = std::sync::Mutex::new(Vec::new());
        let ask = |answering: Option<u16>, may_pass: bool| {
            let asked = &asked;
            members.ask(
                move |_, base| {
                    let port = base.port().unwrap();
                    asked.lock().unwrap().push(port);
                    async move { if Some(port) == answering { Ok(port) } else { Err(port) } }
                },
                move |_: &u16| may_pass,
            )
        };
        assert_eq!(ask(Some(2), true).await, Ok(2));
        assert_eq!(ask(Some(2), true).await, Ok(2));
        assert_eq!(ask(None, true).await, Err(1), "each has had its turn");
        assert_eq!(ask(None, false).await, Err(2), "no other member would say otherwise");
        assert_eq!(*asked.lock().unwrap(), [1, 2, 2, 2, 3, 1, 2]);
        assert!(Members::new(&[], Duration::from_secs(1)).is_err());
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_without_the_address() {
        let url = address("http://user:secret@127.0.0.1:1/secret?token=secret").unwrap();
        let error = client(&url, Duration::from_secs(1)).unwrap().get(url).send().await.unwrap_err();
        let text = failure(error);
        assert!(text.contains("refused") && !text.contains("secret"), "{text}");
    }
}
