//! Receivers that answer as the real ones do, their errors included. The words of the errors are the services' own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What each of them knows: in the address, and the key of signatures.
pub const TOKEN: &str = "hush-token-5f1e";
pub const SECRET: &str = "SEC-hush-4d2a";
/// By the receivers' clocks, in seconds.
pub const NOW: i64 = 1_700_000_000;

/// What a receiver is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// It has had more messages than it takes in its time.
    TooMany,
    /// It is being mended.
    Down,
    /// Another server answers in its place.
    Proxy,
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub text: String,
    pub body: Value,
}

impl Asked {
    fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    fn body(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Status, further headers, body.
pub type Reply = (u16, &'static str, String);

pub type Answers = fn(&Asked, Mood) -> Reply;

#[derive(Debug)]
pub struct Receiver {
    address: std::net::SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl Receiver {
    pub async fn of(answers: Answers, mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let kept = receiver.asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(asked) = read(&mut stream).await else { continue };
                let (status, headers, body) = match mood {
                    Mood::Down => (503, "", "upstream connect error".into()),
                    Mood::Proxy => (200, "", "<html><title>Log in</title></html>".into()),
                    mood => answers(&asked, mood),
                };
                assert_eq!(asked.headers["content-type"], "application/json");
                kept.lock().unwrap().push(asked);
                let length = body.len();
                let reply = format!(
                    "HTTP/1.1 {status} Said\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
        let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        if bytes.len() < end + 4 + length {
            continue;
        }
        let text = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
        let url = Url::parse(&format!("http://receiver{target}")).unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let query = url.query_pairs().into_owned().collect();
        return Some(Asked { path: url.path().into(), query, headers, text, body });
    }
}

fn ok(body: Value) -> Reply {
    (200, "", body.to_string())
}

/// HMAC-SHA256 by its definition (RFC 2104), and not by the crate that signs.
fn hmac(key: &[u8], text: &[u8]) -> String {
    let mut block = [0; 64];
    match key.len() {
        0..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let hash = |pad: u8, text: &[u8]| Sha256::digest([&block.map(|byte| byte ^ pad)[..], text].concat());
    STANDARD.encode(hash(0x5c, &hash(0x36, text)))
}

/// Most of these services believe a clock that is an hour off at most.
fn is_now(second: i64) -> bool {
    (second - NOW).abs() <= 3_600
}

pub fn dingtalk(asked: &Asked, mood: Mood) -> Reply {
    let says = |errcode: i64, errmsg: &str| ok(json!({ "errcode": errcode, "errmsg": errmsg }));
    let at = asked.query("timestamp");
    match asked.body("/msgtype") {
        _ if asked.path != "/robot/send" || asked.query("access_token") != TOKEN => says(300_001, "token is not exist"),
        _ if mood == Mood::TooMany => says(130_101, "send too fast, exceed 20 times per minute"),
        _ if !is_now(at.parse::<i64>().unwrap_or(0) / 1_000) => says(310_000, "invalid timestamp"),
        _ if asked.query("sign") != hmac(SECRET.as_bytes(), format!("{at}\n{SECRET}").as_bytes()) => {
            says(310_000, "sign not match, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]")
        }
        _ if asked.text.len() > 20_000 => says(460_101, "message too long, exceed 20000 bytes"),
        "text" if !asked.body("/text/content").is_empty() => says(0, "ok"),
        _ => says(40_035, "缺少参数 json"),
    }
}

pub fn feishu(asked: &Asked, mood: Mood) -> Reply {
    let says = |code: i64, msg: &str| ok(json!({ "code": code, "msg": msg, "data": {} }));
    let at = asked.body("/timestamp");
    match asked.body("/msg_type") {
        _ if asked.path != format!("/open-apis/bot/v2/hook/{TOKEN}") => (
            400,
            "",
            json!({ "code": 19_001, "msg": "param invalid: incoming webhook access token invalid", "data": {} })
                .to_string(),
        ),
        _ if mood == Mood::TooMany => says(11_232, "frequency limited psm[lark.oapi.app_platform_runtime]appID[1500]"),
        _ if !is_now(at.parse().unwrap_or(0))
            || asked.body("/sign") != hmac(format!("{at}\n{SECRET}").as_bytes(), b"") =>
        {
            says(19_021, "sign match fail or timestamp is not within one hour from current time")
        }
        _ if asked.text.len() > 20_480 => says(9_499, "Bad Request"),
        "interactive" if asked.body("/card/header/title/tag") == "plain_text" => {
            ok(json!({ "StatusCode": 0, "StatusMessage": "success", "code": 0, "data": {}, "msg": "success" }))
        }
        _ => says(9_499, "Bad Request"),
    }
}

pub fn wecom(asked: &Asked, mood: Mood) -> Reply {
    let says = |errcode: i64, errmsg: &str| ok(json!({ "errcode": errcode, "errmsg": errmsg }));
    let content = asked.body("/text/content");
    match asked.body("/msgtype") {
        _ if asked.path != "/cgi-bin/webhook/send" || asked.query("key") != TOKEN => says(
            93_000,
            "invalid webhook url, hint: [1592021214_50_551fc8807c11f27ed0e6714d0c267ba4], from ip: 203.0.113.9, more info at https://open.work.weixin.qq.com/devtool/query?e=93000",
        ),
        _ if mood == Mood::TooMany => says(45_009, "api freq out of limit"),
        "text" if content.is_empty() => says(44_004, "empty content"),
        "text" if content.len() > 2_048 => says(40_058, "text.content exceed max length 2048"),
        "text" => says(0, "ok"),
        _ => says(40_008, "invalid message type"),
    }
}

pub fn teams(asked: &Asked, mood: Mood) -> Reply {
    let says = |status: u16, code: &str, message: &str| {
        (status, "", json!({ "error": { "code": code, "message": message } }).to_string())
    };
    let card = asked.body.pointer("/attachments/0/content").unwrap_or(&asked.body);
    if asked.query("sig") != TOKEN {
        return says(
            401,
            "DirectApiAuthorizationRequired",
            "The request has SAS authentication scheme which is not valid.",
        );
    }
    if mood == Mood::TooMany {
        return (
            429,
            "Retry-After: 17\r\n",
            json!({ "error": { "code": "RateLimitExceeded", "message": "Rate limit is exceeded." } }).to_string(),
        );
    }
    if asked.text.len() > 28 << 10 {
        return says(413, "RequestEntityTooLarge", "The request is too large.");
    }
    match card.pointer("/type").and_then(Value::as_str) {
        Some("AdaptiveCard") => (202, "", String::new()),
        _ => says(
            400,
            "TriggerInputSchemaMismatch",
            "The input body for trigger 'manual' did not match its schema definition.",
        ),
    }
}

pub fn discord(asked: &Asked, mood: Mood) -> Reply {
    let refuses =
        |status: u16, code: u32, message: &str| (status, "", json!({ "message": message, "code": code }).to_string());
    if asked.path != format!("/api/webhooks/113/{TOKEN}") {
        return refuses(401, 50_027, "Invalid Webhook Token");
    }
    if mood == Mood::TooMany {
        let body = json!({ "message": "You are being rate limited.", "retry_after": 4.529, "global": false });
        return (429, "Retry-After: 4\r\n", body.to_string());
    }
    let length = |pointer: &str| asked.body(pointer).encode_utf16().count();
    let (title, description, footer) =
        (length("/embeds/0/title"), length("/embeds/0/description"), length("/embeds/0/footer/text"));
    if title > 256 || description > 4_096 || footer > 2_048 || title + description + footer > 6_000 || title == 0 {
        return refuses(400, 50_035, "Invalid Form Body");
    }
    match asked.query("wait") {
        "true" => ok(json!({ "id": "1045", "type": 0, "channel_id": "20", "embeds": asked.body["embeds"] })),
        _ => (204, "", String::new()),
    }
}

pub fn telegram(asked: &Asked, mood: Mood) -> Reply {
    let refuses = |code: u16, description: &str| {
        (code, "", json!({ "ok": false, "error_code": code, "description": description }).to_string())
    };
    if asked.path != format!("/bot{TOKEN}/sendMessage") {
        return refuses(401, "Unauthorized");
    }
    if mood == Mood::TooMany {
        let description = "Too Many Requests: retry after 35";
        let body =
            json!({ "ok": false, "error_code": 429, "description": description, "parameters": { "retry_after": 35 } });
        return (429, "", body.to_string());
    }
    match asked.body("/chat_id") {
        "-100200" => {}
        "-7" => {
            let description = "Bad Request: group chat was upgraded to a supergroup chat";
            let parameters = json!({ "migrate_to_chat_id": -1007 });
            let body = json!({ "ok": false, "error_code": 400, "description": description, "parameters": parameters });
            return (400, "", body.to_string());
        }
        _ => return refuses(400, "Bad Request: chat not found"),
    }
    let units = |text: &str| text.encode_utf16().count() as u64;
    let bold = asked.body["entities"][0]["length"].as_u64().unwrap();
    match asked.body("/text") {
        "" => refuses(400, "Bad Request: message text is empty"),
        text if units(text) > 4_096 => refuses(400, "Bad Request: message is too long"),
        text if units(text.lines().next().unwrap()) != bold => refuses(400, "Bad Request: ENTITY_BOUNDS_INVALID"),
        text => ok(json!({ "ok": true, "result": { "message_id": 9, "text": text } })),
    }
}

pub fn slack(asked: &Asked, mood: Mood) -> Reply {
    let says = |status: u16, word: &str| (status, "", word.to_owned());
    match mood {
        _ if asked.path != format!("/services/T0/B0/{TOKEN}") => says(403, "invalid_token"),
        Mood::TooMany => (429, "Retry-After: 30\r\n", "ratelimited".into()),
        _ if asked.body("/blocks/0/text/text").chars().count() > 150 => says(400, "invalid_blocks"),
        _ if asked.body("/blocks/1/text/text").chars().count() > 3_000 => says(400, "invalid_blocks"),
        _ => says(200, "ok"),
    }
}

pub fn pagerduty(asked: &Asked, mood: Mood) -> Reply {
    let says = |status: u16, word: &str, message: &str, errors: &[&str]| {
        (status, "", json!({ "status": word, "message": message, "errors": errors }).to_string())
    };
    let invalid = |error: &str| says(400, "invalid event", "Event object is invalid", &[error]);
    match asked.body("/event_action") {
        _ if mood == Mood::TooMany => {
            let message = "Requests for this service are arriving too quickly.  Please retry later.";
            says(429, "throttle exceeded", message, &["Enhance Your Calm."])
        }
        _ if asked.body("/routing_key") != TOKEN => invalid("Invalid routing key"),
        _ if asked.body("/dedup_key").chars().count() > 255 => invalid("'dedup_key' is too long"),
        "resolve" | "acknowledge" if asked.body("/dedup_key").is_empty() => invalid("'dedup_key' is missing or blank"),
        "resolve" | "acknowledge" => {
            (202, "", r#"{"status":"success","message":"Event processed","dedup_key":"k"}"#.into())
        }
        "trigger" => match asked.body("/payload/severity") {
            _ if asked.body("/payload/summary").is_empty() => invalid("'payload.summary' is missing or blank"),
            _ if asked.body("/payload/summary").chars().count() > 1_024 => invalid("'payload.summary' is too long"),
            _ if asked.body("/payload/source").is_empty() => invalid("'payload.source' is missing or blank"),
            _ if asked.text.len() > 512 << 10 => (413, "", "Request Entity Too Large".into()),
            "critical" | "error" | "warning" | "info" => {
                (202, "", r#"{"status":"success","message":"Event processed","dedup_key":"k"}"#.into())
            }
            _ => invalid(
                "'payload.severity' is invalid (must be one of the following: 'critical', 'warning', 'error' or 'info')",
            ),
        },
        _ => invalid("'event_action' is missing or blank"),
    }
}

/// The real one is asked in `alertmanager_tests`; this one wants a login, as the real one behind its own web configuration.
pub fn alertmanager(asked: &Asked, _mood: Mood) -> Reply {
    let login = format!("Basic {}", STANDARD.encode(format!("unwait:{TOKEN}")));
    match asked.headers.get("authorization") {
        Some(given) if *given == login => (200, "", String::new()),
        _ => (401, "", "Unauthorized\n".into()),
    }
}
