//! The library's part: the only file of the bench that calls it.

use std::collections::BTreeMap;

use unwait::attribute::{Attributor, DescriptorAsk};
use unwait::clock::SystemClock;
use unwait::collect::{Ask, Collector};
use unwait::model::Census;

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
