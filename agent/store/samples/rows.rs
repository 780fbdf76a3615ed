//! Blocks and their rows in the file.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::encoding::{self, Steps};
use super::tiers::{TIERS, Tier};

/// Times and steps in milliseconds. A row's format: `samples::encoding`. Each tier's rows have a range of ids of their own:
/// a page that holds rows of one tier alone becomes free as a whole when they are dropped.
pub const MIGRATION: &str = "
CREATE TABLE sample_block (
    id      INTEGER PRIMARY KEY,
    step    INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    turn    INTEGER NOT NULL,
    signals TEXT NOT NULL,
    UNIQUE (step, start)
) STRICT;
CREATE TABLE sample (
    id      INTEGER PRIMARY KEY,
    block   INTEGER NOT NULL REFERENCES sample_block(id) ON DELETE CASCADE,
    service TEXT NOT NULL,
    steps   BLOB NOT NULL,
    UNIQUE (block, service)
) STRICT;
";

/// Whose row the host's own is: no service has this name.
pub const HOST: &str = "";

/// A block as it is in the file; an empty one where it is not.
#[derive(Debug, Default)]
pub struct Block {
    pub start: i64,
    /// The names of its rows' signals, by their places.
    pub signals: Vec<String>,
    pub rows: Vec<(String, Vec<u8>)>,
}

/// A block's rows that are to be written.
#[derive(Debug)]
pub struct Rewrite {
    pub tier: &'static Tier,
    pub start: i64,
    pub signals: Vec<String>,
    pub rows: Vec<(String, Vec<u8>)>,
}

impl Block {
    /// The rows' steps; `None` where a row is damaged, which is said.
    pub fn decoded(&self, tier: &Tier) -> BTreeMap<String, Option<Steps>> {
        let decode = |(service, row): &(String, Vec<u8>)| {
            let steps = encoding::decode(row, tier.steps_in_block, &self.signals).inspect_err(|error| {
                let (start, step) = (super::super::time(self.start), crate::model::duration::format(tier.step));
                tracing::warn!(
                    service,
                    %start,
                    step,
                    %error,
                    "the signal history of {service} from {start} in steps of {step} is damaged ({error}) and left out",
                );
            });
            (service.clone(), steps.ok())
        };
        self.rows.iter().map(decode).collect()
    }
}

/// All rows of one block.
pub fn block(connection: &Connection, tier: &Tier, start: i64) -> rusqlite::Result<Block> {
    let found: Option<(i64, String)> = connection
        .prepare_cached("SELECT id, signals FROM sample_block WHERE step = ?1 AND start = ?2")?
        .query_row(params![tier.step_millis(), start], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, signals)) = found else { return Ok(Block { start, ..Block::default() }) };
    let rows = connection
        .prepare_cached("SELECT service, steps FROM sample WHERE block = ?1")?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Block { start, signals: names(&signals), rows })
}

/// The blocks that touch the time from `from` to `until`, with the rows of the host and of one service.
pub fn blocks_of(
    connection: &Connection,
    tier: &Tier,
    service: &str,
    from: i64,
    until: i64,
) -> rusqlite::Result<Vec<Block>> {
    let found: Vec<(i64, i64, String)> = connection
        .prepare_cached("SELECT id, start, signals FROM sample_block WHERE step = ?1 AND start > ?2 AND start < ?3")?
        .query_map(params![tier.step_millis(), from.saturating_sub(tier.block_millis()), until], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut rows =
        connection.prepare_cached("SELECT service, steps FROM sample WHERE block = ?1 AND service IN (?2, ?3)")?;
    found
        .into_iter()
        .map(|(id, start, signals)| {
            let rows = rows.query_map(params![id, HOST, service], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(Block { start, signals: names(&signals), rows: rows.collect::<rusqlite::Result<_>>()? })
        })
        .collect()
}

/// Writes the rows, and drops the blocks that are too many: those written longest ago, whatever time they speak of, and
/// those of a tier that is no more.
pub fn write(transaction: &Connection, rewrites: &[Rewrite]) -> rusqlite::Result<()> {
    for Rewrite { tier, start, signals, rows } in rewrites {
        let id: i64 = transaction
            .prepare_cached(
                "INSERT INTO sample_block(step, start, turn, signals)
                 VALUES (?1, ?2, (SELECT ifnull(max(turn), 0) + 1 FROM sample_block), ?3)
                 ON CONFLICT(step, start) DO UPDATE SET turn = excluded.turn, signals = excluded.signals RETURNING id",
            )?
            .query_row(params![tier.step_millis(), start, signals.join("\n")], |row| row.get(0))?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO sample(id, block, service, steps) VALUES (
                 1 + ifnull((SELECT id FROM sample WHERE id >= ?4 AND id < ?5 ORDER BY id DESC LIMIT 1), ?4), ?1, ?2, ?3)
             ON CONFLICT(block, service) DO UPDATE SET steps = excluded.steps",
        )?;
        let ids = tier.step_millis() << 32;
        for (service, row) in rows {
            insert.execute(params![id, service, row, ids, ids + (1_i64 << 32)])?;
        }
    }
    for tier in &TIERS {
        transaction.execute(
            "DELETE FROM sample_block WHERE step = ?1 AND id NOT IN
             (SELECT id FROM sample_block WHERE step = ?1 ORDER BY turn DESC LIMIT ?2)",
            params![tier.step_millis(), tier.blocks_kept],
        )?;
    }
    let [fine, coarse] = &TIERS;
    let gone = "DELETE FROM sample_block WHERE step NOT IN (?1, ?2)";
    transaction.execute(gone, params![fine.step_millis(), coarse.step_millis()]).map(drop)
}

/// The dictionary as it is kept: a name a line. Whatever a damaged one says are names that nobody knows.
fn names(signals: &str) -> Vec<String> {
    signals.lines().map(String::from).collect()
}
