//! Which server answers, by its own word, and what that means for where things are asked. Pure.

use serde_json::Value;

use super::said::{code, said};
use crate::model::NacosApi;

/// A program that speaks Nacos' API, as far as they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nacos 1: what is written replaces the record.
    First,
    /// Nacos 2: what is written lies over the record that the service registered.
    Second,
    /// Nacos 3: as the second, by other paths.
    Third,
    /// Another program with the first API. The metadata is replaced whole.
    RNacos,
}

impl Kind {
    /// Is what is written laid over the service's own record, key by key, and not put in its place?
    pub fn lays_over(self) -> bool {
        matches!(self, Self::Second | Self::Third)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub kind: Kind,
    pub api: NacosApi,
    pub version: Option<String>,
}

/// Where everybody asks first: 200 with the version by Nacos 3, 404 by all others.
pub(super) const STATE: &str = "v3/admin/core/state";
/// Where Nacos 1 and 2 tell their version.
pub(super) const STATE_1_2: &str = "v1/console/server/state";
/// 404 with an empty body by r-nacos, with Spring's page by Nacos 1; answered, or refused, by Nacos 2.
pub(super) const OF_THE_SECOND: &str = "v2/ns/service/list";

/// By the answer to [`STATE`]; `None` is to be asked further.
pub(super) fn by_state(status: u16, body: &[u8]) -> Option<Server> {
    let version = serde_json::from_slice::<Value>(body).ok().and_then(|answer| text(&answer["data"]["version"]));
    match status {
        200 if version.is_some() => Some(Server { kind: Kind::Third, api: NacosApi::V3, version }),
        // The third wraps its own refusal so. r-nacos with users refuses every path before it looks whether there is one.
        401 | 403 if said(body).starts_with("Code: ") => {
            Some(Server { kind: Kind::Third, api: NacosApi::V3, version: None })
        }
        401 | 403 => Some(Server { kind: Kind::RNacos, api: NacosApi::V1, version: None }),
        _ => None,
    }
}

/// By the answer to [`OF_THE_SECOND`], where [`STATE`] was 404.
pub(super) fn older(status: u16, body: &[u8]) -> Server {
    let (kind, api) = match status {
        404 if body.is_empty() => (Kind::RNacos, NacosApi::V1),
        404 if code(body).is_none() => (Kind::First, NacosApi::V1),
        _ => (Kind::Second, NacosApi::V2),
    };
    Server { kind, api, version: None }
}

/// By the answer to [`STATE_1_2`].
pub(super) fn version(body: &[u8]) -> Option<String> {
    text(&serde_json::from_slice::<Value>(body).ok()?["version"])
}

/// The second API and later wrap what they say: `{"code": 0, "data": …}`.
pub(super) fn wraps(path: &str) -> bool {
    !path.starts_with("v1/")
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (text.len() < 40 && text.chars().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}

impl Server {
    /// Where one instance is read and changed.
    pub fn instance(&self) -> &'static str {
        match self.api {
            NacosApi::V3 => "v3/admin/ns/instance",
            NacosApi::V2 => "v2/ns/instance",
            _ => "v1/ns/instance",
        }
    }

    /// Where the agent lists a service's instances: by the third API all of them, before that those that are enabled.
    pub fn list(&self) -> &'static str {
        match self.api {
            NacosApi::V3 => "v3/admin/ns/instance/list",
            _ => self.clients_list(),
        }
    }

    /// The list that clients read.
    pub fn clients_list(&self) -> &'static str {
        match self.api {
            NacosApi::V3 => "v3/client/ns/instance/list",
            NacosApi::V2 => "v2/ns/instance/list",
            _ => "v1/ns/instance/list",
        }
    }

    pub fn services(&self) -> &'static str {
        match self.api {
            NacosApi::V3 => "v3/admin/ns/service/list",
            NacosApi::V2 => "v2/ns/service/list",
            _ => "v1/ns/service/list",
        }
    }

    pub fn login(&self) -> &'static str {
        match self.kind {
            Kind::Third => "v3/auth/user/login",
            _ => "v1/auth/login",
        }
    }

    /// What a role must name to suffice. The second knows its own namespace by no name.
    pub fn resource(&self, namespace: Option<&str>) -> String {
        match (namespace, self.kind) {
            (Some(namespace), _) => format!("{namespace}:*:*"),
            (None, Kind::Third) => "public:*:*".into(),
            (None, _) => ":*:*".into(),
        }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.kind {
            Kind::First => "Nacos 1",
            Kind::Second => "Nacos 2",
            Kind::Third => "Nacos 3",
            Kind::RNacos => "r-nacos",
        };
        match &self.version {
            Some(version) if self.kind != Kind::RNacos => write!(f, "Nacos {version}"),
            _ => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_known_by_what_it_answers() {
        // 3.0.3; the same where it asks for a token first.
        let state = br#"{"code":0,"message":"success","data":{"version":"3.0.3","function_mode":"all"}}"#;
        assert_eq!(by_state(200, state).unwrap().to_string(), "Nacos 3.0.3");
        let refused = br#"{"status":403,"error":"Forbidden","message":"Code: 401, Message: token invalid!"}"#;
        assert_eq!(by_state(403, refused).unwrap().to_string(), "Nacos 3");
        // r-nacos 0.8.8 with users.
        let unknown = br#"{"status":403,"error":"Forbidden","message":"unknown user!"}"#;
        assert_eq!(by_state(403, unknown).unwrap().kind, Kind::RNacos);
        // A page that answers to everything is none of them.
        assert_eq!(by_state(200, b"<html>"), None);
        let page = br#"{"status":404,"error":"Not Found","path":"/nacos/v3/admin/core/state"}"#;
        for (status, body, kind, says) in [
            // 2.5.1, open and with users; 2.x that does not know the namespace.
            (200, br#"{"code":0,"data":{"count":0,"services":[]}}"#.as_slice(), Kind::Second, "Nacos 2"),
            (403, b"{}", Kind::Second, "Nacos 2"),
            (404, br#"{"code":20004,"message":"resource not found"}"#, Kind::Second, "Nacos 2"),
            // 1.4
            (404, page, Kind::First, "Nacos 1"),
            // r-nacos 0.8.8
            (404, b"", Kind::RNacos, "r-nacos"),
        ] {
            assert_eq!(by_state(404, page), None);
            let found = older(status, body);
            assert_eq!((found.kind, found.to_string().as_str()), (kind, says), "{status}");
        }
        assert_eq!(version(br#"{"version":"2.5.1","standalone_mode":"standalone"}"#).as_deref(), Some("2.5.1"));
        assert_eq!(version(b"<html>"), None);
        assert_eq!(version(br#"{"version":"2.5.1\nforged"}"#), None);
    }
}
