//! One run: which runbook, killed where, and what else goes wrong by the seed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use unwait::store::Store;

use super::promise;
use crate::lab::Lab;
use crate::lab::cast::{Agent, Host, Peer};
use crate::lab::deadline::{dawdle, wait_until_seen};
use crate::lab::spawned::ended_by;

/// From a start of the agent until all that was begun has ended, and people have heard of it.
pub const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// In this many points of its recovery an agent is killed a second time, if it gets that far.
const RECOVERY: u64 = 40;

#[derive(Clone, Debug)]
pub struct Case {
    pub runbook: String,
    /// `NAME@TIMES`; `None` where nothing goes wrong.
    pub point: Option<String>,
    seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Played {
    /// The points that the first agent passed, as `NAME@TIMES`.
    pub points: Vec<String>,
    pub kills: usize,
    /// How the incidents ended: `unwound, agent_restarted`.
    pub ends: Vec<String>,
}

/// What goes wrong besides.
#[derive(Debug, Default)]
struct Trouble {
    /// What the service does once it is restarted.
    behaviour: String,
    /// At which of its points the second agent is killed.
    second: Option<u64>,
    /// How long the registry is away once the first agent is dead.
    registry_away: Option<Duration>,
    /// The service dies before the second agent starts, if it was drained.
    dies: bool,
    /// The second agent finds a policy that cannot be read.
    broken: bool,
}

/// How an agent's life ended.
#[derive(Debug, PartialEq)]
enum Life {
    Killed,
    /// With nothing left to do, or because its configuration is broken; with its exit code.
    Ended(Option<i32>),
}

impl Case {
    pub fn unharmed(runbook: &str) -> Self {
        Self { runbook: runbook.into(), point: None, seed: 0 }
    }

    pub fn new(runbook: &str, point: &str, seed: u64) -> Self {
        Self { runbook: runbook.into(), point: Some(point.into()), seed }
    }

    /// `RUNBOOK POINT SEED`
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [runbook, point, seed] = words.as_slice() else { return None };
        Some(Self::new(runbook, point, seed.parse().ok()?))
    }

    pub fn replay(&self) -> String {
        let point = self.point.as_deref().unwrap_or("never");
        format!(
            "{}='{} {point} {}' cargo nextest run --features crash-points --no-capture crash_sweep",
            super::ALONE,
            self.runbook,
            self.seed
        )
    }

    fn trouble(&self) -> Trouble {
        let Some(point) = &self.point else { return Trouble::default() };
        let mut dice = Dice::of(self.seed, &format!("{} {point}", self.runbook));
        let mut behaviour = String::new();
        if dice.one_in(2) {
            behaviour += &format!("listens_after {}\n", dice.below(2_600));
        }
        for (key, one_in) in [("leaks", 4), ("registers", 3)] {
            if dice.one_in(one_in) {
                behaviour += &format!("{key} yes\n");
            }
        }
        Trouble {
            behaviour,
            second: (!dice.one_in(4)).then(|| 1 + dice.below(RECOVERY)),
            registry_away: dice.one_in(5).then(|| Duration::from_millis(dice.below(3_000))),
            dies: dice.one_in(8),
            broken: dice.one_in(8),
        }
    }

    /// Plays it to its end. `lane` is this run's own among those that are played at once.
    ///
    /// # Panics
    /// When the promise is broken, with what is so and what the agents said.
    pub fn play(&self, lab: &Lab, peer: &Peer, lane: usize) -> Played {
        let trouble = self.trouble();
        let host = Host::set(lab, peer, &self.runbook, &trouble.behaviour, lane);
        let mut first = host.run(self.point.as_deref());
        let mut life = live(&host, &mut first);
        let mut played = Played { points: numbered(first.points()), ..Played::default() };
        let mut agents = vec![first];
        let mut died = false;
        if life == Life::Killed {
            played.kills = 1;
            died = trouble.dies && host.drained_by().is_some();
            let away = between(&host, &trouble);
            let mut second = host.run(trouble.second.map(|nth| format!("#{nth}")).as_deref());
            life = live(&host, &mut second);
            agents.push(second);
            if trouble.broken {
                host.edit("policies/leak.yaml", "close_weight", "close_wait");
            }
            played.kills += usize::from(life == Life::Killed);
            if life == Life::Killed || trouble.broken {
                let mut third = host.run(None);
                life = live(&host, &mut third);
                agents.push(third);
            }
            if let Some(away) = away {
                away.join().expect("the registry comes back");
            }
        }
        let kept = promise::is_kept(&host, died);
        if life != Life::Ended(Some(0)) || kept.is_err() {
            let said: Vec<String> = agents.iter().map(|agent| agent.spawned.output()).collect();
            panic!(
                "{self:?}\n{trouble:#?}\nthe last life: {life:?}\n{kept:#?}\n{}",
                said.join("\n== the next agent\n")
            );
        }
        played.ends = kept.expect("looked at above");
        played
    }
}

/// What happens to the host while no agent runs.
fn between(host: &Host<'_>, trouble: &Trouble) -> Option<std::thread::JoinHandle<()>> {
    if trouble.dies && host.drained_by().is_some() {
        host.kill_service();
    }
    if trouble.broken {
        host.edit("policies/leak.yaml", "close_wait", "close_weight");
    }
    trouble.registry_away.map(|length| {
        let registry = host.registry();
        let hidden = registry.with_extension("away");
        fs::rename(&registry, &hidden).expect("the registry is there");
        std::thread::spawn(move || {
            dawdle(length);
            fs::rename(hidden, registry).expect("the registry was set aside");
        })
    })
}

/// Lets the agent live until it is killed, or has ended everything; then asks it to stop.
fn live(host: &Host<'_>, agent: &mut Agent) -> Life {
    let mut store: Option<Store> = None;
    let mut watches = false;
    let ended = wait_until_seen("everything to have ended", ENDS_WITHIN, || {
        if !agent.spawned.runs() {
            return Ok(true);
        }
        watches = watches || agent.spawned.output().contains("watching");
        store = store.take().or_else(|| host.store());
        match &store {
            Some(store) if watches && promise::rests(store) => Ok(false),
            Some(store) => Err(format!("{}\n{}", promise::seen(store), agent.spawned.output())),
            None => Err(agent.spawned.output()),
        }
    });
    if !ended {
        // It may be on its way to a point of its own just now.
        agent.spawned.signal_if_it_runs(Signal::SIGTERM);
    }
    let status = agent.spawned.wait(ENDS_WITHIN);
    match ended_by(status) {
        Some(Signal::SIGKILL) => Life::Killed,
        _ => Life::Ended(status.code()),
    }
}

/// Each point with how often it had been passed by then.
fn numbered(points: Vec<String>) -> Vec<String> {
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    let number = |point: String| {
        let times = times.entry(point.clone()).or_default();
        *times += 1;
        format!("{point}@{times}")
    };
    points.into_iter().map(number).collect()
}

/// The same throws for the same seed and words. SplitMix64.
struct Dice(u64);

impl Dice {
    fn of(seed: u64, words: &str) -> Self {
        let mixed = words
            .bytes()
            .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(mixed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}
