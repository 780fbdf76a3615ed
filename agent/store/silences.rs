//! Silences: for a while, by a person, no action on one service or on the whole host. Unlike a pause they always end
//! by themselves.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{AuditRow, OrderVerb, Person, Store, StoreError, audit, time};
use crate::model::ServiceName;

/// `service` is empty for the whole host.
pub(super) const MIGRATION: &str = "
CREATE TABLE silence (
    service TEXT PRIMARY KEY,
    who     TEXT NOT NULL,
    why     TEXT NOT NULL,
    since   INTEGER NOT NULL,
    until   INTEGER NOT NULL
) STRICT;
";

/// Of one service there may be two: one for a time, and one that ends with the service's condition.
pub(super) const UNTIL_CLEAR: &str = "
CREATE TABLE silence_of (
    service     TEXT NOT NULL,
    until_clear INTEGER NOT NULL,
    who         TEXT NOT NULL,
    why         TEXT NOT NULL,
    since       INTEGER NOT NULL,
    until       INTEGER NOT NULL,
    until_line  INTEGER,
    PRIMARY KEY (service, until_clear)
) STRICT;
INSERT INTO silence_of SELECT service, 0, who, why, since, until, until_line FROM silence;
DROP TABLE silence;
ALTER TABLE silence_of RENAME TO silence;
";

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Silence {
    /// `None`: every service of this host.
    pub service: Option<String>,
    pub who: String,
    pub why: String,
    pub since: Timestamp,
    /// At the latest.
    pub until: Timestamp,
    /// It ends as soon as no policy's condition holds for the service any more.
    #[serde(default)]
    pub until_clear: bool,
}

impl Silence {
    pub fn concerns(&self, service: &ServiceName) -> bool {
        self.service.as_ref().is_none_or(|silenced| silenced == service.as_str())
    }
}

fn key(service: Option<&ServiceName>) -> &str {
    service.map_or("", ServiceName::as_str)
}

impl Store {
    /// Begins a silence at `silence.since`, which is now. One of the same kind and service, or of the host, that lasts as long or
    /// longer is not shortened by it: it stands, and is given back.
    pub fn silence(&self, silence: &Silence) -> Result<Option<Silence>, StoreError> {
        let (since, until) = (silence.since.as_millisecond(), silence.until.as_millisecond());
        let taken = self.write(|transaction| {
            let rows = transaction.execute(
                "INSERT INTO silence(service, who, why, since, until, until_line, until_clear)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT(service, until_clear) DO UPDATE SET who = excluded.who, why = excluded.why, since = excluded.since,
                     until = excluded.until, until_line = excluded.until_line
                 WHERE until_line < excluded.until_line",
                params![
                    silence.service.as_deref().unwrap_or_default(),
                    silence.who,
                    silence.why,
                    since,
                    until,
                    self.line.at(silence.since).saturating_add(until - since),
                    silence.until_clear
                ],
            )?;
            let by = Person { who: silence.who.clone(), why: Some(silence.why.clone()) };
            let came_of_it = match rows > 0 {
                true if silence.until_clear => {
                    format!("no action until the condition is over, at the latest until {:.0}", silence.until)
                }
                true => format!("no action until {:.0}", silence.until),
                false => "a silence that lasts as long or longer was in force, and stays".to_owned(),
            };
            let row = AuditRow::new(OrderVerb::Silence, &by, silence.since).of(silence.service.as_ref());
            audit::insert(transaction, &row.answered(true, came_of_it))?;
            Ok(rows > 0)
        })?;
        let in_force = if taken { Vec::new() } else { self.silences(silence.since)? };
        let is_like_it = |other: &Silence| other.service == silence.service && other.until_clear == silence.until_clear;
        Ok(in_force.into_iter().find(is_like_it))
    }

    /// Ends the silences that were to last until the condition of their service is over; says so in the audit. `clear`: the
    /// services for which none holds.
    pub fn end_silences_when_clear(&self, clear: &BTreeSet<ServiceName>, now: Timestamp) -> Result<(), StoreError> {
        let over = |silence: &Silence| {
            let service = silence.service.as_deref().and_then(|service| ServiceName::parse(service).ok());
            service.filter(|service| silence.until_clear && clear.contains(service))
        };
        for service in self.silences(now)?.iter().filter_map(over) {
            self.write(|transaction| {
                transaction.execute("DELETE FROM silence WHERE service = ?1 AND until_clear", [service.as_str()])?;
                let by = Person { who: "unwait".into(), why: None };
                let row = AuditRow::new(OrderVerb::EndSilence, &by, now).of(Some(&service));
                audit::insert(transaction, &row.answered(true, "the condition is over")).map(drop)
            })?;
        }
        Ok(())
    }

    /// Ends the silences of a service, or of the host; says whether one was in force at `now`.
    pub fn end_silence(&self, service: Option<&ServiceName>, by: &Person, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let was = transaction.query_row(
                "SELECT count(*) FROM silence WHERE service = ?1 AND until_line > ?2",
                params![key(service), self.line.at(now)],
                |row| row.get::<_, i64>(0),
            )?;
            transaction.execute("DELETE FROM silence WHERE service = ?1", [key(service)])?;
            let came_of_it = if was > 0 { "the silence is over" } else { "no silence was in force" };
            let row = AuditRow::new(OrderVerb::EndSilence, by, now).of(service);
            audit::insert(transaction, &row.answered(true, came_of_it))?;
            Ok(was > 0)
        })
    }

    /// The silences in force at `now`, the host's first, and until when by the wall clock that says so.
    pub fn silences(&self, now: Timestamp) -> Result<Vec<Silence>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT service, who, why, since, until_line, until_clear FROM silence WHERE until_line > ?1
                     ORDER BY service, until_clear",
                )?
                .query_map([self.line.at(now)], |row| {
                    Ok(Silence {
                        service: Some(row.get::<_, String>(0)?).filter(|service| !service.is_empty()),
                        who: row.get(1)?,
                        why: row.get(2)?,
                        since: time(row.get(3)?),
                        until: self.line.as_seen(now, row.get(4)?),
                        until_clear: row.get(5)?,
                    })
                })?
                .collect()
        })
    }
}
