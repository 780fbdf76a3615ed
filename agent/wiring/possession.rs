//! Whether a service's own processes hold what it leaks. A breach that is held for another reason asks at each tick, and the
//! answer costs a look and all of the service's descriptors: so it stands for a minute, but for a saga that is about to
//! change something.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::saga_world::FreshMeasure;
use super::{Wiring, WiringParts};
use crate::decide::guards::Possession;
use crate::execute::world::Measure;
use crate::model::{Incarnation, Plan, ServiceName, Truth};
use crate::sense::sensor::{Sensor, on_blocking_thread};
use crate::store::Store;

const ANSWER_STANDS_FOR: Duration = Duration::from_secs(60);

/// The last answer for each policy and service: when it was given, of which lifetime, and what it was.
pub type Lately = Arc<Mutex<BTreeMap<(String, ServiceName), (Duration, Option<Incarnation>, Option<String>)>>>;

pub struct Holders(pub Wiring, pub Arc<Store>);

#[async_trait]
impl Possession for Holders {
    async fn elsewhere(&self, plan: &Plan, afresh: bool) -> Result<Option<String>, String> {
        let WiringParts { lately, host, .. } = &*self.0;
        let key = (plan.policy.clone(), plan.target.service.clone());
        let now = host.clock.monotonic();
        if !afresh
            && let Some((at, incarnation, answer)) = lately.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && now.saturating_sub(*at) < ANSWER_STANDS_FOR
            && *incarnation == plan.incarnation
        {
            return Ok(answer.clone());
        }
        let answer = self.look(plan).await?;
        let kept = (now, plan.incarnation.clone(), answer.clone());
        lately.lock().unwrap_or_else(PoisonError::into_inner).insert(key, kept);
        Ok(answer)
    }
}

impl Holders {
    async fn look(&self, plan: &Plan) -> Result<Option<String>, String> {
        let readings = FreshMeasure(self.0.clone(), Arc::clone(&self.1)).now(plan).await?;
        let (sensor, service) = (self.0.sensor.clone(), plan.target.service.clone());
        let holds = plan.when.truth(&readings);
        let Some(found) = on_blocking_thread(move || Sensor::elsewhere(&sensor, &service, readings)).await? else {
            return Ok(None);
        };
        // Where it leaks nothing else, no remedy of it ends the breach, whatever the condition asks.
        let ends = holds == Truth::True && plan.when.truth(&found.without) == Truth::False;
        Ok((found.left == 0 || ends).then(|| found.says(plan.restarted())))
    }
}
