//! HTTP as the adapters here speak it: no proxies, no redirects, no idle connections kept, bounded answers, and
//! errors that never show an address, since an address may be a credential.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, Url};

/// An answer longer than this is refused: a catalog of some 10,000 instances, at 800 B each, still fits.
pub(super) const MAX_ANSWER_BYTES: usize = 8 << 20;

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
    async fn a_refused_connection_is_told_without_the_address() {
        let url = address("http://user:secret@127.0.0.1:1/secret?token=secret").unwrap();
        let error = client(&url, Duration::from_secs(1)).unwrap().get(url).send().await.unwrap_err();
        let text = failure(error);
        assert!(text.contains("refused") && !text.contains("secret"), "{text}");
    }
}
