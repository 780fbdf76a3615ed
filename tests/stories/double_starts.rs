//! Two agents are started at once on one state directory, again and again: one acts, the other refuses. Now and then
//! the one that acts is killed while two more start, so that its lock changes hands by its death.

use std::time::Duration;

use crate::lab::cast::{Agent, Host, Peer, REDIS_PORT};
use crate::lab::deadline::{dawdle, wait_until_seen};
use crate::lab::{Lab, Redis};

const PAIRS: &str = "UNWAIT_DOUBLE_STARTS";
const SOON: Duration = Duration::from_secs(20);

#[test]
fn of_two_agents_started_at_once_on_one_state_directory_one_acts_and_the_other_refuses() {
    let pairs: u64 = std::env::var(PAIRS).map_or(24, |pairs| pairs.parse().expect("a number of pairs"));
    let lab = Lab::start();
    let _redis = Redis::start(&lab, REDIS_PORT, 0);
    let peer = Peer::listen(&lab);
    let host = Host::set(&lab, &peer, "evidence-only", "", 0);
    // To act is to tell of the breach here: each agent that watches does so once, and no other does.
    host.edit("policies/leak.yaml", "mode: auto", "mode: observe");

    let mut acts: Option<Agent> = None;
    let (mut won, mut refused, mut killed) = (0, 0, 0);
    for pair in 0..pairs {
        let mut both = vec![host.run(None), host.run(None)];
        let stays = acts.is_some() && pair % 3 == 2;
        if let Some(mut former) = acts.take_if(|_| !stays) {
            // From before either of them has started to after both have.
            dawdle(Duration::from_millis(pair * 37 % 60));
            former.spawned.kill();
            killed += 1;
        }
        wait_until_seen("one to act and the others to refuse", SOON, || {
            let lives = both.iter_mut().filter_map(|agent| agent.spawned.runs().then(|| agent.spawned.output()));
            let lives: Vec<String> = lives.collect();
            let act = lives.iter().filter(|output| says_breach(output) == 1).count();
            match (lives.len(), act) {
                (0, 0) => Ok(()),
                (1, 1) if !stays => Ok(()),
                _ => Err(format!("pair {pair}: {} live and {act} act: {lives:#?}", lives.len())),
            }
        });
        for mut agent in both {
            if agent.spawned.runs() {
                acts = Some(agent);
                won += 1;
                continue;
            }
            let output = agent.spawned.output();
            assert_eq!(agent.spawned.wait(SOON).code(), Some(3), "pair {pair}: {output}");
            assert!(output.contains("another unwait (pid "), "pair {pair}: {output}");
            assert_eq!(says_breach(&output), 0, "pair {pair}: who refuses has acted: {output}");
            refused += 1;
        }
        if let Some(acts) = &mut acts {
            assert!(acts.spawned.runs(), "pair {pair}: {}", acts.spawned.output());
        }
    }
    println!("{pairs} double starts: {won} won, {refused} refused, {killed} killed while two more started");
    assert_eq!(won + refused, 2 * pairs);
    assert!(won * 3 > pairs, "{won} of {pairs}");
}

fn says_breach(output: &str) -> usize {
    output.matches("leak is breached").count()
}
