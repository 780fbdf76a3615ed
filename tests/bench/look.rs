//! The library's part: the only file of the bench that calls it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;

use unwait::attribute::{Attributor, DescriptorAsk};
use unwait::clock::SystemClock;
use unwait::collect::{Ask, Collector};
use unwait::config;
use unwait::decide::replay::replay;
use unwait::model::{Census, Policy, Readings, Sample, ServiceName, Signal};

/// What a look counted in CLOSE_WAIT.
#[derive(Debug)]
pub struct LookCounts {
    pub host: usize,
    pub services: BTreeMap<String, usize>,
    /// Of the services' sockets, those by which data may still leave.
    pub sending: usize,
}

/// The first two stages of the agent, as its tick runs them; the last census is kept until the next one, as the
/// agent keeps it.
#[derive(Debug)]
pub struct Eyes {
    collector: Collector,
    attributor: Attributor,
    census: Option<Census>,
}

impl Eyes {
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self { collector: Collector::new()?, attributor: Attributor::new(vec![]), census: None })
    }

    /// Scan and attribution. What is measured.
    pub fn look(&mut self) -> anyhow::Result<()> {
        self.look_at(Ask::default())
    }

    /// A tick on a host where nothing can be near a threshold. What is measured.
    pub fn quiet(&mut self) -> anyhow::Result<()> {
        self.look_at(Ask { matters: Some(&|service, _| service > 200), ..Ask::default() })
    }

    fn look_at(&mut self, ask: Ask) -> anyhow::Result<()> {
        let snapshot = self.collector.snapshot(&SystemClock, ask)?;
        self.census = Some(self.attributor.attribute(snapshot, DescriptorAsk::Skip, &SystemClock));
        Ok(())
    }

    /// The counts of the last look.
    pub fn seen(&self) -> LookCounts {
        let services = self.census.iter().flat_map(|census| &census.services);
        let sockets = services.clone().flat_map(|(_, held)| held.sockets());
        LookCounts {
            sending: sockets.filter(|socket| socket.sending).count(),
            host: self.census.as_ref().map_or(0, Census::host_close_wait) as usize,
            services: services.map(|(name, held)| (name.to_string(), held.close_wait())).collect(),
        }
    }
}

/// A month of one service, in which it leaks for two hours of each day, and a policy that finds that.
#[derive(Debug)]
pub struct Month {
    service: ServiceName,
    samples: Vec<Sample>,
    policy: Policy,
}

const DAYS: usize = 30;
/// 15 s apart.
const SAMPLES_A_DAY: usize = 5_760;

impl Month {
    pub fn of_samples() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        for (file, text) in [
            ("agent.yaml", "interval: 15s\n"),
            (
                "policies/leak.yaml",
                "policy: leak\nservices: [\"*\"]\nwhen:\n  any:\n    - close_wait.aged(5m) > 200\n    - fd.ratio > 80%\n\
                 for: 2m\nmode: observe\nrunbook: keep\n",
            ),
            ("runbooks/keep.yaml", "runbook: keep\nsteps:\n  - snapshot: {}\n"),
        ] {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().ok_or(anyhow!("below the directory"))?)?;
            std::fs::write(path, text)?;
        }
        let config = config::load(directory.path()).map_err(|wrong| anyhow!("{wrong}"))?;
        let policy = config.policies.into_iter().next().ok_or(anyhow!("the policy is there"))?;
        let service = ServiceName::parse("rpc-order.service").map_err(|wrong| anyhow!("{wrong}"))?;
        let begin = jiff::Timestamp::from_second(1_790_000_000)?;
        let sample = |n: usize| {
            let mut readings = Readings::default();
            let leaks = n % SAMPLES_A_DAY < 480;
            readings.set(Signal::CloseWaitAged(Duration::from_secs(300)), if leaks { 288.0 } else { 12.0 });
            readings.set(Signal::FdRatio, 0.2);
            Sample::moment(begin + Duration::from_secs(15 * n as u64), readings)
        };
        Ok(Self { service, samples: (0..DAYS * SAMPLES_A_DAY).map(sample).collect(), policy })
    }

    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// That are in it.
    pub fn breaches(&self) -> usize {
        DAYS
    }

    /// The breaches that are found. What is measured.
    pub fn replay(&self) -> usize {
        replay(&self.policy, &self.service, &self.samples).breaches.len()
    }
}
