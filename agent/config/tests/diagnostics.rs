//! Wrong files, and what is said of them: line, column, words.

use proptest::prelude::*;

use super::*;

/// Each of these agent.yaml, and everything that is said.
#[test]
fn a_wrong_host_file_says_all_of_it() {
    for (text, says) in [
        ("interval: 15", vec!["1:11 expected a duration such as 30s, 2m30s or 6h, found `15`"]),
        ("interval: 20m", vec!["1:11 `interval` must be from 1s to 10m, found 20m"]),
        ("intervall: 15s", vec!["1:1 unknown key `intervall`: did you mean `interval`?"]),
        ("interval:", vec!["1:1 `interval` has no value: give one, or remove the line"]),
        ("interval: 1s\ninterval: 2s", vec!["2:1 `interval` is given twice; the first is in line 1"]),
        ("state: var/lib", vec!["1:8 expected a full path, beginning with /"]),
        ("state: ${NOPE}/x", vec!["1:8 the variable NOPE is not set"]),
        ("max_parallel: two", vec!["1:15 expected a whole number, found text"]),
        (
            "http: { listen: 9817 }",
            vec!["1:17 expected an IP address with a port, such as 127.0.0.1:7801 or [::1]:7801, found `9817`"],
        ),
        ("http: { listen: \"127.0.0.1:0\" }", vec!["1:17 expected a TCP port, 1 to 65535, such as 127.0.0.1:9817"]),
        ("max_parallel: 0", vec!["1:15 `max_parallel` must be from 1 to 16, found 0"]),
        ("registries: { consul: {} }", vec!["1:15 `url` is missing: add `url: \"http://127.0.0.1:8500\"`"]),
        (
            "registries: { consul: { url: \"http://me:pw@h:1\" } }",
            vec!["1:30 a URL with credentials would appear in logs: put the token into a file of its own"],
        ),
        ("registries: { consul: { url: h:1 } }", vec!["1:30 expected a URL such as http://127.0.0.1:8500"]),
        (
            "registries: { redis: {} }",
            vec![
                "1:15 `profile` is missing: add `profile: sorted_set`",
                "1:15 `url` is missing: add `url: \"redis://127.0.0.1:6379\"`",
            ],
        ),
        (
            "registries: { redis: { url: \"redis://h:1\", profile: sorted_set } }",
            vec![
                "1:15 `key` is missing: add `key: \"rpc:providers:{service}\"`",
                "1:15 `stale_after` is missing: add `stale_after: 30s`",
            ],
        ),
        (
            "registries: { redis: { url: \"redis://h:1\", profile: set, key: \"rpc:{service}\", stale_after: 30s } }",
            vec!["1:80 only a `sorted_set` has the time of a heartbeat: remove the line"],
        ),
        (
            "registries: { redis: { url: \"redis://h:1\", profile: set, key: \"rpc:{service}:{instance}\" } }",
            vec!["1:63 expected `{service}` once and no `{instance}`, as in \"rpc:providers:{service}\""],
        ),
        (
            "registries: { redis: { url: \"redis://h:1\", profile: ttl_key, key: \"rpc:{instance}:{service}\" } }",
            vec!["1:67 expected `{service}` once and `{instance}` once behind it, as in \"rpc:{service}:{instance}\""],
        ),
        (
            "registries: { redis: { url: \"redis://h:1\", profile: dubbo, key: \"/shop/{service}\" } }",
            vec!["1:65 expected `{service}` once and `/providers` at the end, as in \"/dubbo/{service}/providers\""],
        ),
        (
            "registries: { redis: { url: \"redis://h:1\", profile: dubbo } }\nservices: [{ service: a.service, register: [{ registry: redis, id: a-1 }] }]",
            vec!["2:68 an instance's id there is SERVICE/INSTANCE, such as rpc-order/10.0.0.1:7801"],
        ),
        (
            "registries: { haproxy: {} }",
            vec!["1:15 `sockets` is missing: add `sockets: [/run/haproxy/admin.sock]`, of every balancer"],
        ),
        (
            "registries: { haproxy: { sockets: [/a.sock, admin.sock, /a.sock] } }",
            vec![
                "1:45 expected HOST:PORT, such as 10.0.0.1:2181 or [::1]:2181, found `admin.sock`; or a full path such as \
                 /run/haproxy/admin.sock",
                "1:57 this balancer is listed twice",
            ],
        ),
        ("registries: [consul]", vec!["1:13 expected a mapping, found a list"]),
        (
            "fleet: { consul: {} }",
            vec!["1:10 no Consul is named: add `url: \"http://127.0.0.1:8500\"` here, or `consul` to `registries`"],
        ),
        ("fleet: consul", vec!["1:8 expected settings, such as `{ consul: {} }`, found text"]),
        (
            "fleet: { consul: { token_file: /t } }",
            vec!["1:10 no Consul is named: add `url: \"http://127.0.0.1:8500\"` here, or `consul` to `registries`"],
        ),
        ("fleet: { etcd: {} }", vec!["1:10 `url` is missing: add `url: \"http://127.0.0.1:2379\"`"]),
        (
            "fleet: { etcd: { url: \"http://h:1\", password_file: /p } }",
            vec!["1:37 a password needs a user: add `user`"],
        ),
        (
            "fleet: { etcd: { url: \"http://h:1\", user: u } }",
            vec!["1:37 a user needs a password: add `password_file: PATH`"],
        ),
        (
            "fleet: { fleetlock: { group: all } }",
            vec!["1:10 `url` is missing: add `url: \"http://airlock.internal:3333\"`"],
        ),
        (
            "fleet: { fleetlock: { url: \"http://h:1\", group: a/b } }",
            vec!["1:49 a FleetLock group is made of letters, digits, dots and dashes"],
        ),
        ("services: [{}]", vec!["1:12 `service` is missing: add `service: NAME.service`"]),
        (
            "services:\n  - service: rpc\n  - service: b.service\n    helth: { tcp: x }",
            vec![
                "2:14 `rpc` is no service: expected NAME.service, container:NAME, program:NAME or process:NAME",
                "4:5 unknown key `helth`: did you mean `health`?",
            ],
        ),
        (
            "services: [{ service: a.service, health: { tcp: \"localhost:80\" } }]",
            vec!["1:49 expected an IP address with a port, such as 127.0.0.1:7801 or [::1]:7801, found `localhost:80`"],
        ),
        (
            "services: [{ service: a.service, health: { exec: [curl, x] } }]",
            vec!["1:51 a command begins with the program's full path, such as /usr/bin/curl; no shell runs it"],
        ),
        (
            "services: [{ service: a.service, register: [{ registry: consu, id: a }] }]",
            vec!["1:57 no registry `consu` under `registries:`; there are no registries here"],
        ),
        (
            "registries: { file: { path: /r } }\nservices:\n  - { service: a.service, register: [{ registry: file, id: x }] }\n  - { service: b.service, register: [{ registry: file, id: x }] }",
            vec!["4:38 this registration belongs to a.service already: remove it from one of the two services"],
        ),
        (
            "services: [{ service: a.service }, { service: a.service }]",
            vec!["1:47 a.service is listed twice: write it once"],
        ),
        (
            "services: [{ service: \"process:x\" }]",
            vec!["1:23 process:x has no `match:`: add one with ports, cgroup, process or pid_file"],
        ),
        (
            "services: [{ service: a.service, restart: { process: { argv: [/a], pid_file: /p } } }]",
            vec![
                "1:45 a.service is a systemd unit, whose own supervisor would start it a second time: remove `restart`",
            ],
        ),
        (
            "services: [{ service: a.service, restart: { supervisord: { socket: /s } } }]",
            vec!["1:45 a.service is a systemd unit, and this restarts a supervisord program: remove `restart`"],
        ),
        (
            "services: [{ service: \"process:x\", restart: { s6: { stop_timeout: 3s } } }]",
            vec!["1:47 `dir` is missing: add `dir: /etc/service/NAME`"],
        ),
        (
            "services: [{ service: \"program:x\", restart: { supervisord: {} } }]",
            vec!["1:47 `socket` is missing: add `socket: /run/supervisor.sock`"],
        ),
        (
            "services: [{ service: \"process:x\", match: { ports: [70000] } }]",
            vec!["1:53 expected a whole number from 0 to 65535, found 70000"],
        ),
        (
            "notify: [{ to: { slak: {} } }, { to: { slack: {} }, events: [stuk] }]",
            vec![
                "1:18 unknown key `slak`: did you mean `slack`?",
                "1:40 `url_file` is missing: add `url_file: ${CREDENTIALS_DIRECTORY}/NAME`",
                "1:62 `stuk` is no event: did you mean `stuck`?",
            ],
        ),
        (
            "notify: [{ to: { slack: { url_file: /u, channel: C1 } } }]",
            vec!["1:27 `url_file` is a webhook's, `token_file` and `channel` are a bot's: name those of one"],
        ),
        (
            "notify: [{ to: { slack: { token_file: /t } } }]",
            vec!["1:18 `channel` is missing: add `channel: C0123456789`"],
        ),
        (
            "evidence: { min_free: lots, keep: 0 }",
            vec![
                "1:23 expected a percentage such as 5% or a size such as 1GiB, found `lots`",
                "1:35 `keep` must be from 1 to 10000, found 0",
            ],
        ),
        ("- a", vec!["1:1 expected a mapping, found a list"]),
        ("", vec!["1:1 the file is empty"]),
    ] {
        expect("agent.yaml", text, &says);
    }
}

#[test]
fn a_wrong_policy_says_all_of_it() {
    let rest = "services: [a.service]\nfor: 1m\nrunbook: look\npolicy: p\n";
    for (text, says) in [
        (
            "description: nothing else".to_owned(),
            vec![
                "1:1 `for` is missing: add `for: 2m`",
                "1:1 `policy` is missing: add `policy: close-wait-leak`",
                "1:1 `runbook` is missing: add `runbook: isolate-restart-recover`",
                "1:1 `services` is missing: add `services: [\"NAME.service\"]`",
                "1:1 `when` is missing: add `when: close_wait.aged(5m) > 200`",
            ],
        ),
        (
            format!("{rest}when:\n  any:\n    - close_wate > 1\n    - close_wait > x\n    - close_wait > 5\n"),
            vec![
                "7:7 `close_wate` is no signal: did you mean `close_wait`?",
                "8:7 `close_wait` is compared with a count such as 200, found `x`",
            ],
        ),
        (format!("{rest}when: {{ or: [close_wait > 1] }}"), vec!["5:9 unknown key `or`: the keys here are `all`, `any`"]),
        (format!("{rest}when: {{ all: [], any: [] }}"), vec![
            "5:7 found both `all` and `any`: nest one within the other",
        ]),
        (format!("{rest}when: {{ all: [] }}"), vec!["5:9 the list is empty: give at least one comparison"]),
        (
            format!("{rest}when: {{ any: [host.close_wait > 5300, close_wait > 5] }}"),
            vec!["5:15 `host.close_wait` alone would breach every service of the host: in the same `all:`, add a comparison on the service, such as `close_wait.host_share >= 0.2`"],
        ),
        (
            "policy: p\nservices: [rpc, \"a[\", {a: b, c: d}]\nwhen: close_wait > 1\nfor: 1m\nrunbook: lok\nmode: atuo\n".to_owned(),
            vec![
                "2:12 `rpc` is no service: did you mean `rpc.service`?",
                "2:17 `a[` is no glob: unclosed character class; missing ']'",
                "2:23 expected one label with its value, such as {team: trade}; a second label is a second item",
                "5:10 no runbook `lok`: did you mean `look`?",
                "6:7 `atuo` is no mode: did you mean `auto`?",
            ],
        ),
        (
            format!("{rest}when: close_wait > 1\nguards: {{ min_healthy: 0, fleet_slots: 1 }}\nlimits: {{ per_host: often }}"),
            vec![
                "6:24 0 would allow taking out the last healthy instance: at least 1",
                "6:40 fleet slots need a store that all hosts share: add `fleet:` to agent.yaml, or write \
                 `fleet_slots: none`",
                "7:21 expected a budget such as 2 per 6h, found `often`",
            ],
        ),
        (
            format!("{rest}when: close_wait > 1\nguards:\n  windows:\n    - {{ days: mon-frei, hours: 9-18, tz: Asia/Shangai, action: block }}\n    - {{ days: [] }}\n    - {{ tz: UTC, action: deny, day: sat }}"),
            vec![
                "8:15 expected days such as mon, mon-fri or sat,sun, found `mon-frei`",
                "8:32 expected hours such as 09:00-18:00 or 22:00-06:00, found `9-18`",
                "8:42 `Asia/Shangai` is no time zone: did you mean `Asia/Shanghai`?",
                "8:64 `block` is no action: the actions here are `allow`, `deny`",
                "9:7 `action` is missing: add `action: deny`",
                "9:7 `tz` is missing: add `tz: Asia/Shanghai`",
                "9:15 the list is empty: name days such as mon-fri, or remove the line for every day",
                "10:32 unknown key `day`: did you mean `days`?",
            ],
        ),
        (
            format!("{rest}when: close_wait > 1\nguards: {{ common_cause: 55% }}"),
            vec!["6:25 `common_cause` needs the breaches of other hosts: add `fleet:` with consul, etcd or redis to \
                  agent.yaml, or remove the line"],
        ),
        (
            format!("{rest}when: close_wait > 1\nguards: {{ common_cause: most }}"),
            vec!["6:25 expected a percentage such as 55%, above 0%, found `most`"],
        ),
        (
            format!("{rest}when: close_wait > 1\nescalate: [look, look, lok]"),
            vec![
                "6:1 a policy has `escalate` or `runbook`, not both: remove one of them",
                "6:12 this runbook changes nothing, so it cannot help: list only runbooks that change something",
                "6:18 this runbook changes nothing, so it cannot help: list only runbooks that change something",
                "6:18 this runbook is listed twice: a runbook that did not help is not tried again",
                "6:24 no runbook `lok`: did you mean `look`?",
            ],
        ),
        (
            "services: [a.service]\nfor: 1m\npolicy: p\nwhen: close_wait > 1\nescalate: []\n".to_owned(),
            vec!["5:11 an escalation has two rungs or more; a single runbook is written `runbook: NAME`"],
        ),
        (
            format!("{rest}when: close_wait > 1\nmode: approve\nlimits: {{ approval_expires: 2d }}"),
            vec![
                "6:7 `mode: approve` needs somebody who can be asked: in agent.yaml, add a destination under `notify:` \
                 that gets the event `approval`",
                "6:7 `mode: approve` needs somebody who hears of a stuck incident: in agent.yaml, add a destination \
                 under `notify:` that gets the event `stuck`",
                "7:29 `approval_expires` must be from 1m to 1d, found 2d",
            ],
        ),
        (
            format!("{rest}when: close_wait > 1\nmode: auto"),
            vec!["6:7 `mode: auto` needs somebody who hears of a stuck incident: in agent.yaml, add a destination \
                  under `notify:` that gets the event `stuck`"],
        ),
        (
            format!("{rest}when: close_wait > 1\ntests:\n  - name: t\n    samples: {{ step: 15s, close_wait: [1 x 0, 2 x 3, many], fd.used: [1] }}\n    expect: {{ breach_at: 20s }}\n"),
            vec![
                "8:40 expected VALUE x COUNT, such as 210 x 12",
                "8:54 `close_wait` is compared with a count such as 200, found `many`",
                "8:61 the policy does not look at `fd.used`, only at close_wait",
                "9:26 there is no sample then: they come every 15s",
            ],
        ),
        (
            format!("{rest}when: close_wait > 1\ntests:\n  - name: t\n    samples: {{ step: 15s, close_wait: [1 x 3] }}\n    expect: {{ breach_at: 5m, clear_at: 1s }}\n  - name: t\n    samples: {{ close_wat: [1] }}\n"),
            vec![
                "9:26 the samples end at 30s",
                "9:40 the breach must begin before it can clear",
                "9:40 there is no sample then: they come every 15s",
                "10:5 `expect` is missing: add `expect: { breach_at: 2m30s }`",
                "11:16 `close_wat` is no signal: did you mean `close_wait`?",
            ],
        ),
    ] {
        expect("policies/p.yaml", &text, &says);
    }
}

#[test]
fn a_wrong_runbook_says_all_of_it() {
    for (steps, says) in [
        ("", vec!["1:1 a runbook needs `steps:` with at least one step"]),
        (
            "[drain]",
            vec!["2:9 the service would stay out of traffic: a `drain` needs a later `restore`, or a last `call`"],
        ),
        ("[restore]", vec!["2:9 the service is not out of traffic: a `restore` needs an earlier `drain`"]),
        ("[restore, drain]", vec!["2:9 `restore` comes before `drain`: move `restore` behind it"]),
        (
            "[drain, restart, restore]",
            vec![
                "2:25 an unhealthy service could be put into traffic: between `restart` and `restore`, add a `health_check`",
            ],
        ),
        (
            "[drain, restart, health_check, {run: {argv: [/x]}}, restore]",
            vec![
                "2:60 an unhealthy service could be put into traffic: between `run` and `restore`, add a `health_check`",
            ],
        ),
        (
            "[drain, snapshot, restore]",
            vec!["2:16 evidence is taken before the first change: move `snapshot` before `drain`"],
        ),
        (
            "[wait_drained, drain, restore]",
            vec!["2:9 the service is not drained yet: `wait_drained` comes behind `drain`"],
        ),
        (
            "[drain, restore, restart]",
            vec![
                "2:25 `restart` must not follow `restore`, since the service is back in traffic: only verify, run, \
                 notify and pause may",
            ],
        ),
        ("[restart, restart]", vec!["2:18 `restart` is listed a second time: a runbook has one at most"]),
        (
            "[{run: {argv: [/x], undo: [/y]}}, {run: {argv: [], effect: compensable}}]",
            vec![
                "2:28 `undo` needs `effect: compensable`: add that, or remove `undo`",
                "2:43 `undo` is missing: add `undo: [/full/path, argument]`",
                "2:49 the command is empty: a list such as [/usr/bin/program, argument]",
            ],
        ),
        (
            "[{drain: [5s]}, {restart: {deadline: 0s}}, notify]",
            vec![
                "2:17 expected a mapping, found a list",
                "2:45 `deadline` must be from 1s to 1h, found 0s",
                "2:51 `text` is missing: add `text: \"what to tell\"`",
            ],
        ),
        (
            "[{drian: {}}, {verify: {expect: [close_wait < few]}}]",
            vec![
                "2:10 unknown key `drian`: did you mean `drain`?",
                "2:41 `close_wait` is compared with a count such as 200, found `few`",
            ],
        ),
    ] {
        let text = if steps.is_empty() { "runbook: r\n".to_owned() } else { format!("runbook: r\nsteps: {steps}\n") };
        expect("runbooks/r.yaml", &text, &says);
    }
}

pub(super) fn expect(file: &str, text: &str, says: &[&str]) {
    let says: Vec<String> = says.iter().map(|line| format!("{file}:{line}")).collect();
    assert_eq!(Tree::with(&[(file, text)]).wrong(), says, "{text}");
}

#[test]
fn the_hosts_signal_is_tied_by_any_all_above_it() {
    let policy = |when: &str| POLICY.replace("close_wait > 5", when);
    for (when, loads) in [
        ("{ all: [host.close_wait > 5, close_wait > 1] }", true),
        ("{ all: [close_wait > 1, { any: [host.close_wait > 5, fd.used > 1] }] }", true),
        ("{ all: [host.close_wait > 5, { any: [close_wait > 1, fd.used > 1] }] }", true),
        ("{ all: [host.close_wait > 5, { any: [close_wait > 1, host.close_wait > 9] }] }", false),
        ("{ any: [{ all: [host.close_wait > 5, close_wait > 1] }, host.close_wait > 9] }", false),
        ("{ all: [host.close_wait > 5] }", false),
        ("host.close_wait > 5", false),
    ] {
        let loaded = Tree::with(&[("policies/p.yaml", &policy(when))]).load();
        assert_eq!(loaded.is_ok(), loads, "{when}: {loaded:?}");
    }
}

#[test]
fn a_drain_without_slots_is_not_automatic() {
    let agent = "registries: { file: { path: /r } }\nnotify: [{ to: { slack: { url_file: /s } } }]\n";
    let runbook = "runbook: whole\nsteps: [drain, restore]\n";
    let policy = "policy: q\nservices: [a.service]\nwhen: close_wait > 1\nfor: 1m\nrunbook: whole\nmode: auto\n";
    let files = [("agent.yaml", agent), ("runbooks/whole.yaml", runbook), ("policies/q.yaml", policy)];
    let wrong = Tree::with(&files).wrong();
    assert!(wrong.len() == 1 && wrong[0].contains("could drain the service on two hosts at once"), "{wrong:?}");
    let said = format!("{policy}guards: {{ fleet_slots: none }}\n");
    let tree = Tree::with(&files);
    tree.write("policies/q.yaml", &said);
    assert_eq!(tree.config().policies[1].guards.fleet_slots, None);
}

#[test]
fn errors_of_all_files_come_together_and_bring_no_others_along() {
    let tree = Tree::with(&[
        // Neither is `auto` complained of for want of `notify`, nor the policy for want of its runbook.
        ("agent.yaml", "interval: soon\nnotify: [{ to: { slak: {} } }]\n"),
        ("runbooks/look.yaml", "runbook: look\nsteps: [snapshott]\n"),
        ("policies/p.yaml", &format!("{}mode: auto\nfro: 2m\n", POLICY)),
        ("policies/q.yml", ""),
        ("policies/z.yaml", POLICY),
        ("policies/README.md", "not read"),
        ("policies/.p.yaml.swp.yaml", "not read"),
    ]);
    assert_eq!(
        tree.wrong(),
        [
            "agent.yaml:1:11 expected a duration such as 30s, 2m30s or 6h, found `soon`",
            "agent.yaml:2:18 unknown key `slak`: did you mean `slack`?",
            "policies/p.yaml:7:1 unknown key `fro`: did you mean `for`?",
            "policies/q.yml is not read: its name must end in .yaml",
            "policies/z.yaml:1:9 another policy is named `p` too, in p.yaml: rename one of them",
            "runbooks/look.yaml:2:9 unknown key `snapshott`: did you mean `snapshot`?",
        ]
    );
}

#[test]
fn a_runbook_that_has_lost_its_name_is_not_missed_by_its_policy() {
    let tree = Tree::with(&[("runbooks/look.yaml", "runbook: look\nsteps: [snapshot\n")]);
    assert_eq!(tree.wrong(), ["runbooks/look.yaml:3:1 not YAML: did not find expected ',' or ']'"]);
}

#[test]
fn a_directory_that_is_not_there_says_what_to_create() {
    let tree = Tree::empty();
    assert_eq!(tree.wrong(), ["agent.yaml does not exist: create it; a first one may be as short as `interval: 15s`"]);
    let wrong = load(&tree.path().join("nowhere")).unwrap_err().to_string();
    assert!(wrong.contains("does not exist: create it with agent.yaml"), "{wrong}");
}

#[test]
fn people_and_machines_are_shown_the_same_and_no_secret() {
    let url = "https://hooks.slack.com/services/T0/B0/verysecret";
    let text =
        format!("notify:\n  - to: {{ slack: {{ url: \"{url}\" }} }}\nregistries: {{ consul: {{ token: hunter2 }} }}\n");
    let wrong = Tree::with(&[("agent.yaml", &text)]).load().unwrap_err();
    let (people, machines) = (wrong.to_string(), serde_json::to_string(&wrong).unwrap());
    for shown in [&people, &machines] {
        assert!(!shown.contains("verysecret") && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("unknown key `url`"), "{shown}");
    }
    assert!(
        people.contains("    3 | registries: { consul: { token: ********} }\n      |                         ^"),
        "{people}"
    );
    assert!(machines.contains("\"line\":3,\"column\":25"), "{machines}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Random text, random YAML-like text, and a sound file with a piece of it replaced: an answer, never a panic.
    #[test]
    fn no_text_makes_it_panic(
        text in prop_oneof![
            "\\PC{0,80}",
            "([a-z_]{1,6}: |- |\\{|\\}|\\[|\\]|, |\n|  |\t|\"|'|&a|\\*a|!!|\\$\\{A\\}|> |1|x 9|--- |\\?|#){0,40}",
        ],
        cut in 0usize..400,
        long in 0usize..60,
    ) {
        let spliced = |whole: &str| {
            let chars: Vec<char> = whole.chars().collect();
            let start = cut.min(chars.len());
            let end = (start + long).min(chars.len());
            let (head, tail): (String, String) = (chars[..start].iter().collect(), chars[end..].iter().collect());
            format!("{head}{text}{tail}")
        };
        let agent = "services:\n  - service: a.service\n    register: [{ registry: consul, id: a }]\nnotify:\n  - to: { slack: { url_file: ${A}/x } }\n";
        let tree = Tree::with(&[("agent.yaml", &spliced(agent)), ("policies/p.yaml", &spliced(POLICY)), ("runbooks/r.yaml", &spliced(RUNBOOK))]);
        tree.write("policies/q.yaml", &text);
        if let Err(wrong) = tree.load() {
            prop_assert!(!wrong.is_empty());
            prop_assert!(!wrong.to_string().is_empty());
        }
    }
}
