//! A pool of redis-py, whose server closes what is idle: since 8.1 the client sets keepalive by itself, which takes each socket
//! out of CLOSE_WAIT within a minute or two, and the descriptor stays.

use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{Etc, HOST, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::installed::installed;
use crate::lab::{Lab, Redis};

const PORT: u16 = 6379;
const LEAKED: u64 = 60;
/// Redis closes within seconds; the client's keepalive asks after 30 s.
const SOON: Duration = Duration::from_secs(90);

#[test]
fn what_keepalive_takes_out_of_close_wait_in_a_pool_of_redis_py_is_counted_by_its_descriptors() {
    let lab = Lab::start();
    lab.start_unit("dbus.service");
    // What is left of the server's end of a connection, gone after a second in place of a minute.
    lab.run(&[
        "sh",
        "-c",
        "mkdir /run/proc && mount -t proc proc /run/proc && echo 1 >/run/proc/sys/net/ipv4/tcp_fin_timeout",
    ]);
    let _redis = Redis::start(&lab, PORT, 2);
    let (modules, program) = (installed("redispy-8.1.0"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/pool.py"));
    lab.add_unit(
        "pool.service",
        &format!(
            "[Service]\nEnvironment=PYTHONPATH={}\nExecStart=/usr/bin/python3 {program} {PORT} {LEAKED}\n",
            modules.display()
        ),
    );
    lab.start_unit("pool.service");
    Etc::shipped().with(HOST, "interval: 1s\n").write(&lab);
    let wait_for = |what: &str, close_wait: u64, closed: u64| {
        wait_until_seen(what, SOON, || {
            let seen = unwait(&lab, &["scan", "--json"]).json();
            let found = seen["services"].as_array().into_iter().flatten().find(|one| one["service"] == "pool.service");
            let found = found.cloned().unwrap_or(Value::Null);
            let is = (found["close_wait.outbound"].as_u64(), found["fd.closed"].as_u64());
            let is_met = is == (Some(close_wait), Some(closed));
            if is_met { Ok(()) } else { Err(format!("{found:#}\n{}", lab.journal("pool.service"))) }
        });
    };
    wait_for("all of them in CLOSE_WAIT", LEAKED, 0);
    wait_for("all of them out of it, and their descriptors open", 0, LEAKED);
}
