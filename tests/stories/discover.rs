//! `unwait discover` on a host that has a Consul and a Redis registry: what it prints is pasted, and checks.

use crate::lab::agent::{Etc, HOST, unwait};
use crate::lab::service::PORT;
use crate::lab::stage::{REDIS_PORT, Stage};
use crate::lab::{Behaviour, Lab};

const TWIN: &str = "rpc-cart.service";

#[test]
fn what_discover_prints_is_pasted_and_checks() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::Sound);
    stage.service.start_twin(TWIN, REDIS_PORT, Behaviour::Sound);
    let instance = format!("127.0.0.1:{PORT}");
    lab.run(&[
        "redis-cli",
        "-p",
        &REDIS_PORT.to_string(),
        "HSET",
        "rpc:rpc-order",
        &instance,
        "up",
        "10.9.9.9:1",
        "up",
    ]);
    let registries = format!(
        "registries:\n  consul: {{ url: \"http://127.0.0.1:8500\" }}\n  redis: {{ url: \"redis://127.0.0.1:{REDIS_PORT}\", \
         profile: hash, key: \"rpc:{{service}}\" }}\n"
    );
    let etc = Etc::shipped().with(HOST, &registries);
    etc.write(&lab);

    let said = unwait(&lab, &["discover"]);
    assert_eq!(said.code, 0, "{said:?}");
    let ours = format!(
        "  - service: \"rpc-order.service\"\n    register: [{{ registry: consul, id: \"rpc-order-1\" }}, {{ registry: \
         redis, id: \"rpc-order/{instance}\" }}]\n    health: {{ tcp: \"{instance}\" }}\n    # a tcp probe passes on a \
         service that answers 503: "
    );
    assert!(said.out.contains(&ours), "{said:?}");
    assert!(said.out.contains(&format!("# in no registry: {TWIN}, which listens on 127.0.0.1:7802")), "{said:?}");
    let probed = unwait(&lab, &["discover", "--probe"]);
    assert!(probed.out.contains(&format!("health: {{ redis_ping: \"{instance}\" }}")), "{probed:?}");
    let json = unwait(&lab, &["discover", "--json"]).json();
    let found = json["services"].as_array().unwrap().iter().find(|found| found["service"] == "rpc-order.service");
    assert_eq!(found.unwrap()["register"].as_array().unwrap().len(), 2, "{json}");

    for pasted in [&said.out, &probed.out] {
        etc.clone().with(HOST, &format!("{registries}{pasted}")).write(&lab);
        let check = unwait(&lab, &["check"]);
        assert_eq!(check.code, 0, "{check:?}\n{pasted}");
        assert!(check.out.contains("2 services named: no errors."), "{check:?}\n{pasted}");
    }
    // What stands in the file is not offered again.
    let again = unwait(&lab, &["discover"]);
    assert!(again.out.starts_with("services: []\n"), "{again:?}");
    assert!(again.out.contains("# rpc-order.service stands in the file with its registrations already"), "{again:?}");

    stage.redis.stop();
    let away = unwait(&lab, &["discover"]);
    assert_eq!(away.code, 3, "{away:?}");
    assert!(away.out.contains("# without an answer: redis: "), "{away:?}");
}
