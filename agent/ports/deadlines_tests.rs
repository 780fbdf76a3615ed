//! Calls that never end, ports that are wrapped twice, and what each dry adapter leaves to the trait.

use super::*;

/// What a dry adapter leaves to the trait's own body, and why.
const NOT_DRY: [(&str, &str, &str); 3] = [
    ("Registry", "hold", "its body asks `observe` and `drain`, which are the dry ones"),
    ("Restarter", "start", "a dry restart has no second half: it stops nothing"),
    ("Restarter", "overtime", "a dry restart begins nothing that is to be ended again"),
];

/// Ends what it has started in vain for as long as this, from its deadline on.
struct Cleaning(Duration);

#[async_trait]
impl Restarter for Cleaning {
    async fn would(
        &self,
        _revival: crate::ports::restarter::Revival,
        _target: &crate::model::plan::Restart,
    ) -> Result<String, RestartError> {
        Ok(String::new())
    }

    async fn observe(&self, target: &Restart) -> Result<Liveness, RestartError> {
        Err(failed(target))
    }

    async fn restart(&self, target: &Restart, deadline: Duration) -> Result<Restarted, RestartError> {
        tokio::time::sleep(deadline + self.0).await;
        Err(failed(target))
    }

    async fn start(&self, target: &Restart, _before: &Before, deadline: Duration) -> Result<Incarnation, RestartError> {
        tokio::time::sleep(deadline + self.0).await;
        Err(failed(target))
    }

    fn overtime(&self, _target: &Restart) -> Duration {
        self.0
    }

    async fn own_deadline(&self, target: &Restart) -> Result<Duration, RestartError> {
        Err(failed(target))
    }

    async fn dependents(&self, target: &Restart) -> Result<Vec<String>, RestartError> {
        Err(failed(target))
    }

    async fn settles_within(&self, _target: &Restart) -> Result<Duration, RestartError> {
        Ok(Duration::ZERO)
    }
}

fn failed(target: &Restart) -> RestartError {
    let detail = "it has been ended again".into();
    RestartError::Failed { service: super::super::restarter::named(target), detail }
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_puts_away_what_it_began_is_not_cut() {
    let target = Restart::Systemd { unit: "a.service".into(), with_dependents: false };
    let inner: Arc<dyn Restarter> = Arc::new(Cleaning(Duration::from_secs(300)));
    let bounded = WithDeadline::new("", inner);
    let before = Before { incarnation: Incarnation("1".into()), kept: Value::Null };
    let deadline = Duration::from_secs(1);
    for ended in
        [bounded.restart(&target, deadline).await.map(drop), bounded.start(&target, &before, deadline).await.map(drop)]
    {
        assert!(matches!(ended, Err(RestartError::Failed { .. })), "{ended:?}");
    }
}

/// A method with a body of its own in the trait would otherwise be that body's, and no adapter's.
#[test]
fn every_method_of_every_port_has_a_deadline_and_goes_through_the_dry_adapter() {
    let deadlines = include_str!("deadlines.rs");
    for (port, source, dry) in [
        ("Registry", include_str!("registry/mod.rs"), include_str!("registry/dry.rs")),
        ("Restarter", include_str!("restarter/mod.rs"), include_str!("restarter/dry.rs")),
        ("Probe", include_str!("probe/mod.rs"), include_str!("probe/dry.rs")),
        ("Fleet", include_str!("fleet/mod.rs"), include_str!("fleet/dry.rs")),
    ] {
        let block = |source: &'static str, begins: &str| {
            let (_, inside) = source.split_once(begins).unwrap();
            inside.split_once("\n}").unwrap().0
        };
        let methods = block(source, &format!("pub trait {port}:"));
        let bounded = block(deadlines, &format!("impl {port} for WithDeadline"));
        let dry = block(dry, &format!("impl {port} for Dry{port}"));
        let named = |line: &str| Some(line.split_once("fn ")?.1.split_once('(')?.0.to_string());
        for method in methods.lines().filter(|line| !line.trim_start().starts_with("//")).filter_map(named) {
            let has = |block: &str| block.contains(&format!("fn {method}("));
            assert!(has(bounded), "{port}::{method} has no deadline");
            let left = NOT_DRY.iter().any(|(of, name, _)| (*of, *name) == (port, method.as_str()));
            assert_ne!(has(dry), left, "{port}::{method} of the dry adapter");
        }
    }
}
