//! `/metrics`: every family, by its name.
//!
//! A signal is a family of its own: `close_wait.oldest` is `unwait_close_wait_oldest_seconds`, and what stands in
//! parentheses is a label (`unwait_close_wait_aged{service="…",age="5m"}`), spelled as the policies do. Counters begin
//! anew with the agent, but for `unwait_incidents_total`, which the store keeps.
//!
//! Bounded: the services are those that hold sockets in CLOSE_WAIT or did a short while ago, those of the host's file,
//! and those that a policy names in full; at most [`super::MOST_SERVICES`] of them. Every other label is of a set that
//! the code or the configuration gives.

use std::collections::BTreeMap;

use super::exposition::{Exposition, Kind};
use crate::model::{Signal, duration};
use crate::view::bulletin::{Bulletin, CertificateOf};
use crate::view::status::IncidentNow;

/// The whole text.
pub fn text(bulletin: &Bulletin) -> String {
    let mut text = Exposition::default();
    of_the_agent(bulletin, &mut text);
    of_signals(bulletin, &mut text);
    of_decisions(bulletin, &mut text);
    of_incidents(bulletin, &mut text);
    text.into_text()
}

const NO_LABELS: [(&str, &str); 0] = [];

fn of_the_agent(bulletin: &Bulletin, text: &mut Exposition) {
    let mut one = |name: &str, kind: Kind, help: &str, value: Option<f64>| {
        text.family(name, kind, help, value.map(|value| (NO_LABELS, value)));
    };
    let seconds = |at: jiff::Timestamp| at.as_millisecond() as f64 / 1e3;
    let yes = |yes: bool| if yes { 1.0 } else { 0.0 };
    let work = &bulletin.work;
    one(
        "unwait_start_time_seconds",
        Kind::Gauge,
        "When the agent started, in seconds since the epoch.",
        Some(seconds(bulletin.started.0)),
    );
    one("unwait_ticks_total", Kind::Counter, "Ticks since the agent started.", Some(work.ticks as f64));
    one(
        "unwait_tick_interval_seconds",
        Kind::Gauge,
        "From one tick to the next; longer than configured where cpu_budget asks for it.",
        Some(bulletin.period.as_secs_f64()),
    );
    one(
        "unwait_look_cpu_seconds_total",
        Kind::Counter,
        "CPU time that looking at the sockets has taken.",
        Some(work.looking.as_secs_f64()),
    );
    one(
        "unwait_look_failures_total",
        Kind::Counter,
        "Looks that failed, or were partial and could not be trusted.",
        Some(work.failed_looks as f64),
    );
    one(
        "unwait_last_look_timestamp_seconds",
        Kind::Gauge,
        "When everything was last looked at, in seconds since the epoch; the signals are of that moment.",
        bulletin.looked.map(seconds),
    );
    one(
        "unwait_observe_only",
        Kind::Gauge,
        "1 where the state directory cannot be written, so that nothing is done.",
        Some(yes(bulletin.observe_only.is_some())),
    );
    one(
        "unwait_config_last_reload_successful",
        Kind::Gauge,
        "0 where the last reload was rejected, and an earlier configuration is in force.",
        Some(yes(!bulletin.rejected_configuration)),
    );
    one("unwait_paused", Kind::Gauge, "1 while actions are paused.", bulletin.paused.map(yes));
    text.time_spent(
        "unwait_tick_duration_seconds",
        "How long ticks took: looking, deciding, and asking the guards.",
        work.in_ticks.as_secs_f64(),
        work.ticks,
    );
    text.family(
        "unwait_build_info",
        Kind::Gauge,
        "1, with the version that runs.",
        [([("version", bulletin.version)], 1.0)],
    );
}

fn of_signals(bulletin: &Bulletin, text: &mut Exposition) {
    text.family(
        "unwait_host_close_wait",
        Kind::Gauge,
        "Sockets in CLOSE_WAIT on the host.",
        bulletin.host_close_wait.map(|value| (NO_LABELS, value)),
    );
    text.family(
        "unwait_unattributed_close_wait",
        Kind::Gauge,
        "Sockets in CLOSE_WAIT of which it is not known whose they are, by the reason.",
        bulletin.unattributed.iter().map(|(why, count)| ([("reason", why.into())], *count as f64)),
    );
    text.family(
        "unwait_services_left_out",
        Kind::Gauge,
        "Services that are not listed here because there are too many.",
        [(NO_LABELS, bulletin.services_left_out as f64)],
    );
    let mut families: BTreeMap<&str, (&str, Vec<_>)> = BTreeMap::new();
    for (service, readings) in &bulletin.services {
        for (signal, value) in readings.iter() {
            let Some(Family { name, help, argument }) = family(signal) else { continue };
            families.entry(name).or_insert((help, Vec::new())).1.push((service.as_str(), argument, value));
        }
    }
    for (name, (help, samples)) in &families {
        let samples = samples.iter().map(|(service, argument, value)| {
            let mut labels = vec![("service", *service)];
            labels.extend(argument.as_ref().map(|(label, argument)| (*label, argument.as_str())));
            (labels, *value)
        });
        text.family(name, Kind::Gauge, help, samples);
    }
}

struct Family {
    name: &'static str,
    help: &'static str,
    /// What stands in the signal's parentheses.
    argument: Option<(&'static str, String)>,
}

/// The family of a service's signal; the host's own is told once.
fn family(signal: Signal) -> Option<Family> {
    let argument = match signal {
        Signal::CloseWaitAged(age) => Some(("age", duration::format(age))),
        Signal::CloseWaitGrowth(window) => Some(("window", duration::format(window))),
        _ => None,
    };
    let (name, help) = match signal {
        Signal::HostCloseWait => return None,
        Signal::CloseWait => ("unwait_close_wait", "Sockets in CLOSE_WAIT."),
        Signal::CloseWaitInbound => ("unwait_close_wait_inbound", "Those to a port that the service listens on."),
        Signal::CloseWaitOutbound => ("unwait_close_wait_outbound", "Those that the service itself opened."),
        Signal::CloseWaitAged(_) => {
            ("unwait_close_wait_aged", "Those that have been in CLOSE_WAIT for at least the age, and do not send.")
        }
        Signal::CloseWaitOldest => {
            ("unwait_close_wait_oldest_seconds", "For how long the oldest has been in CLOSE_WAIT, at least.")
        }
        Signal::CloseWaitGrowth(_) => ("unwait_close_wait_growth_per_minute", "Sockets a minute over the window."),
        Signal::CloseWaitUnaccepted => ("unwait_close_wait_unaccepted", "Those that no process has accepted yet."),
        Signal::CloseWaitUnread => ("unwait_close_wait_unread", "Those with data besides the FIN that nobody read."),
        Signal::CloseWaitSending => {
            ("unwait_close_wait_sending", "Those by which data still leaves: half-closed, and no leak.")
        }
        Signal::CloseWaitHostShare => {
            ("unwait_close_wait_host_share_ratio", "The service's part of the host's sockets in CLOSE_WAIT.")
        }
        Signal::Established => ("unwait_established", "Established connections, where a policy asks for them."),
        Signal::FdUsed => ("unwait_fd_used", "Open descriptors of the service's processes, where a policy asks."),
        Signal::FdRatio => ("unwait_fd_ratio", "Descriptors used over the soft limit, of the worst process."),
        Signal::FdClosed => {
            ("unwait_fd_closed", "Descriptors at TCP sockets that are closed, and that the program has not closed.")
        }
        Signal::FdExhaustedIn => {
            ("unwait_fd_exhausted_in_seconds", "Until the worst process has no descriptor left, at the present growth.")
        }
    };
    Some(Family { name, help, argument })
}

fn of_decisions(bulletin: &Bulletin, text: &mut Exposition) {
    text.family(
        "unwait_held",
        Kind::Gauge,
        "1 for each service and policy that selects it: why nothing is being done. Without a policy: none selects it.",
        bulletin.held().map(|(service, policy, reason)| {
            ([("service", service.as_str()), ("policy", policy.unwrap_or_default()), ("reason", reason.as_str())], 1.0)
        }),
    );
    text.family(
        "unwait_breached",
        Kind::Gauge,
        "1 while the policy's condition counts as breached for the service.",
        pairs(bulletin.breached.iter().map(|(service, policy)| (service.as_str(), policy))),
    );
    text.family(
        "unwait_breaches_total",
        Kind::Counter,
        "Breaches since the agent started.",
        bulletin.work.breaches.iter().map(|(policy, count)| ([("policy", policy.as_str())], *count as f64)),
    );
    text.family(
        "unwait_breaker_open",
        Kind::Gauge,
        "1 where the policy went back to dry-run for the service, because its action did not help twice.",
        pairs(bulletin.open_breakers.iter().map(|breaker| (breaker.service.as_str(), &breaker.policy))),
    );
    text.family(
        "unwait_guard_verdicts_total",
        Kind::Counter,
        "What the guards said to plans that were to begin or to go on, since the agent started.",
        bulletin
            .verdicts
            .iter()
            .map(|(guard, verdict, count)| ([("guard", *guard), ("verdict", *verdict)], *count as f64)),
    );
}

fn pairs<'a>(all: impl Iterator<Item = (&'a str, &'a String)>) -> impl Iterator<Item = ([(&'a str, &'a str); 2], f64)> {
    all.map(|(service, policy)| ([("service", service), ("policy", policy.as_str())], 1.0))
}

fn of_incidents(bulletin: &Bulletin, text: &mut Exposition) {
    let dry_run = |dry_run: bool| ("dry_run", if dry_run { "true" } else { "false" });
    text.family(
        "unwait_incidents_total",
        Kind::Counter,
        "Incidents that ended so, since the state directory was made.",
        bulletin.incidents.iter().map(|ended| {
            let labels =
                [("outcome", ended.outcome.as_str()), ("reason", ended.reason.as_str()), dry_run(ended.dry_run)];
            (labels, ended.count as f64)
        }),
    );
    text.family(
        "unwait_incident_under_way",
        Kind::Gauge,
        "1 for each incident under way, with the step that is next or being done.",
        bulletin.under_way.iter().map(|IncidentNow { service, policy, runbook, step, dry_run: dry, .. }| {
            let labels = [
                ("service", service.as_str()),
                ("policy", policy.as_str()),
                ("runbook", runbook.as_str()),
                ("step", step),
                dry_run(*dry),
            ];
            (labels, 1.0)
        }),
    );
    text.family(
        "unwait_latched",
        Kind::Gauge,
        "1 for each service that needs a person.",
        bulletin
            .latched
            .iter()
            .map(|latch| ([("service", latch.service.as_str()), ("reason", latch.reason.as_str())], 1.0)),
    );
    text.family(
        "unwait_outbox_undelivered",
        Kind::Gauge,
        "Messages that the destination has not taken yet.",
        bulletin.outbox.iter().map(|(to, (count, _))| ([("destination", to.as_str())], *count as f64)),
    );
    text.family(
        "unwait_outbox_oldest_timestamp_seconds",
        Kind::Gauge,
        "When the oldest of them was written, in seconds since the epoch.",
        bulletin.outbox.iter().filter_map(|(to, (_, oldest))| {
            Some(([("destination", to.as_str())], (*oldest)?.as_millisecond() as f64 / 1e3))
        }),
    );
    text.family(
        "unwait_fleet_slots",
        Kind::Gauge,
        "Slots of the fleet that are noted as this host's, by the name that hosts contend under.",
        bulletin.slots.iter().map(|(scope, count)| ([("scope", scope.as_str())], *count as f64)),
    );
    text.family(
        "unwait_certificate_end_timestamp_seconds",
        Kind::Gauge,
        "When the certificate ends, in seconds since the epoch; of servers, the one that was seen last.",
        bulletin.certificates.iter().map(|(of, end)| {
            let CertificateOf { connection, whose, subject } = of;
            let labels = [("connection", connection.as_str()), ("whose", *whose), ("subject", subject.as_str())];
            (labels, end.as_second() as f64)
        }),
    );
}
