//! `agent.yaml`: its defaults, its ranges, and what must fit together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::fields::{expanded, url};
use super::{Compiling, bindings, fleet, hours, items, minutes, notify, registries, secs, tls};
use crate::config::expand::Environment;
use crate::config::host::{EvidenceConfig, HostConfig, HttpConfig, Match, MinFree, RegistryConfig, ServiceConfig};
use crate::config::place::Place;
use crate::config::spec::Items;
use crate::config::spec::host::{
    DirectorySpec, EvidenceSpec, HealthSpec, HostSpec, HttpSpec, MatchSpec, ProcessSpec, RestartSpec, ServiceSpec,
    SocketSpec,
};
use crate::config::spec::scalar::{Bytes, Free, Percentage, Typed};
use crate::config::{DEFAULT_DOCKER, DEFAULT_HTTP, DEFAULT_PODMAN, DEFAULT_SUPERVISORD};
use crate::model::plan::{Health, HttpHealth, ProcessRestart, Restart, SuperviseRestart, Supervisor};
use crate::model::service::{ServiceKind, ServiceName};
use crate::model::{Mode, ModeCeiling};

pub fn compile(spec: HostSpec, to: &mut Compiling, environment: Environment) -> HostConfig {
    let root = Place::root();
    let at = |key: &str| root.key(key);
    let interval = to.duration(&at("interval"), spec.interval, secs(15), secs(1)..=minutes(10));
    let registries = registries::compile(spec.registries, &at("registries"), to, environment);
    let services = services(spec.services, &at("services"), to, environment, &registries);
    let fleet = spec.fleet.and_then(|fleet| fleet::compile(fleet, &at("fleet"), to, environment, &registries));
    let state = match spec.state {
        Some(Typed(state)) => state_directory(&at("state"), state, to, environment),
        None => PathBuf::from(crate::config::DEFAULT_STATE),
    };
    HostConfig {
        interval,
        cpu_budget: cpu_budget(&at("cpu_budget"), spec.cpu_budget, to),
        labels: labels(spec.labels),
        services,
        fleet,
        notify: notify::destinations(spec.notify, &at("notify"), to, environment),
        evidence: evidence(spec.evidence, &at("evidence"), to),
        warm_up: to.duration(&at("warm_up"), spec.warm_up, 2 * interval, secs(0)..=hours(1)),
        restart_grace: to.duration(&at("restart_grace"), spec.restart_grace, minutes(5), secs(0)..=hours(24)),
        max_parallel: to.count(&at("max_parallel"), spec.max_parallel, 1, 1..=16),
        mode_at_most: spec.mode_at_most.map(|Typed(mode)| ceiling(mode, &at("mode_at_most"), to)),
        http: spec.http.map(|spec| http(spec, &at("http"), to)),
        language: spec.language.map(|Typed(language)| language).unwrap_or_default(),
        remind: to.duration(&at("remind"), spec.remind, hours(24), minutes(10)..=hours(30 * 24)),
        state,
        registries,
        secrets: std::mem::take(&mut to.secrets),
        tls: std::mem::take(&mut to.tls),
    }
}

/// Half a percent of one core, unless it is told.
fn cpu_budget(place: &Place, spec: Option<Typed<Percentage>>, to: &mut Compiling) -> f64 {
    let Some(Typed(Percentage(share))) = spec else { return 0.005 };
    if !(0.0001..=1.0).contains(&share) {
        to.wrong(place, "`cpu_budget` is a share of one core from 0.01% to 100%, such as 0.5%");
    }
    share
}

fn ceiling(mode: Mode, place: &Place, to: &Compiling) -> ModeCeiling {
    let stands = to.at_key(place);
    let file = stands.file.file_name().unwrap_or_default().display();
    ModeCeiling { mode, at: format!("{file}:{}", stands.line.unwrap_or_default()) }
}

/// Everybody on the host may read it, and nobody else unless the file says so.
fn http(spec: HttpSpec, place: &Place, to: &mut Compiling) -> HttpConfig {
    let listen = spec.listen.map_or(DEFAULT_HTTP, |Typed(listen)| listen);
    if listen.port() == 0 {
        to.wrong(&place.key("listen"), format!("expected a TCP port, 1 to 65535, such as {DEFAULT_HTTP}"));
    }
    let at = place.key("hosts");
    let hosts = items(&at, spec.hosts).map(|(at, Typed(host))| {
        let host = host.to_ascii_lowercase();
        let is_name =
            host.len() <= LONGEST_NAME && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if host.is_empty() || !(is_name || host.parse::<IpAddr>().is_ok()) {
            to.wrong(&at, "expected the name or the address in a browser's address bar, without a port: web-1.example");
        }
        host.parse::<IpAddr>().map_or(host, |address| address.to_canonical().to_string())
    });
    HttpConfig { hosts: hosts.collect(), listen }
}

/// Characters of a DNS name (RFC 1035, 2.3.4, as it is written).
const LONGEST_NAME: usize = 253;

fn labels(spec: BTreeMap<String, Typed<String>>) -> BTreeMap<String, String> {
    spec.into_iter().map(|(key, Typed(value))| (key, value)).collect()
}

/// The agent's control socket lies in it, and a socket's path is short.
fn state_directory(place: &Place, text: String, to: &mut Compiling, environment: Environment) -> PathBuf {
    const LONGEST: usize = 107 - "/control.sock".len(); // bytes, of sun_path
    let state = expanded(place, text, to, environment);
    let length = state.as_os_str().len();
    if length > LONGEST {
        let why = format!(
            "the path has {length} bytes, and at most {LONGEST} are allowed: the control socket lies in this \
             directory, and a socket's path is limited"
        );
        to.wrong(place, why);
    }
    state
}

fn services(
    spec: Items<ServiceSpec>,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
    registries: &BTreeMap<String, RegistryConfig>,
) -> BTreeMap<ServiceName, ServiceConfig> {
    let mut services = BTreeMap::new();
    let mut bound: BTreeMap<(String, String), ServiceName> = BTreeMap::new();
    for (place, spec) in items(place, spec) {
        let Some(Typed(name)) = to.required(&place, "service", spec.service.clone(), "NAME.service") else { continue };
        let service = compile_service(name.clone(), spec, &place, to, environment, registries);
        for (at, binding) in service.bindings.iter().enumerate() {
            let key = (binding.registry.clone(), binding.id.clone());
            if let Some(other) = bound.insert(key, name.clone()) {
                to.wrong(
                    &place.key("register").index(at),
                    format!("this registration belongs to {other} already: remove it from one of the two services"),
                );
            }
        }
        if services.insert(name.clone(), service).is_some() {
            to.wrong(&place.key("service"), format!("{name} is listed twice: write it once"));
        }
    }
    services
}

fn compile_service(
    service: ServiceName,
    spec: ServiceSpec,
    place: &Place,
    to: &mut Compiling,
    environment: Environment,
    registries: &BTreeMap<String, RegistryConfig>,
) -> ServiceConfig {
    let bindings = items(&place.key("register"), spec.register)
        .filter_map(|(place, register)| bindings::compile(register, &place, to, registries))
        .collect();
    let found_by = spec.found_by.map(|spec| compile_match(spec, &place.key("match"), to));
    let says_how_to_restart = spec.restart.is_some();
    let restart = spec.restart.and_then(|spec| restart(spec, &service, &place.key("restart"), to));
    if service.kind() == ServiceKind::Process
        && found_by.is_none()
        && !says_how_to_restart
        && !to.said(&place.key("match"))
        && !to.said(&place.key("restart"))
    {
        to.wrong(
            &place.key("service"),
            format!("{service} has no `match:`: add one with ports, cgroup, process or pid_file"),
        );
    }
    if spec.with_dependents && service.kind() != ServiceKind::Unit {
        to.wrong_key(&place.key("with_dependents"), "only a systemd unit has dependents: remove `with_dependents`");
    }
    ServiceConfig {
        labels: labels(spec.labels),
        bindings,
        health: spec.health.and_then(|spec| health(spec, &place.key("health"), to, environment)),
        found_by,
        restart,
        with_dependents: spec.with_dependents,
        grace: spec.grace.map(|grace| to.duration(&place.key("grace"), Some(grace), secs(0), secs(0)..=hours(24))),
        service,
    }
}

fn health(spec: HealthSpec, place: &Place, to: &mut Compiling, environment: Environment) -> Option<Health> {
    let HealthSpec { tcp, http, redis_ping, exec, tls: tls_spec } = spec;
    let url = http.map(|Typed(text)| {
        let path = text.ends_with('/');
        let url = url(&place.key("http"), text, to);
        if path { format!("{url}/") } else { url }
    });
    let urls: Vec<String> = url.iter().cloned().collect();
    if tls_spec.is_some() && url.is_none() && !to.said(&place.key("http")) {
        to.wrong_key(&place.key("tls"), "only an `http` check uses TLS: add `http: \"https://…\"`, or remove `tls`");
    }
    let tls = tls::beside(&urls, tls_spec, place, to, environment);
    let mut questions: Vec<Health> = Vec::new();
    questions.extend(tcp.map(|Typed(address)| Health::Tcp(address)));
    questions.extend(url.map(|url| Health::Http(HttpHealth { url, tls })));
    questions.extend(redis_ping.map(|Typed(address)| Health::RedisPing(address)));
    questions.extend(exec.map(|argv| Health::Exec(to.argv(&place.key("exec"), argv))));
    if questions.len() != 1 && !to.said(place) {
        to.wrong_key(place, "expected one of tcp, http, redis_ping, exec");
    }
    questions.pop()
}

fn compile_match(spec: MatchSpec, place: &Place, to: &mut Compiling) -> Match {
    let ports: Vec<u16> = items(&place.key("ports"), spec.ports)
        .inspect(|(place, port)| {
            if *port == 0 {
                to.wrong(place, "expected a TCP port, 1 to 65535");
            }
        })
        .map(|(_, port)| port)
        .collect();
    let text = |value: Option<Typed<String>>| value.map(|Typed(text)| text);
    let (cgroup, process) = (text(spec.cgroup), text(spec.process));
    if cgroup.as_ref().is_some_and(|path| !path.starts_with('/') || path == "/") {
        to.wrong(&place.key("cgroup"), "expected a cgroup as in /proc/PID/cgroup, such as /system.slice/gate.slice");
    }
    if process.as_ref().is_some_and(|name| name.is_empty() || !name.starts_with('/') && name.len() > 15) {
        to.wrong(
            &place.key("process"),
            "expected the executable's full path, or the process' name, of which the kernel keeps 15 characters",
        );
    }
    let pid_file = text(spec.pid_file).map(|path| to.path(&place.key("pid_file"), path));
    let found = Match { ports, cgroup, process, pid_file };
    if found == Match::default() && !to.said(place) {
        to.wrong_key(place, "`match` is empty: give ports, cgroup, process or pid_file");
    }
    found
}

fn restart(spec: RestartSpec, service: &ServiceName, place: &Place, to: &mut Compiling) -> Option<Restart> {
    let (key, of_kind) = match spec {
        RestartSpec::Process(_) => ("process", ServiceKind::Process),
        RestartSpec::Supervisord(_) => ("supervisord", ServiceKind::Program),
        RestartSpec::Docker(_) => ("docker", ServiceKind::Container),
        RestartSpec::Podman(_) => ("podman", ServiceKind::Container),
        RestartSpec::Runit(_) => ("runit", ServiceKind::Process),
        RestartSpec::S6(_) => ("s6", ServiceKind::Process),
    };
    let place = place.key(key);
    if service.kind() != of_kind {
        let what = match of_kind {
            ServiceKind::Process => format!(
                "{service} is a {}, whose own supervisor would start it a second time: remove `restart`",
                service.kind()
            ),
            other => format!("{service} is a {}, and this restarts a {other}: remove `restart`", service.kind()),
        };
        to.wrong_key(&place, what);
    }
    let socket = |spec: SocketSpec, default: &str, to: &mut Compiling| {
        let socket = to.required(&place, "socket", spec.socket, default);
        socket.map(|Typed(path)| to.path(&place.key("socket"), path))
    };
    let container = |socket| Restart::Docker { container: service.bare().into(), socket };
    Some(match spec {
        RestartSpec::Process(spec) => Restart::Process(compile_process(spec, &place, to)?),
        RestartSpec::Docker(spec) => container(socket(spec, DEFAULT_DOCKER, to)?),
        RestartSpec::Podman(spec) => container(socket(spec, DEFAULT_PODMAN, to)?),
        RestartSpec::Supervisord(spec) => {
            let socket = socket(spec, DEFAULT_SUPERVISORD, to)?;
            Restart::Supervisord { program: service.bare().into(), socket }
        }
        RestartSpec::Runit(spec) => Restart::Supervise(directory(Supervisor::Runit, spec, &place, to)?),
        RestartSpec::S6(spec) => Restart::Supervise(directory(Supervisor::S6, spec, &place, to)?),
    })
}

fn directory(by: Supervisor, spec: DirectorySpec, place: &Place, to: &mut Compiling) -> Option<SuperviseRestart> {
    let dir = to.required(place, "dir", spec.dir, "/etc/service/NAME");
    Some(SuperviseRestart {
        by,
        dir: dir.map(|Typed(path)| to.path(&place.key("dir"), path))?,
        stop_timeout: stop_timeout(spec.stop_timeout, place, to),
    })
}

fn stop_timeout(spec: Option<Typed<Duration>>, place: &Place, to: &mut Compiling) -> Duration {
    to.duration(&place.key("stop_timeout"), spec, secs(10), secs(1)..=minutes(10))
}

fn compile_process(spec: ProcessSpec, place: &Place, to: &mut Compiling) -> Option<ProcessRestart> {
    let pid_file = to.required(place, "pid_file", spec.pid_file, "/run/NAME.pid");
    let argv = to.argv(&place.key("argv"), spec.argv);
    Some(ProcessRestart {
        argv,
        pid_file: pid_file.map(|Typed(path)| to.path(&place.key("pid_file"), path))?,
        stop_timeout: stop_timeout(spec.stop_timeout, place, to),
        reload_signal: spec.reload_signal.map(|Typed(signal)| signal),
    })
}

fn evidence(spec: EvidenceSpec, place: &Place, to: &mut Compiling) -> EvidenceConfig {
    let max_bytes = spec.max_bytes.map(|Typed(Bytes(bytes))| bytes);
    if max_bytes.is_some_and(|bytes| bytes < 1 << 20) {
        to.wrong(&place.key("max_bytes"), "the limit is too low for evidence: at least 1MiB");
    }
    EvidenceConfig {
        keep: to.count(&place.key("keep"), spec.keep, 50, 1..=10_000),
        max_bytes: max_bytes.unwrap_or(2 << 30),
        min_free: match spec.min_free {
            None => MinFree::Share(0.05),
            Some(Typed(Free::Share(share))) => MinFree::Share(share),
            Some(Typed(Free::Bytes(bytes))) => MinFree::Bytes(bytes),
        },
        max_age: to.duration(&place.key("max_age"), spec.max_age, hours(30 * 24), hours(1)..=hours(3_650 * 24)),
    }
}
