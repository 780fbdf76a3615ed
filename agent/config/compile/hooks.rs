//! `registries.exec` and `registries.http`: hooks by the names that `register` uses.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fields::{address, file};
use super::{Compiling, items, millis, minutes, secs, tls};
use crate::config::expand::Environment;
use crate::config::host::RegistryConfig;
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::host::{
    ExecHookSpec, HttpCallSpec, HttpCountSpec, HttpHookSpec, HttpObserveSpec, IncludesUsSpec,
};
use crate::config::spec::scalar::Typed;
use crate::model::registry::WORDS;
use crate::model::{ExecHook, Having, HttpCall, HttpCount, HttpHook, IncludesUs, Ourselves};

/// What names a registry already.
const KINDS: [&str; 11] =
    ["consul", "etcd", "eureka", "exec", "file", "haproxy", "health_file", "http", "nacos", "redis", "zookeeper"];

pub fn compile(
    exec: BTreeMap<String, ExecHookSpec>,
    http: BTreeMap<String, HttpHookSpec>,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
    registries: &mut BTreeMap<String, RegistryConfig>,
) {
    for (name, spec) in exec {
        let place = place.key("exec").key(&name);
        named(&name, &place, registries, to);
        let hook = RegistryConfig::Exec(exec_hook(spec, &place, to, environment));
        registries.insert(name, hook);
    }
    for (name, spec) in http {
        let place = place.key("http").key(&name);
        named(&name, &place, registries, to);
        let headers_file = file(&place, "headers_file", spec.headers_file.clone(), to, environment);
        let (tls_spec, proxy_spec) = (spec.tls.clone(), spec.proxy.clone());
        let hook = Box::new(http_hook(spec, &place, to));
        let calls =
            [&hook.isolate, &hook.restore, &hook.observe].into_iter().chain(hook.count.as_ref().map(|c| &c.call));
        let urls: Vec<String> = calls.map(|call| call.url.clone()).collect();
        let tls = tls::beside(&urls, tls_spec, &place, to, environment);
        let proxy = tls::proxy(proxy_spec, &tls, &place, to);
        registries.insert(name, RegistryConfig::Http { hook, tls, proxy, headers_file });
    }
}

fn named(name: &str, place: &Place, registries: &BTreeMap<String, RegistryConfig>, to: &mut Compiling) {
    to.name(place, name);
    if KINDS.contains(&name) {
        to.wrong_key(place, format!("`{name}` is a kind of registry: give the hook another name"));
    } else if registries.contains_key(name) {
        to.wrong_key(place, format!("another hook has the name `{name}`"));
    }
}

fn exec_hook(spec: ExecHookSpec, place: &Place, to: &mut Compiling, environment: Environment) -> ExecHook {
    let argv = |key: &str, argv: Items<Typed<String>>, to: &mut Compiling| {
        let argv = to.argv(&place.key(key), argv);
        for (at, word) in argv.iter().enumerate() {
            words(&place.key(key).index(at), word, to);
        }
        argv
    };
    let files = spec.files.into_iter().filter_map(|(name, Typed(text))| {
        let place = place.key("files");
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            to.wrong_key(&place.key(&name), "expected a variable's name: letters, digits and _");
        }
        Some((name.clone(), file(&place, &name, Some(Typed(text)), to, environment)?))
    });
    ExecHook {
        files: files.collect(),
        isolate: argv("isolate", spec.isolate, to),
        restore: argv("restore", spec.restore, to),
        observe: argv("observe", spec.observe, to),
        count: spec.count.map(|count| argv("count", count, to)),
        deadline: deadline(spec.deadline, place, to),
        hold_every: hold_every(spec.hold_every, place, to),
    }
}

fn deadline(spec: Option<Typed<Duration>>, place: &Place, to: &mut Compiling) -> Duration {
    to.duration(&place.key("deadline"), spec, secs(10), secs(1)..=minutes(5))
}

/// A hook costs more than a look of our own.
fn hold_every(spec: Option<Typed<Duration>>, place: &Place, to: &mut Compiling) -> Duration {
    to.duration(&place.key("hold_every"), spec, secs(5), millis(100)..=minutes(5))
}

/// What stands between braces is known, or a brace of JSON.
fn words(place: &Place, text: &str, to: &mut Compiling) {
    for after in text.split('{').skip(1) {
        let Some((word, _)) = after.split_once('}') else { continue };
        let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_word && !WORDS.contains(&word) {
            let known: Vec<String> = WORDS.iter().map(|word| format!("{{{word}}}")).collect();
            to.wrong(place, format!("{{{word}}} is no placeholder; expected one of {}", known.join(", ")));
        }
    }
}

fn http_hook(spec: HttpHookSpec, place: &Place, to: &mut Compiling) -> HttpHook {
    let example = "{ url: \"http://127.0.0.1:9000/{instance}\" }";
    let isolate = to.required(place, "isolate", spec.isolate, example);
    let restore = to.required(place, "restore", spec.restore, example);
    let observe = to.required(place, "observe", spec.observe, example);
    let call_of = |key: &str, spec: Option<HttpCallSpec>, to: &mut Compiling| match spec {
        Some(spec) => call(spec, "POST", &place.key(key), to),
        // That it is missing has been said.
        None => HttpCall::default(),
    };
    let (isolate, restore) = (call_of("isolate", isolate, to), call_of("restore", restore, to));
    let mut hook = HttpHook {
        observe: isolate.clone(),
        isolate,
        restore,
        absent: vec![],
        drained_status: vec![],
        traffic: String::new(),
        passing: vec![],
        failing: vec![],
        drained: vec![],
        isolated: vec![],
        marker: None,
        count: spec.count.map(|spec| count(spec, &place.key("count"), to)),
        deadline: deadline(spec.deadline, place, to),
        hold_every: hold_every(spec.hold_every, place, to),
    };
    if let Some(spec) = observe {
        observing(spec, &place.key("observe"), to, &mut hook);
    }
    hook
}

fn observing(spec: HttpObserveSpec, place: &Place, to: &mut Compiling, hook: &mut HttpHook) {
    hook.observe = call(HttpCallSpec { url: spec.url, ..HttpCallSpec::default() }, "GET", place, to);
    hook.absent = statuses(&place.key("absent"), spec.absent, to);
    let drained_status = spec.drained_status;
    hook.drained_status = statuses(&place.key("drained_status"), drained_status.clone(), to);
    for (place, status) in items(&place.key("drained_status"), drained_status) {
        if hook.absent.contains(&status) {
            to.wrong(&place, format!("{status} is listed in `absent` too: remove it from one of the two lists"));
        }
    }
    hook.traffic = pointer("traffic", spec.traffic, place, to);
    hook.marker = spec.marker.map(|marker| pointer("marker", Some(marker), place, to));
    let list = |words: Items<Typed<String>>| words.into_iter().flatten().map(|Typed(word)| word).collect::<Vec<_>>();
    for (key, words, into) in [
        ("passing", spec.passing, &mut hook.passing),
        ("failing", spec.failing, &mut hook.failing),
        ("drained", spec.drained, &mut hook.drained),
        ("isolated", spec.isolated, &mut hook.isolated),
    ] {
        *into = list(words);
        let by_status = key == "drained" && !hook.drained_status.is_empty();
        if into.is_empty() && matches!(key, "passing" | "drained") && !by_status && !to.said(&place.key(key)) {
            to.wrong_key(
                place,
                format!("`{key}` is missing: add `{key}: [WORD]`, the value at `traffic` in that state"),
            );
        }
    }
}

fn count(spec: HttpCountSpec, place: &Place, to: &mut Compiling) -> HttpCount {
    let ourselves = having("ourselves", spec.ourselves, place, to);
    let ourselves = match (ourselves.is_empty(), spec.includes_us) {
        (true, None) => {
            let what = "`ourselves` is missing: add `ourselves: { /address: \"{instance}\" }`, what stands in our own item of \
                        the lists; or, of numbers, `includes_us: always`";
            if !to.said(&place.key("ourselves")) && !to.said(&place.key("includes_us")) {
                to.wrong_key(place, what);
            }
            Ourselves::Having(ourselves)
        }
        (true, Some(IncludesUsSpec::Never)) => Ourselves::Included(IncludesUs::Never),
        (true, Some(IncludesUsSpec::InTraffic)) => Ourselves::Included(IncludesUs::InTraffic),
        (true, Some(IncludesUsSpec::Always)) => Ourselves::Included(IncludesUs::Always),
        (false, None) => Ourselves::Having(ourselves),
        (false, Some(_)) => {
            to.wrong(&place.key("includes_us"), "`ourselves` says already which items are ours: leave one of them out");
            Ourselves::Having(ourselves)
        }
    };
    HttpCount {
        call: call(HttpCallSpec { url: spec.url, ..HttpCallSpec::default() }, "GET", place, to),
        healthy: pointer("healthy", spec.healthy, place, to),
        registered: pointer("registered", spec.registered, place, to),
        only: having("only", spec.only, place, to),
        only_healthy: having("only_healthy", spec.only_healthy, place, to),
        ourselves,
    }
}

/// JSON pointers within an item, and the word that must stand there.
fn having(key: &str, spec: BTreeMap<String, Typed<String>>, within: &Place, to: &mut Compiling) -> Having {
    let place = within.key(key);
    spec.into_iter()
        .map(|(at, Typed(word))| {
            let place = place.key(&at);
            if !is_pointer(&at) {
                to.wrong_key(&place, POINTER);
            }
            words(&place, &at, to);
            words(&place, &word, to);
            (at, word)
        })
        .collect()
}

fn call(spec: HttpCallSpec, method: &str, place: &Place, to: &mut Compiling) -> HttpCall {
    let url = to.required(place, "url", spec.url, "\"http://127.0.0.1:9000/{instance}\"");
    let url = url.map(|Typed(text)| {
        words(&place.key("url"), &text, to);
        address(&place.key("url"), text, &["http", "https"], "http://127.0.0.1:9000/{instance}", to)
    });
    let method = spec.method.map_or(method.to_owned(), |Typed(method)| method);
    if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str()) {
        to.wrong(&place.key("method"), "expected GET, POST, PUT, PATCH or DELETE");
    }
    let body = spec.body.map(|Typed(body)| body);
    if let Some(body) = &body {
        words(&place.key("body"), body, to);
    }
    let content_type = spec.content_type.map(|Typed(kind)| kind);
    let is_media_type = |kind: &String| kind.contains('/') && kind.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if content_type.as_ref().is_some_and(|kind| !is_media_type(kind)) {
        to.wrong(&place.key("content_type"), "expected a media type, such as application/json");
    }
    let expect = statuses(&place.key("expect"), spec.expect, to);
    HttpCall { method, url: url.unwrap_or_default(), body, content_type, if_match: spec.if_match, expect }
}

fn statuses(place: &Place, spec: Items<u16>, to: &mut Compiling) -> Vec<u16> {
    let checked = items(place, spec).inspect(|(place, status)| {
        if !(100..=599).contains(status) {
            to.wrong(place, "expected an HTTP status, such as 204");
        }
    });
    checked.map(|(_, status)| status).collect()
}

const POINTER: &str = "expected a JSON pointer, such as /status or /nodes/0/state; \"\" is the whole answer";

/// A JSON pointer, RFC 6901.
fn pointer(key: &str, spec: Option<Typed<String>>, within: &Place, to: &mut Compiling) -> String {
    let Some(Typed(text)) = to.required(within, key, spec, "/status") else { return String::new() };
    if !is_pointer(&text) {
        to.wrong(&within.key(key), POINTER);
    }
    words(&within.key(key), &text, to);
    text
}

/// `~` stands for itself as `~0`, and `/` as `~1`.
fn is_pointer(text: &str) -> bool {
    (text.is_empty() || text.starts_with('/')) && text.split('~').skip(1).all(|after| after.starts_with(['0', '1']))
}
