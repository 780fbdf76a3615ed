//! Who would be told of an event, by the configuration in force.

use crate::model::{EventKind, ServiceName};
use crate::view::route::Routes;
use crate::wiring::Wiring;

/// Of one policy, or of each that selects the service.
///
/// # Errors
/// In words, where the service cannot be one, or no policy of that name selects it.
pub fn routes(wiring: &Wiring, service: &str, event: EventKind, policy: Option<&str>) -> Result<Routes, String> {
    let service = ServiceName::parse(service)?;
    let policies: Vec<&str> = match policy {
        Some(name) => vec![&wiring.config.choose(&service, Some(name))?.name],
        None => wiring.config.selecting(&service).into_iter().map(|policy| policy.name.as_str()).collect(),
    };
    Ok(Routes::of(&wiring.audience, &service, event, &policies))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::daemon::damage_tests;

    const HOST: &str = "state: STATE
services: [{ service: rpc-order.service, labels: { team: trade } }, { service: rpc-user.service }]
notify:
  - to: { slack: { url_file: URL } }
  - { to: { slack: { url_file: URL } }, events: [stuck], policies: [leak] }
  - { to: { slack: { url_file: URL } }, events: [stuck, step], services: [team: trade] }
";
    const POLICY: &str = "policy: NAME
services: [\"rpc-*.service\"]
when: close_wait > 200
for: 2m
runbook: r
";

    fn load(host: &str) -> Result<config::Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let url = dir.path().join("url");
        let text = host.replace("URL", &url.display().to_string()).replace("STATE", &dir.path().display().to_string());
        std::fs::write(dir.path().join("agent.yaml"), text).unwrap();
        for folder in ["policies", "runbooks"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for name in ["leak", "growth"] {
            std::fs::write(dir.path().join(format!("policies/{name}.yaml")), POLICY.replace("NAME", name)).unwrap();
        }
        std::fs::write(dir.path().join("runbooks/r.yaml"), "runbook: r\nsteps: [snapshot]\n").unwrap();
        config::load(dir.path()).map_err(|wrong| wrong.to_string())
    }

    /// `destination policy: why`, of who is told, and of who is not.
    fn routes_of(service: &str, event: EventKind, policy: Option<&str>) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let mut wiring = damage_tests::wiring(dir.path());
        let config = load(HOST).unwrap();
        wiring.audience = std::sync::Arc::new(crate::wiring::audience(&config));
        wiring.config = std::sync::Arc::new(config);
        let rows = routes(&wiring, service, event, policy).unwrap().rows;
        let (told, not) = rows.into_iter().partition::<Vec<_>, _>(|row| row.is_told);
        let shown = |rows: Vec<crate::view::route::RouteNow>| {
            rows.into_iter()
                .map(|row| format!("{} {}: {}", row.destination, row.policy.unwrap_or_default(), row.why))
                .collect()
        };
        (shown(told), shown(not))
    }

    #[test]
    fn each_destination_says_by_which_line_it_is_told_or_is_not() {
        let (told, not) = routes_of("rpc-order.service", EventKind::Stuck, Some("growth"));
        assert_eq!(
            told,
            [
                "slack growth: events: [breach, held, approval, start, end, stuck, review]",
                "slack-3 growth: events: [step, stuck]; services: [team: trade]",
            ]
        );
        assert_eq!(not, ["slack-2 growth: not among its policies: [leak]"]);
        let (_, not) = routes_of("rpc-user.service", EventKind::Stuck, Some("leak"));
        assert_eq!(not, ["slack-3 leak: not among its services: [team: trade]"]);
        let (told, _) = routes_of("rpc-order.service", EventKind::Step, None);
        assert_eq!(told.len(), 2, "a row for each policy: {told:?}");
    }

    #[test]
    fn a_policy_that_notify_names_must_be_there_and_one_that_acts_needs_somebody_who_hears_of_it() {
        let error = load(&HOST.replace("policies: [leak]", "policies: [leek]")).unwrap_err();
        assert!(error.contains("no policy is named `leek`"), "{error}");
        let deaf = "state: STATE\nnotify: [{ to: { slack: { url_file: URL } }, policies: [leak] }]\n";
        assert!(load(deaf).is_ok(), "in dry-run nobody need hear");
    }
}
