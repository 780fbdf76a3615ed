//! Hooks: the shipped ones load and lack nothing, and every word of what is wrong with others.

use super::shipped::{installed, read};
use super::*;

#[test]
fn the_shipped_hooks_load_and_name_programs_that_are_shipped() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks/hooks");
    let mut names = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        let config = installed(&read(&path)).config();
        let order = config.target_for(&name("rpc-order.service"));
        assert!(!order.bindings.is_empty(), "{}", path.display());
        for policy in &config.policies {
            assert_eq!(config.lacks(policy, &order), Vec::<String>::new(), "{}: {}", path.display(), policy.name);
        }
        for registry in config.host.registries.values() {
            let RegistryConfig::Exec(hook) = registry else { continue };
            for argv in [&hook.isolate, &hook.restore, &hook.observe].into_iter().chain(&hook.count) {
                let program = argv[0].strip_prefix("/etc/unwait/runbooks/hooks/").unwrap();
                let metadata = folder.join(program).metadata().unwrap();
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(metadata.permissions().mode() & 0o111, 0o111, "{program}");
            }
        }
    }
    names.sort();
    assert_eq!(names, ["caddy", "elb", "envoy", "kubernetes", "nginx", "traefik"]);
}

#[test]
fn a_wrong_hook_says_all_of_it() {
    let observe = "observe: { url: \"http://h/{id}\", traffic: /s, passing: [up], drained: [out] }";
    let calls = "isolate: { url: \"http://h/out\" }, restore: { url: \"http://h/in\" }";
    for (text, says) in [
        (
            "registries: { exec: { elb: { restore: [/r], observe: [o], count: [/c, \"{serivce}\"] } } }".to_owned(),
            vec![
                "1:23 the command is empty: a list such as [/usr/bin/program, argument]",
                "1:55 a command begins with the program's full path, such as /usr/bin/curl; no shell runs it",
                "1:71 {serivce} is no placeholder; expected one of {id}, {service}, {instance}, {marker}, {incident}, \
                 {host}",
            ],
        ),
        (
            "registries: { exec: { redis: { isolate: [/i], restore: [/r], observe: [/o] } } }".to_owned(),
            vec!["1:23 `redis` is a kind of registry: give the hook another name"],
        ),
        (
            format!(
                "registries: {{ exec: {{ gate: {{ isolate: [/i], restore: [/r], observe: [/o] }} }}, http: {{ gate: {{ \
                 {calls}, {observe} }} }} }}"
            ),
            vec!["1:88 another hook has the name `gate`"],
        ),
        (
            "registries: { http: { gate: {} } }".to_owned(),
            vec![
                "1:23 `isolate` is missing: add `isolate: { url: \"http://127.0.0.1:9000/{instance}\" }`",
                "1:23 `observe` is missing: add `observe: { url: \"http://127.0.0.1:9000/{instance}\" }`",
                "1:23 `restore` is missing: add `restore: { url: \"http://127.0.0.1:9000/{instance}\" }`",
            ],
        ),
        (
            format!("registries: {{ http: {{ gate: {{ {calls}, observe: {{ url: h, traffic: s, passing: [up] }} }} }} }}"),
            vec![
                "1:114 expected a URL such as http://127.0.0.1:9000/{instance}",
                "1:98 `drained` is missing: add `drained: [WORD]`, the value at `traffic` in that state",
                "1:126 expected a JSON pointer, such as /status or /nodes/0/state; \"\" is the whole answer",
            ],
        ),
        (
            format!(
                "registries: {{ http: {{ gate: {{ {calls}, {observe}, count: {{ url: \"http://h/\", healthy: /a, \
                 registered: /b }} }} }} }}"
            ),
            vec![
                "1:177 `ourselves` is missing: add `ourselves: { /address: \"{instance}\" }`, what stands in our own item of the \
                 lists; or, of numbers, `includes_us: always`",
            ],
        ),
        (
            "registries:\n  http:\n    gate:\n      isolate: { url: \"http://h/o\", content_type: json }\n      restore: { url: \
             \"http://h/i\", body: \"{host}\", if_match: true }\n      observe: { url: \"http://h/\", traffic: \"/{ids}\", \
             passing: [up], absent: [404], drained_status: [99, 404], marker: \"\" }\n      count: { url: \"http://h/\", healthy: \
             \"\", registered: \"\", only: { state: up, /a~2b: \"{x}\" }, ourselves: { /at: \"{id}\" }, includes_us: never }\n      \
             tls: { ca_file: ca.pem }\n"
                .to_owned(),
            vec![
                "4:51 expected a media type, such as application/json",
                "6:45 {ids} is no placeholder; expected one of {id}, {service}, {instance}, {marker}, {incident}, \
                 {host}",
                "6:102 expected an HTTP status, such as 204",
                "6:106 404 is listed in `absent` too: remove it from one of the two lists",
                "7:71 expected a JSON pointer, such as /status or /nodes/0/state; \"\" is the whole answer",
                "7:82 expected a JSON pointer, such as /status or /nodes/0/state; \"\" is the whole answer",
                "7:89 {x} is no placeholder; expected one of {id}, {service}, {instance}, {marker}, {incident}, {host}",
                "7:139 `ourselves` says already which items are ours: leave one of them out",
                "8:7 no address here begins with https://, so the connection has no TLS: write https://, or remove \
                 `tls`",
                "8:23 expected a full path, beginning with /",
            ],
        ),
        (
            "registries: { health_file: {} }".to_owned(),
            vec!["1:15 `directory` is missing: add `directory: /run/health`"],
        ),
        (
            "registries: { health_file: { directory: /run } }\nservices: [{ service: a.service, register: [{ registry: \
             health_file, id: up }] }]"
                .to_owned(),
            vec!["2:74 an instance's id there is SERVICE/FILE, such as rpc-order/up"],
        ),
    ] {
        let mut says: Vec<String> = says.into_iter().map(|line| format!("agent.yaml:{line}")).collect();
        let mut wrong = Tree::with(&[("agent.yaml", &text)]).wrong();
        says.sort();
        wrong.sort();
        assert_eq!(wrong, says, "{text}");
    }
}

#[test]
fn a_service_in_registries_that_count_nobody_lacks_a_count() {
    let of = |register: &str| {
        let text = format!(
            "registries:\n  health_file: {{ directory: /run }}\n  consul: {{ url: \"http://127.0.0.1:8500\", scope: node }}\n  \
             exec: {{ nginx: {{ isolate: [/i], restore: [/r], observe: [/o], count: [/c] }}, elb: {{ isolate: [/i], restore: \
             [/r], observe: [/o] }} }}\nservices:\n  - service: a.service\n    register: [{register}]\n    health: {{ tcp: \
             \"127.0.0.1:1\" }}\n"
        );
        let config = installed(&text).config();
        let drains = &config.runbooks["isolate-restart-recover"];
        config.lacks_for(drains, &config.target_for(&name("a.service")))
    };
    let [file, elb] = ["{ registry: health_file, id: a/up }", "{ registry: elb, id: a/i-1 }"];
    for none in [file.to_owned(), elb.to_owned(), format!("{file}, {elb}")] {
        let lacks = of(&none);
        assert!(lacks.len() == 1 && lacks[0].starts_with("min_healthy:"), "{none}: {lacks:?}");
    }
    for one in ["{ registry: consul, id: a-1 }", "{ registry: nginx, id: a/1 }"] {
        assert_eq!(of(&format!("{file}, {one}")), Vec::<String>::new());
    }
}
