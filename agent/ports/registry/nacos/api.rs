//! Nacos' API over HTTP: one call, one deadline, one honest answer, from whichever member answers. Which server that is, is
//! asked before the first call, and anew after an error. A token is asked for by name and password and kept until Nacos does
//! not take it any more; it travels in a header, and in no address.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::super::RegistryError;
use super::said::{code, said};
use super::server::{self, Kind, Server};
use crate::model::{NacosApi, NacosLayout};
use crate::ports::http::{self, Client, Members};
use crate::ports::{Servers, User};

/// One thing that is asked for, beside the path.
pub(super) type Parameter = (&'static str, String);

/// r-nacos' whole answer for an instance that it does not know, with status 500.
pub(super) const UNKNOWN_TO_R_NACOS: &[u8] = b"error";

/// A change of an instance, before it is made.
pub(super) struct Write {
    pub method: Method,
    pub path: String,
    pub query: Vec<Parameter>,
}

#[derive(Debug)]
pub(super) struct Api {
    registry: String,
    members: Members,
    user: Option<User>,
    /// The last that was given; held while a new one is asked for.
    token: tokio::sync::Mutex<Option<SecretString>>,
    pub layout: NacosLayout,
    /// Who answered last, and without an error.
    server: Mutex<Option<Server>>,
}

/// An answer that is no failure of the server's.
type Raw = (StatusCode, Vec<u8>);

impl Api {
    pub fn new(
        registry: &str,
        servers: Servers,
        user: Option<User>,
        layout: NacosLayout,
        deadline: Duration,
    ) -> Result<Self, RegistryError> {
        let members = Members::new(servers, deadline)
            .map_err(|detail| RegistryError::Refused { registry: registry.into(), detail })?;
        let (token, server) = (tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { registry: registry.into(), members, user, token, layout, server })
    }

    pub fn refused(&self, detail: String) -> RegistryError {
        RegistryError::Refused { registry: self.registry.clone(), detail }
    }

    pub fn unreachable(&self, detail: String) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), detail }
    }

    /// Who answers, asked where it is not known.
    pub async fn server(&self) -> Result<Server, RegistryError> {
        if let Some(server) = self.known() {
            return Ok(server);
        }
        let mut server = self.ask_who().await?;
        if self.layout.api != NacosApi::Auto {
            server.api = self.layout.api;
        }
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.clone());
        Ok(server)
    }

    fn known(&self) -> Option<Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of the server may be so no more: it may have been replaced by another version.
    fn forget_server(&self) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn ask_who(&self) -> Result<Server, RegistryError> {
        let get = Method::GET;
        let (status, body) = self.exchange(None, &get, server::STATE, &[], None).await?;
        if let Some(server) = server::by_state(status.as_u16(), &body) {
            return Ok(server);
        }
        let mut query = self.everywhere();
        query.extend(page(1));
        let (status, body) = self.exchange(None, &get, server::OF_THE_SECOND, &query, None).await?;
        let older = server::older(status.as_u16(), &body);
        let version = match older.kind {
            Kind::RNacos => None,
            // Where it is not told, messages lack it, and nothing else does.
            _ => self.exchange(None, &get, server::STATE_1_2, &[], None).await.ok(),
        };
        Ok(Server { version: version.and_then(|(_, body)| server::version(&body)), ..older })
    }

    /// Where all services of this agent's are.
    pub fn everywhere(&self) -> Vec<Parameter> {
        let namespace = self.layout.namespace.iter().map(|namespace| ("namespaceId", namespace.clone()));
        namespace.chain([("groupName", self.layout.group.clone())]).collect()
    }

    pub fn of_service(&self, service: &str) -> Vec<Parameter> {
        let mut query = self.everywhere();
        query.push(("serviceName", service.into()));
        query
    }

    /// What is answered, unwrapped; or the body of a 404.
    pub async fn get(&self, path: &str, query: &[Parameter]) -> Result<Result<Value, Vec<u8>>, RegistryError> {
        match self.call(Method::GET, path, query).await? {
            (status, body) if status.is_success() => self.read(path, &body).map(Ok),
            (_, body) => Ok(Err(body)),
        }
    }

    /// A change, for people.
    pub fn shown(&self, write: &Write) -> String {
        self.members.shown(&write.method, |base| at(base, &write.path, &write.query))
    }

    /// Makes a change, and returns once the server has taken it.
    pub async fn change(&self, write: &Write) -> Result<(), RegistryError> {
        let Write { method, path, query } = write;
        let asked = format!("{method} {path}");
        let (status, body) = self.call(method.clone(), path, query).await?;
        // Some say a plain `ok`.
        if status.is_success() && code(&body).unwrap_or(0) == 0 {
            return Ok(());
        }
        let refused = self.refused(self.told(&asked, status.as_str(), &body));
        self.forget_server();
        Err(refused)
    }

    /// A 404 without Nacos' own words.
    pub fn not_nacos(&self, path: &str, body: &[u8]) -> RegistryError {
        let told = self.told(&format!("GET {path}"), "404", body);
        self.forget_server();
        self.refused(format!(
            "{told}; the url must be Nacos' with its path (http://HOST:8848/nacos), and `api` must fit"
        ))
    }

    fn read(&self, path: &str, body: &[u8]) -> Result<Value, RegistryError> {
        let mut answer: Value = serde_json::from_slice(body)
            .map_err(|error| self.refused(format!("GET {path}: the answer is not Nacos': {error}")))?;
        match (server::wraps(path), answer["code"].as_i64()) {
            (false, _) => Ok(answer),
            (true, Some(0)) => Ok(answer["data"].take()),
            (true, _) => Err(self.refused(self.told(&format!("GET {path}"), "no success", body))),
        }
    }

    /// What was asked, what came of it, who said so, and their own words.
    fn told(&self, asked: &str, became: &str, body: &[u8]) -> String {
        let who = self.known().map_or("the server".into(), |server| server.to_string());
        format!("{asked}: {became}; {who} says: {}", said(body))
    }

    /// An answer that is a success, or a 404.
    async fn call(&self, method: Method, path: &str, query: &[Parameter]) -> Result<Raw, RegistryError> {
        let answer = self.answered(method, path, query).await;
        if answer.is_err() {
            self.forget_server();
        }
        answer
    }

    async fn answered(&self, method: Method, path: &str, query: &[Parameter]) -> Result<Raw, RegistryError> {
        let server = self.server().await?;
        let token = self.token(&server, None).await?;
        let (mut status, mut body) = self.exchange(Some(&server), &method, path, query, token.as_ref()).await?;
        // A token that has ended is refused like one that may not: asking again with a new one does nothing twice.
        if [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&status) && token.is_some() {
            let token = self.token(&server, token.as_ref()).await?;
            (status, body) = self.exchange(Some(&server), &method, path, query, token.as_ref()).await?;
        }
        let advice = match status {
            status if status.is_success() => return Ok((status, body)),
            // The second is r-nacos' of an instance that it does not know.
            StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR => return Ok((status, body)),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                let user = if self.user.is_some() { "the user may not" } else { "no user is named" };
                let resource = server.resource(self.layout.namespace.as_deref());
                format!("; {user}: name one with a role that reads and writes `{resource}`")
            }
            StatusCode::GONE => {
                "; the server accepts only its third API: remove `api` from agent.yaml, or set `v3`, and leave the \
                 server's switches unchanged"
                    .into()
            }
            _ => String::new(),
        };
        Err(self.refused(self.told(&format!("{method} {path}"), status.as_str(), &body) + &advice))
    }

    /// A token, where there is a user; another one than `spent`.
    async fn token(
        &self,
        server: &Server,
        spent: Option<&SecretString>,
    ) -> Result<Option<SecretString>, RegistryError> {
        let Some(user) = &self.user else { return Ok(None) };
        let mut kept = self.token.lock().await;
        let is_spent = |token: &SecretString| spent.is_some_and(|it| it.expose_secret() == token.expose_secret());
        if kept.as_ref().is_none_or(is_spent) {
            let log_in = |password| self.log_in(server, &user.name, password);
            // 3.0.3 answers a wrong password as it answers a failure of its own.
            *kept = Some(user.password.with(log_in, |_: &RegistryError| true).await?);
        }
        Ok(kept.clone())
    }

    async fn log_in(&self, server: &Server, name: &str, password: SecretString) -> Result<SecretString, RegistryError> {
        let mut form = Url::parse("http://form/").expect("this is a url");
        form.query_pairs_mut().append_pair("username", name).append_pair("password", password.expose_secret());
        let form = SecretString::from(form.query().unwrap_or_default().to_owned());
        let path = server.login();
        let asked = format!("POST {path}");
        let ask = |client: Client, base: Url| {
            let request = client.post(at(base, path, &[])).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let request = request.body(form.expose_secret().to_owned());
            let asked = asked.clone();
            async move {
                let (status, body) = self.send(&asked, &client, request).await?;
                if status.is_server_error() {
                    // An unknown user is 500 in 2.5.1, and all that is wrong is in 3.0.3.
                    let became = format!("{}: wrong name or password, or the server fails", status.as_str());
                    return Err(self.unreachable(self.told(&asked, &became, &body)));
                }
                Ok((status, body))
            }
        };
        let (status, body) = self.members.ask(ask, RegistryError::is_passing).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(token) = answer["accessToken"].as_str().filter(|_| status.is_success()) {
            return Ok(token.to_owned().into());
        }
        let words: &[u8] = if status.is_success() { b"no token" } else { &body };
        let became = format!("{}: wrong name or password", status.as_str());
        Err(self.refused(self.told(&asked, &became, words)))
    }

    /// One question to the member that answers; what fails there is asked of the next. `server` is who is known to answer.
    async fn exchange(
        &self,
        server: Option<&Server>,
        method: &Method,
        path: &str,
        query: &[Parameter],
        token: Option<&SecretString>,
    ) -> Result<Raw, RegistryError> {
        let asked = format!("{method} {path}");
        let is_r_nacos = server.is_some_and(|server| server.kind == Kind::RNacos);
        let token = token.map(|token| self.header(token, is_r_nacos)).transpose()?;
        let ask = |client: Client, base: Url| {
            let mut request = client.request(method.clone(), at(base, path, query));
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let asked = asked.clone();
            async move {
                let (status, body) = self.send(&asked, &client, request).await?;
                let unknown = is_r_nacos && status == StatusCode::INTERNAL_SERVER_ERROR && body == UNKNOWN_TO_R_NACOS;
                if !unknown && (status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS) {
                    return Err(self.unreachable(self.told(&asked, status.as_str(), &body)));
                }
                Ok((status, body))
            }
        };
        self.members.ask(ask, RegistryError::is_passing).await
    }

    /// r-nacos takes the header's whole value for the token.
    fn header(&self, token: &SecretString, is_r_nacos: bool) -> Result<HeaderValue, RegistryError> {
        let scheme = if is_r_nacos { "" } else { "Bearer " };
        let mut header = HeaderValue::from_str(&format!("{scheme}{}", token.expose_secret()))
            .map_err(|_| self.refused("the login's token has characters that a header cannot hold".into()))?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn send(&self, asked: &str, client: &Client, request: RequestBuilder) -> Result<Raw, RegistryError> {
        let response = client.send(request).await.map_err(|failure| failure.of_registry(&self.registry, asked))?;
        let status = response.status();
        let unreachable = |why: String| self.unreachable(format!("{asked}: {why}"));
        Ok((status, http::body(response, http::MAX_ANSWER_BYTES).await.map_err(unreachable)?))
    }
}

/// The first so many of what is listed by pages.
pub(super) fn page(most: usize) -> [Parameter; 2] {
    [("pageNo", "1".into()), ("pageSize", most.to_string())]
}

fn at(mut url: Url, path: &str, query: &[Parameter]) -> Url {
    url.path_segments_mut().expect("an http url has a path").pop_if_empty().extend(path.split('/'));
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}
