//! The sockets that everything is measured with: 16 servers, each in a cgroup of its own, that leak.
//!
//! Both ends of each connection are sockets of the table that is walked. The servers are this program in another role
//! (`holder`); they are started once and hold more and more.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;
use unwait::clock::{Clock, SystemClock};

use super::child::Child;
use super::holder::{self, Leaks};
use super::look::LookCounts;
use super::machine::{self, OwnCgroups};
use super::walker::{Walk, Walker};

pub const HOLDERS: usize = 16;
const MOST_FOR_THE_LAST_FIN: Duration = Duration::from_secs(10);

/// How many sockets there are, and how many of them are in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub sockets: usize,
    pub close_wait: usize,
}

impl Size {
    pub const fn new(sockets: usize, close_wait: usize) -> Self {
        Self { sockets, close_wait }
    }
}

/// `100k/10k`
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}k/{}k", self.sockets / 1000, self.close_wait / 1000)
    }
}

/// Where the bench runs, and so how exactly it can say what must be seen.
#[derive(Debug)]
pub struct BenchCgroup {
    pub own_network: bool,
    /// `None` where the machine allows none: the servers are no services then.
    pub cgroups: Option<OwnCgroups>,
}

/// The servers. They end when this is dropped.
#[derive(Debug)]
pub struct Crowd<'a> {
    holders: Vec<Child>,
    place: &'a BenchCgroup,
    size: Size,
}

impl<'a> Crowd<'a> {
    pub fn start(place: &'a BenchCgroup) -> anyhow::Result<Self> {
        let mut holders = Vec::with_capacity(HOLDERS);
        for index in 0..HOLDERS {
            let leaks = if index % 2 == 0 { Leaks::Inbound } else { Leaks::Outbound };
            let mut words = vec![holder::ROLE.to_owned(), leaks.to_string()];
            words.extend(place.cgroups.iter().map(|own| own.directory(index).display().to_string()));
            let mut holder = Child::of_this_program("a holder of sockets", &words)?;
            let answer = holder.answer()?;
            ensure!(answer == "listening", "a holder of sockets: {answer}");
            holders.push(holder);
        }
        Ok(Self { holders, place, size: Size::new(0, 0) })
    }

    /// Grows to this size. `Some` says why the machine does not allow it: then the crowd is to be dropped.
    pub fn grow_to(&mut self, size: Size, walker: &mut Walker) -> anyhow::Result<Option<String>> {
        if let Some(why) = machine::refusal(size, self.size.sockets) {
            return Ok(Some(why));
        }
        self.size = size;
        for (index, holder) in self.holders.iter_mut().enumerate() {
            holder.tell(&format!("{} {}", share(size.sockets / 2, index), share(size.close_wait, index)))?;
        }
        let answers = self.holders.iter_mut().map(Child::answer).collect::<Result<Vec<_>, _>>()?;
        if let Some(refused) = answers.into_iter().find(|answer| answer != "held") {
            return Ok(Some(format!("this machine refused {refused}")));
        }
        let deadline = SystemClock.monotonic() + MOST_FOR_THE_LAST_FIN;
        while walker.walk(Walk::One)?.sockets < size.close_wait {
            ensure!(SystemClock.monotonic() < deadline, "not all of {size} came to be in CLOSE_WAIT");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    pub fn size(&self) -> Size {
        self.size
    }

    /// An error unless exactly the sockets were counted that there are.
    pub fn check_total(&self, what: &str, counted: usize) -> anyhow::Result<()> {
        let made = self.size.close_wait;
        // In the machine's own network others may have some as well.
        let right = if self.place.own_network { counted == made } else { counted >= made };
        ensure!(right, "{what} counted {counted} sockets in CLOSE_WAIT of {made} at {}", self.size);
        Ok(())
    }

    /// The same, for each of the servers.
    pub fn check(&self, what: &str, seen: &LookCounts) -> anyhow::Result<()> {
        self.check_total(what, seen.host)?;
        if self.place.cgroups.is_some() {
            for index in 0..HOLDERS {
                let (service, made) = (OwnCgroups::service(index), share(self.size.close_wait, index));
                let counted = seen.services.get(&service).copied().unwrap_or(0);
                let size = self.size;
                ensure!(counted == made, "{what} counted {counted} of {made} for {service} at {size}");
            }
        }
        Ok(())
    }
}

/// The part of `all` that falls to one of the servers; the parts add up to it.
fn share(all: usize, index: usize) -> usize {
    all * (index + 1) / HOLDERS - all * index / HOLDERS
}
