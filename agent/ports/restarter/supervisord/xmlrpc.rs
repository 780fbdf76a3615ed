//! XML-RPC (xmlrpc.com/spec), as far as supervisord speaks it: one call over its unix socket, one value back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use roxmltree::{Document, Node};

use crate::ports::http;

/// supervisord answers from its main loop, within milliseconds; while it reads a log or reaps many children, later.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// A program's settings are some 1.5 KB: room for the settings of 2,500 programs.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// supervisord nests a value four deep at most: a list of structs, or a list in one.
const DEEPEST: usize = 16;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i64),
    Text(String),
    Boolean(bool),
    List(Vec<Value>),
    Struct(BTreeMap<String, Value>),
}

/// Why a call gave nothing.
#[derive(Debug, PartialEq)]
pub(super) enum CallError {
    /// supervisord said no.
    Fault { code: i64, text: String },
    /// Nobody answered, or not in XML-RPC: whether the call was heard is not known.
    Silent(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault { code, text } => write!(f, "supervisord answered {text} (fault {code})"),
            Self::Silent(why) => write!(f, "supervisord did not answer: {why}"),
        }
    }
}

impl Value {
    /// A member of a struct.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Struct(members) => members.get(name),
            _ => None,
        }
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Self::Boolean(is_so) => Some(*is_so),
            _ => None,
        }
    }
}

/// Calls `method` at the server that listens on `socket`.
pub(super) async fn call(socket: &Path, method: &str, arguments: &[Value]) -> Result<Value, CallError> {
    let asked = || async {
        let client = http::Client::local(socket, CALL_DEADLINE)?;
        // The host is never looked up: the connection is the socket.
        let url = http::address("http://supervisord/RPC2")?;
        let request = client.post(url).header("content-type", "text/xml");
        let request = request.body(request_of(method, arguments));
        let response = client.send(request).await.map_err(|failure| failure.words)?;
        if response.status() == reqwest::StatusCode::UNAUTHORIZED {
            return Err("supervisord asks for a password, and this version of unwait sends none: protect its socket by `chmod` in [unix_http_server] instead"
                .to_owned());
        }
        if !response.status().is_success() {
            return Err(format!("HTTP status {}", response.status()));
        }
        http::body(response, MAX_ANSWER_BYTES).await
    };
    let answer = asked().await.map_err(|why| CallError::Silent(format!("{}: {why}", socket.display())))?;
    parse(&String::from_utf8_lossy(&answer))
}

fn request_of(method: &str, arguments: &[Value]) -> String {
    let parameters: String =
        arguments.iter().map(|value| format!("<param><value>{}</value></param>", written(value))).collect();
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>{parameters}</params></methodCall>"
    )
}

fn written(value: &Value) -> String {
    match value {
        Value::Integer(number) => format!("<int>{number}</int>"),
        Value::Text(text) => format!("<string>{}</string>", escaped(text)),
        Value::Boolean(is_so) => format!("<boolean>{}</boolean>", u8::from(*is_so)),
        Value::List(items) => {
            let items: String = items.iter().map(|item| format!("<value>{}</value>", written(item))).collect();
            format!("<array><data>{items}</data></array>")
        }
        Value::Struct(members) => {
            let member = |(name, value): (&String, &Value)| {
                format!("<member><name>{}</name><value>{}</value></member>", escaped(name), written(value))
            };
            format!("<struct>{}</struct>", members.iter().map(member).collect::<String>())
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn parse(answer: &str) -> Result<Value, CallError> {
    let silent = |what: &str| CallError::Silent(format!("the answer is no XML-RPC: {what}"));
    let document = Document::parse(answer).map_err(|error| silent(&error.to_string()))?;
    let root = document.root_element();
    let below = |node: Node<'_, '_>, path: &[&str]| -> Option<Value> {
        let mut at = node;
        for name in path {
            // The document's lifetime hides in `Node`: found again by id.
            let next = at.children().find(|child| child.has_tag_name(*name))?.id();
            at = document.get_node(next)?;
        }
        value(at, DEEPEST)
    };
    if !root.has_tag_name("methodResponse") {
        return Err(silent("no <methodResponse>"));
    }
    if let Some(fault) = below(root, &["fault", "value"]) {
        let code = fault.integer("faultCode").ok_or_else(|| silent("a fault without a code"))?;
        return Err(CallError::Fault { code, text: fault.text("faultString").unwrap_or("a fault").to_owned() });
    }
    below(root, &["params", "param", "value"]).ok_or_else(|| silent("no value"))
}

fn value(node: Node<'_, '_>, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let text = |node: Node<'_, '_>| node.text().unwrap_or_default().to_owned();
    // A value without a type is a string.
    let Some(typed) = node.first_element_child() else { return Some(Value::Text(text(node))) };
    Some(match typed.tag_name().name() {
        "int" | "i4" | "i8" => Value::Integer(text(typed).trim().parse().ok()?),
        "boolean" => Value::Boolean(text(typed).trim() == "1"),
        "array" => {
            let items = typed.first_element_child()?.children().filter(|child| child.has_tag_name("value"));
            Value::List(items.map(|item| value(item, depth)).collect::<Option<_>>()?)
        }
        "struct" => {
            let part = |member: Node<'_, '_>, name: &str| {
                member.children().find(|child| child.has_tag_name(name)).map(|child| child.id())
            };
            let member = |member: Node<'_, '_>| {
                let of = |name| part(member, name).and_then(|id| member.document().get_node(id));
                Some((text(of("name")?), value(of("value")?, depth)?))
            };
            let members = typed.children().filter(|child| child.has_tag_name("member"));
            Value::Struct(members.map(member).collect::<Option<_>>()?)
        }
        // string; double, dateTime.iso8601 and base64 are read as they are written.
        _ => Value::Text(text(typed)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(value: &Value) -> String {
        let value = written(value);
        format!(
            "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n<value>{value}</value>\n</param>\n\
             </params>\n</methodResponse>\n"
        )
    }

    #[test]
    fn what_is_written_is_read_back() {
        let members = [
            ("pid", Value::Integer(-3)),
            ("a<b&c", Value::Text("x < y && ]]>".into())),
            ("empty", Value::Text(String::new())),
            ("list", Value::List(vec![Value::Boolean(true), Value::Boolean(false), Value::List(vec![])])),
        ];
        let whole = Value::Struct(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
        assert_eq!(parse(&response(&whole)), Ok(whole));
    }

    #[test]
    fn a_fault_is_told_from_an_answer_that_cannot_be_read() {
        let fault = "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>10</int></value>\
                     </member><member><name>faultString</name><value>BAD_NAME: x</value></member></struct></value>\
                     </fault></methodResponse>";
        assert_eq!(parse(fault), Err(CallError::Fault { code: 10, text: "BAD_NAME: x".into() }));
        let deep = "<array><data><value>".repeat(40) + &"</value></data></array>".repeat(40);
        for wrong in [
            "",
            "<html></html>",
            "<methodResponse><params/></methodResponse>",
            "<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>",
            "<methodResponse><fault><value>x</value></fault></methodResponse>",
            // Entities that grow.
            "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><methodResponse>&a;</methodResponse>",
            &format!("<methodResponse><params><param><value>{deep}</value></param></params></methodResponse>"),
        ] {
            assert!(matches!(parse(wrong), Err(CallError::Silent(_))), "{wrong}");
        }
    }
}
