//! A server that answers as Nacos 1.4 (after its sources), 2.5.1, 3.0.3 and r-nacos 0.8.8 (as measured) do.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::stub::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Second,
    Third,
    RNacos,
}

pub(super) const ALL: [Which; 4] = [Which::First, Which::Second, Which::Third, Which::RNacos];
/// What is written lies over what the service registers.
pub(super) const OVERLAID: [Which; 2] = [Which::Second, Which::Third];

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Over {
    pub enabled: bool,
    pub weight: f64,
    pub metadata: Map<String, Value>,
}

/// 2.5.1 and 3.0.3: what a call leaves out of a new overlay.
impl Default for Over {
    fn default() -> Self {
        Self { enabled: true, weight: 1.0, metadata: Map::new() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// As the service registered it; 1.4 and r-nacos write into it.
    pub published: Over,
    /// 2.5.1 and 3.0.3 keep it until the service was away for 60 s.
    pub over: Option<Over>,
    pub registered: bool,
    pub healthy: bool,
    pub ephemeral: bool,
    pub cluster: String,
}

impl Instance {
    pub fn enabled(&self) -> bool {
        self.over.as_ref().unwrap_or(&self.published).enabled
    }

    pub fn weight(&self) -> f64 {
        self.over.as_ref().unwrap_or(&self.published).weight
    }

    pub fn metadata(&self) -> Value {
        let mut metadata = self.published.metadata.clone();
        metadata.extend(self.over.iter().flat_map(|over| over.metadata.clone()));
        metadata.into()
    }
}

pub(super) struct Server {
    pub which: Which,
    /// With access control: the token that is taken now.
    pub token: Option<String>,
    pub logins: u32,
    /// `SERVICE/IP:PORT`
    pub instances: BTreeMap<String, Instance>,
    /// Reads that still show what was before the last change: Nacos 2 and 3 tell their own cache by an event.
    pub lag: u32,
    pub stale: Option<BTreeMap<String, Instance>>,
    /// After the next change, so many reads know nothing of any instance.
    pub lost_after_a_change: u32,
    lost: u32,
    /// Questions that the user may not ask.
    pub forbidden: Option<&'static str>,
    /// What is answered to every change.
    pub refuses: Option<(u16, &'static str)>,
    /// All healthy, whatever they are: as the list says it below `protectThreshold`.
    pub protects: bool,
    /// Each change that was asked for.
    pub changes: Vec<Request>,
    /// The paths that were asked for.
    pub asked: Vec<String>,
}

type Answer = (u16, String);

impl Server {
    pub fn new(which: Which) -> Self {
        Self {
            which,
            token: None,
            logins: 0,
            instances: BTreeMap::new(),
            lag: 0,
            stale: None,
            lost_after_a_change: 0,
            lost: 0,
            forbidden: None,
            refuses: None,
            protects: false,
            changes: Vec::new(),
            asked: Vec::new(),
        }
    }

    pub fn register(&mut self, id: &str, metadata: Value) {
        let metadata = metadata.as_object().unwrap().clone();
        let before = self.instances.get(id).filter(|before| before.registered).cloned();
        let over = self.instances.get(id).and_then(|before| before.over.clone());
        let mut published = Over { enabled: true, weight: 2.5, metadata };
        // r-nacos 0.8.8, by HTTP: stays as it was enabled, and takes the metadata.
        if let (Which::RNacos, Some(before)) = (self.which, &before) {
            published.enabled = before.published.enabled;
        }
        let ephemeral = before.as_ref().is_none_or(|before| before.ephemeral);
        let instance = Instance { published, over, registered: true, healthy: true, ephemeral, cluster: "BJ".into() };
        self.instances.insert(id.into(), instance);
    }

    /// r-nacos 0.8.8: a new process that registers by gRPC is enabled, and what was put wins over its metadata.
    pub fn register_by_grpc(&mut self, id: &str) {
        self.instances.get_mut(id).unwrap().published.enabled = true;
    }

    pub fn answer(&mut self, request: &Request) -> Answer {
        self.asked.push(request.path.clone());
        let Some(path) = request.path.strip_prefix("/nacos/") else { return self.no_such_path(request) };
        let is_login = match self.which {
            Which::Third => ["v1/auth/login", "v3/auth/user/login"].contains(&path),
            _ => path == "v1/auth/login",
        };
        if is_login && request.method == "POST" {
            return self.log_in(&request.body);
        }
        // 3.0.3 asks nobody who he is for these two.
        let is_open = path == "v3/admin/core/state" || path.starts_with("v3/client/");
        let open = self.which == Which::Third && is_open;
        let sent = request.headers.get("authorization").map_or("", String::as_str);
        let known = self.token.as_ref().is_none_or(|token| match self.which {
            // By its sources: the whole value of the header.
            Which::RNacos => sent == token,
            _ => sent.strip_prefix("Bearer ") == Some(token),
        });
        let exists = match self.which {
            Which::First => path.starts_with("v1/"),
            Which::Second => path.starts_with("v1/") || path.starts_with("v2/"),
            Which::Third => true,
            // By its sources: with users it refuses every path.
            Which::RNacos => true,
        };
        if exists && !known && !open {
            return match self.which {
                Which::Third => (
                    403,
                    json!({ "status": 403, "error": "Forbidden", "message": "Code: 401, Message: token invalid!" })
                        .to_string(),
                ),
                Which::RNacos => {
                    (403, json!({ "status": 403, "error": "Forbidden", "message": "unknown user!" }).to_string())
                }
                _ => (403, "token invalid!".into()),
            };
        }
        match (self.which, path) {
            (Which::Third, "v3/admin/core/state") => {
                wrapped(&json!({ "version": "3.0.3", "startup_mode": "standalone" }))
            }
            (Which::First, "v1/console/server/state") => (200, json!({ "version": "1.4.6" }).to_string()),
            (Which::Second, "v1/console/server/state") => (200, json!({ "version": "2.5.1" }).to_string()),
            _ => self.naming(request, path),
        }
    }

    fn log_in(&mut self, form: &str) -> Answer {
        self.logins += 1;
        match (form, &self.token) {
            ("username=unwait&password=hush-hush", Some(token)) => {
                (200, json!({ "accessToken": token, "tokenTtl": 18000, "globalAdmin": false }).to_string())
            }
            _ if self.which == Which::Third => (500, "caused: User nacos not found;".into()),
            _ if !form.starts_with("username=unwait&") => (500, "caused: User unknown not found;".into()),
            _ => (403, "unknown user!".into()),
        }
    }

    fn no_such_path(&self, request: &Request) -> Answer {
        match self.which {
            Which::RNacos => (404, String::new()),
            _ => (404, json!({ "status": 404, "error": "Not Found", "path": request.path }).to_string()),
        }
    }

    fn naming(&mut self, request: &Request, path: &str) -> Answer {
        let method = request.method.as_str();
        let parts = match self.which {
            Which::First | Which::RNacos => path.strip_prefix("v1/ns/").map(|rest| ("v1", rest)),
            Which::Second => {
                ["v1", "v2"].iter().find_map(|api| Some((*api, path.strip_prefix(&format!("{api}/ns/"))?)))
            }
            Which::Third if path.starts_with("v3/") => path
                .strip_prefix("v3/admin/ns/")
                .map(|rest| ("v3", rest))
                .or_else(|| path.strip_prefix("v3/client/ns/").map(|rest| ("client", rest))),
            // What is left of the first API in 3.0.3.
            Which::Third if method == "GET" && ["v1/ns/instance/list", "v1/ns/service/list"].contains(&path) => {
                path.strip_prefix("v1/ns/").map(|rest| ("v1", rest))
            }
            Which::Third => {
                let says = "Current API will be deprecated, if you want to continue to use it, set \
                            nacos.core.api.compatibility.admin.enabled=true; please use API(s) GET /v3/admin/ns/instance";
                return (410, json!({ "code": 10002, "message": says, "data": null }).to_string());
            }
        };
        let Some((api, what)) = parts else { return self.no_such_path(request) };
        if self.forbidden == Some(method) || method != "GET" && self.forbidden == Some("PUT") {
            return (403, "authorization failed!".into());
        }
        assert_eq!(request.parameter("namespaceId"), "prod");
        if method != "GET" {
            self.changes.push(request.clone());
            if let Some((status, body)) = self.refuses {
                return (status, body.into());
            }
        }
        match (method, what) {
            ("GET", "instance") => self.record(request, api),
            ("GET", "instance/list") => self.list(request, api),
            ("GET", "service/list") => services(request, api),
            ("PUT", "instance") => self.put(request, api),
            ("PATCH", "instance") if self.which == Which::Second => self.patch(request),
            ("PUT", "instance/partial") if api == "v3" => self.partial(request),
            ("PUT" | "DELETE", "instance/metadata/batch") if OVERLAID.contains(&self.which) => self.batch(request, api),
            _ => self.no_such_path(request),
        }
    }

    pub fn seen(&mut self) -> BTreeMap<String, Instance> {
        if self.lost > 0 {
            self.lost -= 1;
            return BTreeMap::new();
        }
        match &self.stale {
            Some(stale) if self.lag > 0 => {
                self.lag -= 1;
                stale.clone()
            }
            _ => self.instances.clone(),
        }
    }

    fn record(&mut self, request: &Request, api: &str) -> Answer {
        assert_eq!(request.parameter("groupName"), "SHOP");
        let found = self.seen().remove(&id(request)).filter(|found| found.registered);
        // r-nacos 0.8.8 knows an instance by its address.
        let found =
            found.filter(|found| self.which == Which::RNacos || found.cluster == request.parameter("clusterName"));
        let Some(found) = found else {
            let words = "no matched ip found!";
            return match self.which {
                Which::RNacos => (500, "error".into()),
                _ if api == "v1" => (404, format!("caused: {words};")),
                _ => (404, json!({ "code": 20004, "message": "resource not found", "data": words }).to_string()),
            };
        };
        let mut record = json!({
            "ip": request.parameter("ip"), "port": request.parameter("port").parse::<u16>().unwrap(),
            "clusterName": found.cluster, "weight": found.weight(), "healthy": found.healthy,
            "metadata": found.metadata(),
        });
        if matches!(self.which, Which::Third | Which::RNacos) {
            record["enabled"] = found.enabled().into();
            record["ephemeral"] = found.ephemeral.into();
        }
        answered(api, &record)
    }

    fn list(&mut self, request: &Request, api: &str) -> Answer {
        assert_eq!(request.parameter("groupName"), "SHOP");
        let service = format!("{}/", request.parameter("serviceName"));
        // r-nacos 0.8.8 takes it for true where it is not sent.
        let healthy_only = match request.parameter("healthyOnly") {
            "" => self.which == Which::RNacos,
            said => said == "true",
        };
        let (protects, all) = (self.protects && api != "v3", api == "v3");
        let host = |(id, found): (String, Instance)| {
            let (ip, port) = id.strip_prefix(&service)?.split_once(':')?;
            let healthy = found.healthy || protects;
            let shown = found.registered && (all || found.enabled()) && (healthy || !healthy_only);
            shown.then(|| {
                json!({
                    "ip": ip, "port": port.parse::<u16>().unwrap(), "clusterName": found.cluster,
                    "enabled": found.enabled(), "healthy": healthy, "ephemeral": found.ephemeral,
                    "weight": found.weight(), "metadata": found.metadata(),
                })
            })
        };
        let hosts: Vec<Value> = self.seen().into_iter().filter_map(host).collect();
        match api {
            // 3.0.3: the administrators' list of a service without instances.
            "v3" if hosts.is_empty() => {
                (404, json!({ "code": 30000, "message": "server error", "data": "service is not found!" }).to_string())
            }
            "v3" | "client" => wrapped(&json!(hosts)),
            _ => answered(api, &json!({ "hosts": hosts })),
        }
    }

    /// The record as it is now, for one change; `None` where there is none.
    fn changing(&mut self, id: &str) -> Option<&mut Instance> {
        if OVERLAID.contains(&self.which) {
            (self.lag, self.stale) = (3, Some(self.instances.clone()));
        }
        self.lost = std::mem::take(&mut self.lost_after_a_change);
        self.instances.get_mut(id)
    }

    fn put(&mut self, request: &Request, api: &str) -> Answer {
        let sent = request.parameter("metadata");
        if OVERLAID.contains(&self.which) && length(sent) > 1024 {
            let says = "The maximum size limit of instance metadata is 1024 characters";
            return (400, json!({ "code": 400, "message": says }).to_string());
        }
        let (id, which) = (id(request), self.which);
        let enabled = request.parameter("enabled") != "false";
        let weight = request.parameter("weight").parse().unwrap_or(1.0);
        let metadata = parsed(sent);
        if which == Which::RNacos && !self.instances.contains_key(&id) {
            self.register(&id, json!({}));
        }
        let ok = answered(api, &json!("ok"));
        // 2.5.1, 3.0.3: nothing is created, and nothing said.
        let Some(instance) = self.changing(&id) else { return ok };
        if !request.parameter("ephemeral").is_empty() {
            assert_eq!(request.parameter("ephemeral"), instance.ephemeral.to_string());
        }
        match which {
            Which::Second | Which::Third => instance.over = Some(Over { enabled, weight, metadata }),
            // An empty one changes nothing.
            Which::RNacos if metadata.is_empty() => {
                (instance.published.enabled, instance.published.weight) = (enabled, weight)
            }
            _ => instance.published = Over { enabled, weight, metadata },
        }
        if which == Which::RNacos { (200, "ok".into()) } else { ok }
    }

    /// 2.5.1: every parameter is required, the service with its group.
    fn patch(&mut self, request: &Request) -> Answer {
        let required = ["cluster", "ip", "port", "weight", "enabled", "metadata"];
        let Some(service) = request.parameter("serviceName").strip_prefix("SHOP@@") else {
            return (
                400,
                "caused: Param 'serviceName' is illegal, it should be format as 'groupName@@serviceName';".into(),
            );
        };
        if let Some(missing) = required.iter().find(|name| !request.query.contains_key(**name)) {
            return (400, format!("caused: Required request parameter '{missing}' is not present;"));
        }
        let id = format!("{service}/{}:{}", request.parameter("ip"), request.parameter("port"));
        self.change_some(&id, request);
        (200, "ok".into())
    }

    fn partial(&mut self, request: &Request) -> Answer {
        self.change_some(&id(request), request);
        wrapped(&json!("ok"))
    }

    fn change_some(&mut self, id: &str, request: &Request) {
        let Some(instance) = self.changing(id) else { return };
        let over = instance.over.get_or_insert_default();
        // What is not sent is the form's default.
        over.enabled = request.parameter("enabled") != "false";
        over.weight = request.parameter("weight").parse().unwrap_or(1.0);
        if !request.parameter("metadata").is_empty() {
            over.metadata = parsed(request.parameter("metadata"));
        }
    }

    fn batch(&mut self, request: &Request, api: &str) -> Answer {
        let sent = parsed(request.parameter("metadata"));
        let instances: Vec<Value> = serde_json::from_str(request.parameter("instances")).unwrap();
        assert_eq!(instances.len(), 1, "without a list it is all of the service's");
        let ours = &instances[0];
        let id = format!("{}/{}:{}", request.parameter("serviceName"), ours["ip"].as_str().unwrap(), ours["port"]);
        let consistency = request.parameter("consistencyType").to_owned();
        if let Some(instance) = self.changing(&id) {
            let expected = if instance.ephemeral { "ephemeral" } else { "persist" };
            assert!(consistency.is_empty() || consistency == expected, "{consistency}");
            assert_eq!(ours["clusterName"], instance.cluster.as_str());
            // A new overlay takes its defaults: weight 1.
            let over = instance.over.get_or_insert_default();
            match request.method.as_str() {
                "PUT" => over.metadata.extend(sent),
                _ => over.metadata.retain(|key, _| !sent.contains_key(key)),
            }
        }
        answered(api, &json!({ "updated": [id] }))
    }
}

fn id(request: &Request) -> String {
    format!("{}/{}:{}", request.parameter("serviceName"), request.parameter("ip"), request.parameter("port"))
}

fn parsed(metadata: &str) -> Map<String, Value> {
    serde_json::from_str(metadata).unwrap_or_default()
}

/// Keys and values together.
fn length(metadata: &str) -> usize {
    parsed(metadata).iter().map(|(key, value)| key.len() + value.as_str().unwrap().len()).sum()
}

fn wrapped(data: &Value) -> Answer {
    (200, json!({ "code": 0, "message": "success", "data": data }).to_string())
}

fn answered(api: &str, data: &Value) -> Answer {
    match (api, data.as_str()) {
        ("v1", Some(text)) => (200, text.into()),
        ("v1", None) => (200, data.to_string()),
        _ => wrapped(data),
    }
}

fn services(request: &Request, api: &str) -> Answer {
    let names = ["rpc-order", "rpc-cart"];
    match api {
        "v3" => {
            assert_eq!(request.parameter("groupNameParam"), "SHOP");
            wrapped(
                &json!({ "totalCount": 2, "pageItems": names.map(|name| json!({ "name": name, "groupName": "SHOP" })) }),
            )
        }
        "v2" => wrapped(&json!({ "count": 2, "services": names })),
        _ => (200, json!({ "count": 2, "doms": names }).to_string()),
    }
}
