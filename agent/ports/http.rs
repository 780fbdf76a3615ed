//! HTTP as the adapters here speak it: no redirects, no idle connections kept, no proxy that nobody named here, bounded
//! answers, and errors that never show an address, since an address may be a credential.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{ClientBuilder, Method, Proxy, RequestBuilder, Response, Url};

use super::tls::TlsContext;

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

/// How a server is reached, beside its address.
#[derive(Clone, Debug)]
pub struct Via {
    pub tls: Arc<TlsContext>,
    /// `http://HOST:PORT`; the environment's are never taken.
    pub proxy: Option<String>,
}

impl From<Arc<TlsContext>> for Via {
    /// Directly.
    fn from(tls: Arc<TlsContext>) -> Self {
        Self { tls, proxy: None }
    }
}

/// The addresses of a server, or of the members of one cluster, and how they are reached: `http://HOST:PORT`, `https://…`, or
/// `unix:///PATH` of a server of this host.
#[derive(Clone, Debug)]
pub struct Servers {
    pub urls: Vec<String>,
    pub via: Via,
}

/// Directly, and by the system's CA store.
impl From<&[String]> for Servers {
    fn from(urls: &[String]) -> Self {
        Self { urls: urls.to_vec(), via: TlsContext::plain("a server").into() }
    }
}

impl From<&Vec<String>> for Servers {
    fn from(urls: &Vec<String>) -> Self {
        urls.as_slice().into()
    }
}

impl<const N: usize> From<&[String; N]> for Servers {
    fn from(urls: &[String; N]) -> Self {
        urls.as_slice().into()
    }
}

impl From<&str> for Servers {
    fn from(url: &str) -> Self {
        [url.to_owned()].as_slice().into()
    }
}

impl From<&String> for Servers {
    fn from(url: &String) -> Self {
        url.as_str().into()
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: FailureKind,
    /// From the innermost cause, without the address.
    pub words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Nothing arrived there.
    NotReached,
    /// Its name has no address, or none is known now; nothing arrived anywhere.
    NoSuchName,
    /// No answer by the deadline; what was asked may have been done.
    Silent,
    /// The connection ended before the answer; what was asked may have been done.
    Broken,
    /// TLS: one side does not believe the other. Nothing was done, and a person must look.
    Distrusted,
}

impl Failure {
    fn of(error: reqwest::Error, tls: Option<&TlsContext>) -> Self {
        let (is_apart, is_late) = (error.is_connect(), error.is_timeout());
        let failed = tls.and_then(|tls| tls.failed(&error));
        let kind = match &failed {
            Some(failed) if failed.needs_a_person => FailureKind::Distrusted,
            _ if is_apart && is_of_dns(&error) => FailureKind::NoSuchName,
            _ if is_apart => FailureKind::NotReached,
            _ if is_late => FailureKind::Silent,
            _ => FailureKind::Broken,
        };
        Self { kind, words: failed.map_or_else(|| innermost(error), |failed| failed.words) }
    }
}

/// Asks servers, each call by its deadline. A connection is closed after its answer: this agent least of all should hold
/// idle ones.
#[derive(Clone, Debug)]
pub(super) struct Client {
    client: reqwest::Client,
    deadline: Duration,
    /// `None` on a unix socket.
    via: Option<Via>,
}

impl Client {
    pub fn new(via: &Via, deadline: Duration) -> Result<Self, String> {
        Ok(Self { client: built(reaching(via, deadline)?)?, deadline, via: Some(via.clone()) })
    }

    /// One whose every request goes to a server of this host by its unix socket, whatever host its URL names.
    pub fn local(socket: &Path, deadline: Duration) -> Result<Self, String> {
        let builder = plain(deadline).tls_certs_only([]).unix_socket(socket);
        Ok(Self { client: built(builder)?, deadline, via: None })
    }

    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// Sends what was made by one of the above.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let tls = self.via.as_ref().map(|via| via.tls.as_ref());
        let (_, request) = request.build_split();
        let mut request = request.map_err(|error| Failure::of(error, tls))?;
        let mut client = self.client.clone();
        if let (Some(via), Some(name)) = (&self.via, tls.and_then(TlsContext::server_name))
            && request.url().scheme() == "https"
        {
            let host = request.url().host_str().unwrap_or_default().to_owned();
            let named = named(via, self.deadline, host);
            client = named.map_err(|words| Failure { kind: FailureKind::NotReached, words })?;
            let _ = request.url_mut().set_host(Some(name));
        }
        client.execute(request).await.map_err(|error| Failure::of(error, tls))
    }
}

fn reaching(via: &Via, deadline: Duration) -> Result<ClientBuilder, String> {
    let builder = plain(deadline).tls_backend_preconfigured(via.tls.for_http());
    let Some(proxy) = &via.proxy else { return Ok(builder) };
    let proxy =
        Proxy::all(proxy).map_err(|error| format!("the proxy's address cannot be used: {}", innermost(error)))?;
    Ok(builder.proxy(proxy))
}

/// A client that is told another name for the one `host` that it goes to: servers are asked for that name, and verified by it.
fn named(via: &Via, deadline: Duration, host: String) -> Result<reqwest::Client, String> {
    built(reaching(via, deadline)?.dns_resolver(Elsewhere(host)))
}

/// Whatever name is asked for, it is at this host.
struct Elsewhere(String);

impl Resolve for Elsewhere {
    fn resolve(&self, _name: Name) -> Resolving {
        let host = self.0.trim_start_matches('[').trim_end_matches(']').to_owned();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The servers of one cluster, each of which answers for all of them. The one that answered last is asked first.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<(Client, Url)>,
    last: AtomicUsize,
}

/// A call for people, without a user and a password.
pub fn shown(method: &Method, mut url: Url) -> String {
    let _ = url.set_username("");
    let _ = url.set_password(None);
    format!("{method} {url}")
}

impl Members {
    /// Of at least one address; each call ends by `deadline`.
    pub fn new(servers: Servers, deadline: Duration) -> Result<Self, String> {
        let Servers { urls, via } = servers;
        let client = Client::new(&via, deadline)?;
        let member = |url: &String| match url.strip_prefix("unix://") {
            Some(socket) => Ok((Client::local(&PathBuf::from(socket), deadline)?, address("http://localhost")?)),
            None => Ok((client.clone(), address(url)?)),
        };
        let members = urls.iter().map(member).collect::<Result<Vec<_>, String>>()?;
        if members.is_empty() {
            return Err("no address is given; expected http://HOST:PORT".into());
        }
        Ok(Self { members, last: AtomicUsize::new(0) })
    }

    /// A call for people, as the member that would be asked first would get it: what `url` makes of its address, without a user
    /// and a password.
    pub fn shown(&self, method: &Method, url: impl FnOnce(Url) -> Url) -> String {
        let (_, base) = &self.members[self.last.load(Ordering::Relaxed) % self.members.len()];
        shown(method, url(base.clone()))
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

fn plain(deadline: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .pool_max_idle_per_host(0)
        .timeout(deadline)
        .connect_timeout(deadline.min(CONNECT_DEADLINE))
        .user_agent(concat!("unwait/", env!("CARGO_PKG_VERSION")))
}

fn built(builder: ClientBuilder) -> Result<reqwest::Client, String> {
    builder.build().map_err(|error| format!("no http client: {}", innermost(error)))
}

/// hyper-util 0.1 says so of what stands between its own error and the resolver's.
fn is_of_dns(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.to_string() == "dns error" {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What went wrong, from the innermost cause, without the address.
fn innermost(error: reqwest::Error) -> String {
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
    while let Some(chunk) = response.chunk().await.map_err(innermost)? {
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

    fn via() -> Via {
        TlsContext::plain("a test").into()
    }

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
        let members = Members::new((&urls).into(), Duration::from_secs(1)).unwrap();
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
        assert!(Members::new((&[]).into(), Duration::from_secs(1)).is_err());
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_from_a_server_that_is_away() {
        let url = address("http://nowhere.invalid/").unwrap();
        let client = Client::new(&via(), Duration::from_secs(5)).unwrap();
        let failure = client.send(client.get(url)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NoSuchName, "{}", failure.words);
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_without_the_address() {
        let url = address("http://user:secret@127.0.0.1:1/secret?token=secret").unwrap();
        let client = Client::new(&via(), Duration::from_secs(1)).unwrap();
        let failure = client.send(client.get(url)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotReached);
        let text = failure.words;
        assert!(text.contains("refused") && !text.contains("secret"), "{text}");
    }
}
