//! `unwait top` on a real terminal: what it shows of a leaking service without an agent, with one, and of the past; and that the
//! terminal is as before, whichever way it ends.

use std::fs;

use crate::lab::agent::{self, Etc, HOST, PROGRAM, unwait};
use crate::lab::service::{self, Behaviour, RpcOrder};
use crate::lab::tmux::{PROMPT, Tmux};
use crate::lab::{Lab, Redis, Webhook};

/// The terminal's settings, as the shell sees them.
fn settings(lab: &Lab, tmux: &Tmux<'_>, name: &str) -> String {
    let file = lab.dir().join(name);
    tmux.run(&format!("stty -a > {0}.new; mv {0}.new {0}", file.display()));
    tmux.wait_for("stty", |_| file.exists());
    let said = fs::read_to_string(&file).expect("stty wrote it");
    // The size is the pane's, which the story changes.
    said.lines().skip(1).collect()
}

fn is_given_back(tmux: &Tmux<'_>) {
    tmux.wait_for("the shell's screen", |shown| shown.trim_end().ends_with(PROMPT) && !shown.contains("q: leave"));
    assert_eq!((tmux.tells("alternate_on").as_str(), tmux.tells("cursor_flag").as_str()), ("0", "1"));
}

#[test]
fn a_leak_is_watched_on_a_terminal_that_is_given_back_as_it_was() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    agent::write_webhook(&lab, &webhook);
    // Nothing is done about it.
    Etc::of_the_story().edit(HOST, "interval: 1s\ncpu", "mode_at_most: dry-run\ninterval: 1s\ncpu").write(&lab);
    let redis = Redis::start(&lab, 6390, 1);
    let service = RpcOrder::start(&lab, &redis, Behaviour::LeakUntilRestarted);
    service.wait_for_leak();
    let tmux = Tmux::start(&lab, 120, 24);
    let before = settings(&lab, &tmux, "before");
    let top = format!("CREDENTIALS_DIRECTORY=/etc/unwait/credentials {PROGRAM} top --interval 300ms");
    let leaked = service::LEAKED.to_string();

    // No agent runs: it looks by itself.
    tmux.run(&top);
    let is_listed = |shown: &str| {
        shown.lines().any(|line| line.contains(service::UNIT) && line.split_whitespace().any(|word| word == leaked))
    };
    let own = tmux.wait_for("the service and its count", is_listed);
    assert!(own.contains("own looks") && own.contains("no agent runs here"), "{own}");
    tmux.press(&["?"]);
    tmux.wait_for("the keys", |shown| shown.contains("filter by name"));
    tmux.press(&["Escape"]);

    // An agent that starts meanwhile is asked.
    let agent = agent::run(&lab);
    tmux.wait_for("the agent's own looks", |shown| is_listed(shown) && shown.contains("policies: "));
    tmux.press(&["/", "no-such"]);
    tmux.wait_for("a filter that nothing passes", |shown| shown.contains("no name holds"));
    // A key that came at once behind Escape would be Alt with that key.
    tmux.press(&["Escape"]);
    tmux.wait_for("the whole table", is_listed);
    tmux.press(&["/", "RPC-", "Enter"]);
    tmux.wait_for("the filtered table", |shown| is_listed(shown) && shown.contains("\"RPC-\": 1 of "));
    tmux.press(&["Enter"]);
    let sockets = tmux.wait_for("its sockets", |shown| shown.contains(&format!("[1 sockets {leaked}]")));
    assert!(sockets.contains("127.0.0.1:6390") && sockets.contains("(php"), "{sockets}");
    tmux.press(&["2"]);
    tmux.wait_for("its peers", |shown| shown.contains("[2 peers 1]") && shown.contains("127.0.0.1:6390"));
    tmux.press(&["Tab"]);
    let processes = format!("[3 processes {}]", service::WORKERS);
    tmux.wait_for("its processes", |shown| shown.contains(&processes) && shown.contains("(php"));
    tmux.press(&["Escape"]);
    tmux.wait_for("the table", is_listed);
    tmux.press(&["Left"]);
    tmux.wait_for("the past", |shown| shown.contains("THE PAST: "));
    tmux.press(&["l"]);
    tmux.wait_for("the present", |shown| is_listed(shown) && !shown.contains("THE PAST"));

    // Narrow, tiny, and wide again.
    tmux.resize(40, 12);
    tmux.wait_for("a narrow table", |shown| {
        is_listed(shown) || shown.contains("rpc-order") && shown.contains(&leaked) && !shown.contains("LAST LOOKS")
    });
    tmux.resize(20, 4);
    tmux.wait_for("what it needs", |shown| shown.contains("needs 30 x 6"));
    tmux.resize(120, 24);
    tmux.wait_for("the table", |shown| is_listed(shown) && shown.contains("LAST LOOKS"));

    // Stopped as a job, and on again.
    tmux.press(&["C-z"]);
    tmux.wait_for("the shell", |shown| shown.contains("Stopped"));
    assert_eq!(tmux.tells("alternate_on"), "0");
    tmux.run("fg");
    tmux.wait_for("the table again", |shown| is_listed(shown) && shown.contains("q: leave"));
    tmux.press(&["q"]);
    is_given_back(&tmux);
    assert_eq!(settings(&lab, &tmux, "after"), before);

    // An agent that hangs is said, and no key waits for it; SIGTERM and SIGHUP give the terminal back as well.
    for (signal, name) in [("-TERM", "after-term"), ("-HUP", "after-hup")] {
        tmux.run("clear");
        tmux.run(&top);
        tmux.wait_for("the table", |shown| is_listed(shown) && shown.contains("policies: "));
        if signal == "-TERM" {
            agent.signal(nix::sys::signal::Signal::SIGSTOP);
            tmux.wait_for("that the agent hangs", |shown| is_listed(shown) && shown.contains("THE AGENT HANGS"));
            agent.signal(nix::sys::signal::Signal::SIGCONT);
        }
        lab.run(&["kill", signal, &tmux.child()]);
        is_given_back(&tmux);
        assert_eq!(settings(&lab, &tmux, name), before, "after {signal}");
    }

    let piped = unwait(&lab, &["top"]);
    assert!(piped.code == 2 && piped.err.contains("`unwait scan --json`"), "{piped:?}");
    tmux.run("clear");
    tmux.run(&format!("TERM=dumb {PROGRAM} top"));
    tmux.wait_for("what a dumb terminal is told", |shown| shown.contains("unwait scan --json"));
}
