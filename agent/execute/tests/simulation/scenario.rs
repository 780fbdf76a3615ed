//! What a seed stands for: the fleet's rules, and what becomes of each host. All trouble is over at [`CHAOS_ENDS`], but
//! for what is for good: a release that never comes up healthy, and hosts that are gone.

use std::time::Duration;

use super::dice::Dice;
use crate::model::policy::MinHealthy;

pub const CHAOS_ENDS: Duration = Duration::from_secs(300);
/// The longest that one way takes where nothing is slow.
pub const USUAL_MS: u64 = 40;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// From one look of an agent to the next.
    pub interval: Duration,
    pub slots: u32,
    pub min_healthy: MinHealthy,
    pub fates: Vec<Fate>,
}

/// What a host meets. Times are since the beginning.
#[derive(Clone, Debug)]
pub struct Fate {
    /// By so much its wall clock is ahead, in milliseconds.
    pub skew: i64,
    pub happenings: Vec<(Duration, Happening)>,
    pub release: Release,
    /// At these crossings, counted from the beginning, its agent ends.
    pub ends: Vec<(u64, End)>,
    /// Its agent is killed while its first restart is under way.
    pub dies_restarting: bool,
    pub outages: Vec<Outage>,
    /// Of a hundred answers, so many do not arrive.
    pub lost_percent: u64,
    /// The longest that one way takes.
    pub slowest_ms: u64,
    /// A restarted service leaks again after this.
    pub leaks_again: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    Leaks,
    FallsIll,
    /// Ends an illness, and no bad release.
    IsWell,
    /// The host is gone, its service and its agent, and does not come back.
    Vanishes,
}

/// What a restart brings up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    Good,
    /// Never healthy.
    Bad,
    /// It does not even start.
    Dead,
    /// Healthy at first; ill for ever some seconds later.
    Withers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    /// Asked to end.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Registry,
    Fleet,
}

/// One party does not hear one host.
#[derive(Clone, Debug)]
pub struct Outage {
    pub from: Duration,
    pub until: Duration,
    pub party: Party,
    /// Nobody answers, rather than an error at once.
    pub silent: bool,
}

impl Scenario {
    pub fn new(seed: u64, hosts: usize) -> Self {
        let mut dice = Dice::new(seed, 0);
        let slots = if hosts < 100 { dice.one_of(&[1, 1, 1, 2, 3]) } else { dice.one_of(&[4, 10, 20]) };
        let most = hosts as u32;
        let min_healthy = dice.one_of(&[
            MinHealthy::Share(0.5),
            MinHealthy::Share(0.8),
            MinHealthy::Count(1),
            MinHealthy::Count(most - 2),
            MinHealthy::AllOthers,
        ]);
        let weather = Weather {
            at_once: dice.percent(50),
            bad_percent: dice.one_of(&[0, 0, 10, 10, 20, 100]),
            calm: dice.percent(10),
            gross_skew: dice.percent(10),
        };
        let fates = (0..hosts).map(|host| Fate::new(&mut Dice::new(seed, 1 + host as u64), weather)).collect();
        let interval = Duration::from_secs(if hosts < 100 { dice.one_of(&[15, 30]) } else { 30 });
        Self { seed, interval, slots, min_healthy, fates }
    }
}

#[derive(Clone, Copy, Debug)]
struct Weather {
    at_once: bool,
    bad_percent: u64,
    /// Nothing but breaches.
    calm: bool,
    /// Clocks that nobody keeps.
    gross_skew: bool,
}

impl Fate {
    fn new(dice: &mut Dice, weather: Weather) -> Self {
        let trouble = |dice: &mut Dice, percent| !weather.calm && dice.percent(percent);
        let mut happenings = Vec::new();
        if dice.percent(85) {
            let at = if weather.at_once { Duration::from_secs(20) } else { dice.seconds(0, 280) };
            happenings.push((at, Happening::Leaks));
        }
        if trouble(dice, 15) {
            let from = dice.seconds(0, 250);
            happenings.push((from, Happening::FallsIll));
            happenings.push(((from + dice.seconds(5, 120)).min(CHAOS_ENDS), Happening::IsWell));
        }
        if trouble(dice, 4) {
            happenings.push((dice.seconds(10, 300), Happening::Vanishes));
        }
        happenings.sort_by_key(|(at, _)| *at);

        let release = match dice.percent(weather.bad_percent) {
            true => dice.one_of(&[Release::Bad, Release::Bad, Release::Dead, Release::Withers]),
            false => Release::Good,
        };
        let mut ends = Vec::new();
        let mut crossing = 0;
        while trouble(dice, 50) && ends.len() < 4 {
            crossing += 1 + dice.below(40);
            ends.push((crossing, dice.one_of(&[End::Killed, End::Killed, End::Stopped])));
        }
        let mut outages = Vec::new();
        while trouble(dice, 30) && outages.len() < 3 {
            let from = dice.seconds(0, 280);
            let until = (from + dice.seconds(2, 120)).min(CHAOS_ENDS);
            let party = dice.one_of(&[Party::Registry, Party::Fleet]);
            outages.push(Outage { from, until, party, silent: dice.percent(50) });
        }
        let kept_clock = 5_000;
        let off = if weather.gross_skew { 300_000 } else { kept_clock };
        Self {
            skew: dice.below(2 * off) as i64 - off as i64,
            dies_restarting: trouble(dice, 10),
            happenings,
            release,
            ends,
            outages,
            lost_percent: if trouble(dice, 40) { dice.below(15) } else { 0 },
            slowest_ms: if trouble(dice, 30) { 2_000 } else { USUAL_MS },
            leaks_again: trouble(dice, 20).then(|| dice.seconds(10, 200)),
        }
    }
}
