//! The directions of the house, kept by a scan of its sources: which module may know which, where processes are
//! started, and what no file outside the tests may hold.
//!
//! The scan is of text: comments and what `#[cfg(test)]` guards are left out, and `crate::` paths are read, also
//! those of nested `use` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each module may know. A path stands for all below it; `ports` alone for the traits, never for an adapter.
const MAY_KNOW: [(&str, &[&str]); 21] = [
    ("model", &[]),
    ("trust", &[]),
    ("clock", &[]),
    ("command", &[]),
    ("crash", &[]),
    ("collect", &["model", "clock"]),
    ("attribute", &["model", "clock"]),
    ("measure", &["model"]),
    ("config", &["model", "trust"]),
    ("store", &["model", "clock", "crash"]),
    ("ports", &["model", "clock", "command", "crash", "trust"]),
    ("evidence", &["model", "clock", "command"]),
    ("serve", &["model", "clock", "store", "view", "report"]),
    ("report", &["model", "evidence", "store", "view"]),
    ("decide", &["model", "clock", "store", "ports", "crash"]),
    ("execute", &["model", "clock", "store", "ports", "crash"]),
    ("sense", &["model", "clock", "collect", "attribute", "measure", "config", "decide::possible", "execute::world"]),
    ("wiring", &BELOW_THE_WIRING),
    (
        "view",
        &[
            "model",
            "store",
            "config::Diagnostics",
            "decide::detector",
            "decide::guards",
            "execute::saga",
            "execute::tell",
        ],
    ),
    ("daemon", &BELOW_THE_DAEMON),
    (
        "cli",
        &[
            "daemon",
            "view",
            "report",
            "wiring",
            "sense",
            "config",
            "decide::guards::Refusal",
            "model",
            "store",
            "clock",
            "decide::rehearse",
            "decide::replay",
            "execute::saga",
            "execute::tell",
            "collect",
        ],
    ),
];

const BELOW_THE_WIRING: [&str; 14] = [
    "sense",
    "model",
    "trust",
    "clock",
    "command",
    "crash",
    "collect",
    "attribute",
    "config",
    "store",
    "ports",
    "evidence",
    "decide",
    "execute",
];

/// Of `ports` the traits: adapters are the wiring's.
const BELOW_THE_DAEMON: [&str; 14] = [
    "view", "wiring", "sense", "model", "clock", "crash", "measure", "config", "store", "ports", "decide", "execute",
    "serve", "report",
];

/// Where a direction is broken knowingly, and why.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("agent/cli/demo/curtain.rs", "evidence::peers", "the demo ends with what the bundle says, read by its own type"),
    ("agent/cli/replay/sources.rs", "measure::dump", "dumps that a person has are measured as a look is"),
];

/// Adapters: known to the wiring, and to what lies beside them. The traits stand in `ports` and `ports::DOOR`.
const DOORS: [&str; 5] = ["fleet", "notifier", "probe", "registry", "restarter"];

/// Where processes are started.
const STARTS_PROCESSES: [&str; 4] =
    ["agent/command.rs", "agent/ports/restarter/process/successor.rs", "agent/ports/probe/real.rs", "agent/cli/demo"];

const MOST_LINES: usize = 500;

struct Source {
    path: String,
    lines: usize,
    /// Without comments, strings and tests.
    code: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    walk(&root().join("agent"), &mut files);
    assert!(files.len() > 100, "the sources are not where they were: {} files", files.len());
    let texts: BTreeMap<String, String> = files
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(root()).expect("it was found below").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&file).expect("a source is text");
            (path, text)
        })
        .collect();
    let tests = test_modules(&texts);
    texts
        .into_iter()
        .filter(|(path, _)| {
            !tests.iter().any(|test| path == &format!("{test}.rs") || path.starts_with(&format!("{test}/")))
        })
        .map(|(path, text)| Source { path, lines: text.lines().count(), code: without_tests(&plain(&text)) })
        .collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the sources") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The modules that are compiled into tests alone: `#[cfg(test)] mod NAME;`, by their paths without `.rs`.
fn test_modules(texts: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, text) in texts {
        let (mut guarded, mut elsewhere) = (false, None);
        for line in text.lines().map(str::trim) {
            match line {
                "" => {}
                _ if line.starts_with("//") => {}
                _ if is_test_guard(line) => guarded = true,
                _ if line.starts_with("#[path") => elsewhere = line.split('"').nth(1),
                _ if line.starts_with("#[") => {}
                _ => {
                    let declared =
                        line.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("mod ");
                    if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')).filter(|_| guarded) {
                        let own = path.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib");
                        let beside = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                        found.insert(match elsewhere {
                            Some(file) => format!("{beside}/{}", file.trim_end_matches(".rs")),
                            None => format!("{own}/{name}"),
                        });
                    }
                    (guarded, elsewhere) = (false, None);
                }
            }
        }
    }
    found
}

fn is_test_guard(line: &str) -> bool {
    line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(test)")
}

/// The text without comments, and with empty strings.
fn plain(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            ('r', '"' | '#') if i == 0 || !(at(i - 1).is_alphanumeric() || at(i - 1) == '_') => {
                let hashes = (i + 1..).take_while(|index| at(*index) == '#').count();
                if at(i + 1 + hashes) == '"' {
                    i += hashes + 2;
                    let ends = |index: usize| at(index) == '"' && (1..=hashes).all(|more| at(index + more) == '#');
                    while i < chars.len() && !ends(i) {
                        i += 1;
                    }
                    i += hashes + 1;
                    out.push_str("\"\"");
                } else {
                    out.push('r');
                    i += 1;
                }
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            // A character, and not a lifetime.
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
                out.push_str("' '");
            }
            ('\'', _) if at(i + 2) == '\'' => {
                i += 3;
                out.push_str("' '");
            }
            (other, _) => {
                out.push(other);
                i += 1;
            }
        }
    }
    out
}

/// Drops each item that `#[cfg(test)]` guards: up to its `;`, or to the end of its braces.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(") {
        let (before, guarded) = rest.split_at(start);
        out.push_str(before);
        let end_of_guard = guarded.find(']').map_or(guarded.len(), |end| end + 1);
        if !is_test_guard(&guarded[..end_of_guard]) {
            out.push_str(&guarded[..end_of_guard]);
            rest = &guarded[end_of_guard..];
            continue;
        }
        let mut depth = 0usize;
        let mut end = guarded.len();
        for (index, c) in guarded[end_of_guard..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if (c == ';' || c == '}') && depth == 0 {
                end = end_of_guard + index + c.len_utf8();
                break;
            }
        }
        rest = &guarded[end..];
    }
    out.push_str(rest);
    out
}

/// Every path behind `crate::`, nested lists spelled out: `crate::{a, b::{c, d}}` is `a`, `b::c`, `b::d`.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (index, _) in code.match_indices("crate::") {
        let named = code[..index].chars().next_back();
        if named.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        spell_out("", &code[index + "crate::".len()..], &mut paths);
    }
    paths
}

/// Reads one path or list; returns what stands behind it.
fn spell_out<'a>(prefix: &str, text: &'a str, paths: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(behind) = rest.strip_prefix('}') {
                return behind;
            }
            if rest.is_empty() {
                return rest;
            }
            let behind = spell_out(prefix, rest, paths);
            rest = behind.trim_start().strip_prefix(',').unwrap_or(behind);
            if rest.len() == text.len() {
                return rest;
            }
        }
    }
    let length = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(text.len());
    let (name, rest) = text.split_at(length);
    let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}::{name}") };
    match rest.strip_prefix("::") {
        Some(behind) => spell_out(&path, behind, paths),
        None => {
            if !name.is_empty() && name != "self" {
                paths.insert(path);
            } else if name == "self" {
                paths.insert(prefix.to_string());
            }
            // `as another`, in a list.
            let as_another = rest
                .trim_start()
                .strip_prefix("as ")
                .map(|renamed| renamed.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
            let behind = as_another.unwrap_or(rest);
            // What cannot be read is stepped over, so that a list always ends.
            match name.is_empty() && as_another.is_none() {
                true => behind.get(behind.chars().next().map_or(0, char::len_utf8)..).unwrap_or(""),
                false => behind,
            }
        }
    }
}

/// The module that a file belongs to: `agent/execute/steps/drain.rs` is of `execute`.
fn module_of(path: &str) -> &str {
    let below = path.strip_prefix("agent/").unwrap_or(path);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

fn is_below(path: &str, allowed: &str) -> bool {
    path == allowed || path.strip_prefix(allowed).is_some_and(|rest| rest.starts_with("::"))
}

/// `ports::registry::consul::Consul` names an adapter; `ports::registry::Registry` does not. Which is which is
/// told by the files: a door's adapters are the modules beside its `mod.rs`.
fn adapters() -> BTreeSet<String> {
    let mut adapters = BTreeSet::new();
    for door in DOORS {
        for entry in std::fs::read_dir(root().join("agent/ports").join(door)).expect("a door's directory") {
            let path = entry.expect("an entry of it").path();
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            if name != "mod" {
                adapters.insert(format!("ports::{door}::{name}"));
            }
        }
    }
    assert!(adapters.len() >= 10, "{adapters:?}");
    adapters
}

fn broken_directions(path: &str, code: &str, adapters: &BTreeSet<String>) -> Vec<String> {
    let module = module_of(path);
    let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: `{module}` is a module that no rule speaks of")];
    };
    crate_paths(code)
        .into_iter()
        .filter(|known| {
            let own = is_below(known, module);
            let adapter =
                adapters.iter().any(|adapter| is_below(known, adapter)) && !matches!(module, "wiring" | "ports");
            let excepted = EXCEPTIONS.iter().any(|(file, what, _)| *file == path && is_below(known, what));
            let lies_in_the_crate = MAY_KNOW.iter().any(|(name, _)| is_below(known, name));
            let fits = own || allowed.iter().any(|allowed| is_below(known, allowed));
            lies_in_the_crate && !excepted && (!fits || adapter)
        })
        .map(|known| format!("{path}: {module} must not know crate::{known}"))
        .collect()
}

#[test]
fn each_module_knows_only_what_it_may() {
    let adapters = adapters();
    let top = |path: &str| matches!(path, "agent/lib.rs" | "agent/main.rs");
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| !top(&source.path))
        .flat_map(|source| broken_directions(&source.path, &source.code, &adapters))
        .collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn the_scan_sees_what_it_is_meant_to_see() {
    let adapters = adapters();
    for (path, code, broken) in [
        ("agent/model/x.rs", "use crate::model::plan;", 0),
        ("agent/model/x.rs", "use crate::clock::Clock;", 1),
        ("agent/measure/x.rs", "use crate::{model::{Census, Signal}, store::Store};", 1),
        ("agent/measure/x.rs", "fn f(_: crate::store::Store, _: crate::config::Config) {}", 2),
        ("agent/execute/x.rs", "use crate::ports::registry::{Registry, Traffic};", 0),
        ("agent/execute/x.rs", "use crate::ports::registry::{Registry, consul::Consul};", 1),
        ("agent/execute/x.rs", "use crate::ports::{self, probe as p, fleet::{dry::DrySlots as D, Slot}};", 1),
        ("agent/decide/x.rs", "// crate::wiring::Agent\nconst A: &str = \"crate::wiring\"; const B: char = '\"';", 0),
        ("agent/decide/x.rs", "const B: char = '\"'; use crate::wiring::Agent;", 1),
        ("agent/decide/x.rs", "const R: &str = r#\"a \" b\"#; use crate::collect::Collector;", 1),
        ("agent/decide/x.rs", "#[cfg(test)]\nmod t { use crate::wiring::Agent; fn f() { } } use crate::wiring::b;", 1),
        ("agent/cli/x.rs", "use crate::decide::{rehearse::rehearse, guards::Gate};", 1),
        ("agent/wiring/x.rs", "use crate::ports::registry::consul::Consul;", 0),
        ("agent/serve/x.rs", "use crate::{model::Reason, ports::fleet::Fleet};", 1),
        ("agent/unheard_of/x.rs", "", 1),
    ] {
        let found = broken_directions(path, &without_tests(&plain(code)), &adapters);
        assert_eq!(found.len(), broken, "{path}: {code}: {found:?}");
    }
}

#[test]
fn processes_are_started_in_few_places_and_never_by_a_shell() {
    let mut broken = Vec::new();
    for source in sources() {
        let may = STARTS_PROCESSES.iter().any(|place| source.path.starts_with(place));
        let starts = ["process::Command", "posix_spawn", "libc::fork", "unistd::fork", "execv", "libc::system"];
        for start in starts.into_iter().filter(|start| source.code.contains(start) && !may) {
            broken.push(format!("{}: {start}", source.path));
        }
        let text = std::fs::read_to_string(root().join(&source.path)).expect("it was read before");
        for shell in ["\"/bin/sh\"", "\"sh\"", "\"bash\"", "\"/bin/bash\"", "\"-c\""] {
            // Comments may speak of shells; tests run what they like.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(shell)) {
                broken.push(format!("{}: a shell, {shell}", source.path));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn nothing_is_unwrapped_left_undone_or_hushed_outside_the_tests() {
    let banned = [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "allow(dead_code)"];
    let broken: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            banned
                .iter()
                .filter(|banned| source.code.contains(**banned))
                .map(|banned| format!("{}: {banned}", source.path))
        })
        .collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn no_file_holds_too_much() {
    let mut files = Vec::new();
    walk(&root().join("agent"), &mut files);
    let mut broken = Vec::new();
    for file in files {
        let path = file.strip_prefix(root()).expect("it was found below").to_string_lossy().into_owned();
        let lines = std::fs::read_to_string(&file).expect("a source is text").lines().count();
        if lines > MOST_LINES {
            broken.push(format!("{path}: {lines} lines of at most {MOST_LINES}"));
        }
    }
    for source in sources().iter().filter(|source| source.lines > 0 && source.code.trim().is_empty()) {
        broken.push(format!("{}: nothing but comments", source.path));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}
