//! What else a saga asks for: time, evidence, measurements, guards, commands and the kernel.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Fake, Fault, WORKERS};
use crate::clock::Clock;
use crate::decide::guards::Possession;
use crate::execute::world::{Arrivals, Closed, Commands, Inbound, Keeper, Kept, Kernel, Measure, Pace, Recheck, Talk};
use crate::model::runbook::Recycle;
use crate::model::{Blame, Comparison, Leaked, NetNs, Plan, Readings, Reason, Remaining, SocketId, Truth, Worker};

/// Leaked sockets of the service.
const LEAKED: u64 = 12;

#[async_trait]
impl Pace for Fake {
    fn elapsed(&self) -> Duration {
        *self.0.elapsed.lock().unwrap()
    }

    async fn wait(&self, duration: Duration) {
        self.0.trip.pass();
        *self.0.elapsed.lock().unwrap() += duration;
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Keeper for Fake {
    async fn keep(&self, _plan: &Plan, _commands: &[Vec<String>], _deadline: Duration) -> Result<Kept, String> {
        if self.0.trip.pass() {
            return Err("input/output error".into());
        }
        match self.0.fault {
            Fault::EvidenceNotKept => Err("no space left on device".into()),
            _ => Ok(Kept {
                dir: Some("/evidence".into()),
                says: "288 sockets in CLOSE_WAIT".into(),
                blame: Blame::default(),
            }),
        }
    }
}

#[async_trait]
impl Measure for Fake {
    async fn now(&self, _plan: &Plan) -> Result<Readings, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(Readings::default())
    }

    async fn inbound(&self, _plan: &Plan, quiet: Duration) -> Result<Inbound, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        let left = if self.0.fault == Fault::NeverEmpty { 7 } else { 0 };
        Ok(Inbound { left, active: if self.elapsed() < quiet { left } else { 0 } })
    }

    async fn arrivals(&self, _plan: &Plan) -> Result<Arrivals, String> {
        if self.0.trip.pass() {
            return Err("perf_event_open: Operation not permitted".into());
        }
        Ok(self.0.arrivals())
    }

    async fn talks(&self, _plan: &Plan) -> Result<Vec<Talk>, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(Vec::new())
    }

    async fn workers(&self, _plan: &Plan, _older_than: Duration) -> Result<Vec<Worker>, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        self.0.start_workers();
        Ok(self.0.service().workers.clone())
    }

    async fn ends_a_holder(&self, _plan: &Plan) -> Result<bool, String> {
        Ok(true)
    }

    async fn leaked(&self, _plan: &Plan, at_least: Duration) -> Result<Leaked, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        let socket = |n| SocketId { namespace: NetNs(1), cookie: n, inode: n };
        Ok(Leaked { boot: "this one".into(), at_least, sockets: (1..=LEAKED).map(socket).collect() })
    }

    async fn remaining(&self, _plan: &Plan, leaked: &Leaked) -> Result<Remaining, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        let of = leaked.sockets.len();
        match self.0.fault {
            Fault::NotHelped => Ok(Remaining { of, left: of, unheld: of, ..Remaining::default() }),
            Fault::CannotBeMeasuredAtTheEnd => Err("the dump was interrupted".into()),
            _ => Ok(Remaining { of, ..Remaining::default() }),
        }
    }

    async fn is_over(&self, _plan: &Plan) -> Result<Truth, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(Truth::True)
    }

    async fn expectation(&self, _plan: &Plan, _expect: &Comparison) -> Result<Truth, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        let mut service = self.0.service();
        service.expected += 1;
        match self.0.fault {
            Fault::NotHelped => Ok(Truth::False),
            Fault::PassesThrough if service.expected == 1 => Ok(Truth::False),
            Fault::CannotBeMeasuredAtTheEnd => Err("the dump was interrupted".into()),
            _ => Ok(Truth::True),
        }
    }
}

#[async_trait]
impl Possession for Fake {
    async fn elsewhere(&self, _plan: &Plan, _afresh: bool) -> Result<Option<String>, String> {
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(None)
    }
}

#[async_trait]
impl Recheck for Fake {
    async fn still_wanted(&self, plan: &Plan) -> Result<(), (Reason, String)> {
        if self.0.trip.pass() {
            return Err((Reason::GuardRefused, "a guard could not be checked".into()));
        }
        let mut service = self.0.service();
        service.rechecks += 1;
        match (self.0.fault, service.rechecks) {
            (Fault::RefusedAtFirst, 1) | (Fault::RefusedAtSecond, 2) => {
                return Err((Reason::GuardRefused, "paused: by hand".into()));
            }
            _ => {}
        }
        match plan.incarnation.as_ref() == Some(&service.incarnation()) {
            true => Ok(()),
            false => Err((Reason::IncarnationChanged, "another process runs than the one that was measured".into())),
        }
    }

    async fn enough_beside_others(&self, _plan: &Plan) -> Result<(), (Reason, String)> {
        Ok(())
    }
}

#[async_trait]
impl Commands for Fake {
    async fn run(&self, argv: &[String], _deadline: Duration) -> Result<String, String> {
        let fails = || format!("{}: killed at its deadline", argv[0]);
        if self.0.trip.pass() {
            return Err(fails());
        }
        self.0.service().commands.push(argv[0].clone());
        if self.0.trip.pass() {
            return Err(fails());
        }
        Ok(format!("{}: ended with 0", argv[0]))
    }
}

#[async_trait]
impl Kernel for Fake {
    async fn end(&self, workers: &[Worker], how: &Recycle) -> Result<Vec<Worker>, String> {
        if self.0.trip.pass() {
            return Err("operation not permitted".into());
        }
        assert!(workers.iter().all(|worker| worker.holds > 0), "a worker that holds nothing is ended: {workers:?}");
        for living in &mut self.0.service().workers {
            living.asked |= workers.iter().any(|asked| asked.is(living));
        }
        let left = self.0.service().workers.iter().filter(|worker| !worker.asked).count();
        assert!(left >= how.floor.of(WORKERS), "below the floor {}: {left} are left", how.floor);
        if self.0.fault == Fault::WorkerStays {
            return Ok(workers.to_vec());
        }
        {
            let mut service = self.0.service();
            service.workers.retain(|living| !workers.iter().any(|ended| ended.is(living)));
            service.ended += workers.len() as u32;
        }
        match self.0.fault {
            Fault::MasterDies => self.0.begin_anew(true),
            Fault::IllOfIt => self.0.fall_ill(),
            _ => {}
        }
        if self.0.trip.pass() {
            return Err("input/output error".into());
        }
        Ok(Vec::new())
    }

    async fn close_sockets(&self, _plan: &Plan, _older_than: Duration, _at_most: u64) -> Result<Closed, String> {
        if self.0.trip.pass() || self.0.fault == Fault::CloseRefused {
            return Err("it needs CAP_NET_ADMIN".into());
        }
        self.0.service().closed += 1;
        if self.0.fault == Fault::IllOfIt {
            self.0.fall_ill();
        }
        if self.0.trip.pass() {
            return Err("the dump was interrupted".into());
        }
        Ok(Closed { found: 12, closed: 12, leaked: Some(if self.0.fault == Fault::DescriptorsStay { 12 } else { 0 }) })
    }
}

impl Clock for Fake {
    fn now(&self) -> Timestamp {
        self.0.trip.pass();
        "2026-11-22T18:43:29Z".parse::<Timestamp>().unwrap() + self.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.elapsed()
    }
}
