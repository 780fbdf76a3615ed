//! The steps of one service in one block, as bytes. Pure, and its decoder is made for bytes that lie.
//!
//! ```text
//! row      := checksum:32 body              FNV-1a of the body; damage is an error, never another history
//! body     := present:1 * steps_in_block    a step that is not present was not measured (or the service was quiet)
//!             signals:16 signal*
//! signal   := index:16                      into the block's dictionary
//!             all:1 (known:1 * present)?    at which of the present steps it is known; `all` alone where at each
//!             last below above              for each step at which it is known
//! last     := order:2 number{order} series  as it is (0), as differences (1), or as differences of these (2); what
//!                                           has no forerunner as a number; zigzag, since they have a sign
//! below    := series                        last - least
//! above    := series                        most - last
//! series   := parameter:5 value*            by Rice: a quotient of at most 15 ones and a zero, `parameter` bits; or
//!                                           16 ones and a number. Parameter 31: every value is 0, and takes no bit
//! number   := length:7 bit * length
//! ```
//!
//! Values are whole numbers of the signal's unit's [`scale`]: a leak's steps differ by little, so most values take
//! some bits.

use std::collections::BTreeMap;

use super::bits::{Damaged, Reader, Writer};
use crate::model::Signal;
use crate::model::signal::Unit;

/// One signal over one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub last: i64,
    pub least: i64,
    pub most: i64,
}

impl Range {
    pub fn of(value: i64) -> Self {
        Self { last: value, least: value, most: value }
    }

    /// This, and then `later`.
    pub fn and_then(self, later: Self) -> Self {
        Self { last: later.last, least: self.least.min(later.least), most: self.most.max(later.most) }
    }
}

/// The signals that were known within one step.
pub type Known = BTreeMap<Signal, Range>;

/// The steps of a block at which a service was measured, by their place in it.
pub type Steps = BTreeMap<u16, Known>;

/// How many make one of the signal's unit. They are kept as precisely as they are shown.
pub fn scale(signal: Signal) -> f64 {
    match signal.unit() {
        Unit::Count | Unit::Time => 1.0,
        Unit::Ratio => 1_000.0,
        Unit::PerMinute => 10.0,
    }
}

/// A reading as a whole number; `None` for what no number stands for. An age is never overstated: time is rounded down.
pub fn scaled(signal: Signal, value: f64) -> Option<i64> {
    // Beyond it not every whole number is an f64; differences of differences still fit an i64.
    const MOST: f64 = 9_007_199_254_740_992.0;
    let scaled = value * scale(signal);
    let whole = if signal.unit() == Unit::Time { scaled.floor() } else { scaled.round() };
    whole.is_finite().then(|| whole.clamp(-MOST, MOST) as i64)
}

/// `signals`: the block's dictionary; what it lacks is added.
pub fn encode(steps: &Steps, steps_in_block: u16, signals: &mut Vec<String>) -> Vec<u8> {
    let mut body = Writer::default();
    (0..steps_in_block).for_each(|index| body.bit(steps.contains_key(&index)));
    let mut all: Vec<Signal> = steps.values().flat_map(|known| known.keys().copied()).collect();
    all.sort_unstable();
    all.dedup();
    body.bits(all.len() as u64, 16);
    for signal in all {
        body.bits(index_in(signals, signal), 16);
        let ranges: Vec<Range> = steps.values().filter_map(|known| known.get(&signal).copied()).collect();
        let everywhere = ranges.len() == steps.len();
        body.bit(everywhere);
        if !everywhere {
            steps.values().for_each(|known| body.bit(known.contains_key(&signal)));
        }
        let last: Vec<i64> = ranges.iter().map(|range| range.last).collect();
        let below: Vec<u64> = ranges.iter().map(|range| range.last.abs_diff(range.least)).collect();
        let above: Vec<u64> = ranges.iter().map(|range| range.most.abs_diff(range.last)).collect();
        write_last(&mut body, &last);
        write_series(&mut body, &below);
        write_series(&mut body, &above);
    }
    let body = body.finish();
    [&checksum(&body).to_be_bytes()[..], &body].concat()
}

/// What [`encode`] was given. A signal that this version does not know is left out.
pub fn decode(row: &[u8], steps_in_block: u16, signals: &[String]) -> Result<Steps, Damaged> {
    let (sum, body) = row.split_at_checked(4).ok_or(Damaged("it is too short"))?;
    if sum != checksum(body).to_be_bytes() {
        return Err(Damaged("its checksum is wrong"));
    }
    decode_body(body, steps_in_block, signals)
}

fn decode_body(body: &[u8], steps_in_block: u16, signals: &[String]) -> Result<Steps, Damaged> {
    let mut body = Reader::new(body);
    let mut steps = Steps::new();
    for index in 0..steps_in_block {
        if body.bit()? {
            steps.insert(index, Known::new());
        }
    }
    for _ in 0..body.bits(16)? {
        let name = signals.get(body.bits(16)? as usize).ok_or(Damaged("a signal is not in the dictionary"))?;
        let everywhere = body.bit()?;
        let mut known_at: Vec<&mut Known> = Vec::with_capacity(steps.len());
        for known in steps.values_mut() {
            if everywhere || body.bit()? {
                known_at.push(known);
            }
        }
        let last = read_last(&mut body, known_at.len())?;
        let below = read_series(&mut body, known_at.len())?;
        let above = read_series(&mut body, known_at.len())?;
        let Ok(signal) = Signal::parse(name) else { continue };
        for (known, ((last, below), above)) in known_at.into_iter().zip(last.into_iter().zip(below).zip(above)) {
            let least = last.checked_sub_unsigned(below).ok_or(BEYOND)?;
            let most = last.checked_add_unsigned(above).ok_or(BEYOND)?;
            if known.insert(signal, Range { last, least, most }).is_some() {
                return Err(Damaged("a signal is there twice"));
            }
        }
    }
    body.finish()?;
    Ok(steps)
}

/// The place of the signal in the dictionary, made where it has none.
fn index_in(signals: &mut Vec<String>, signal: Signal) -> u64 {
    let name = signal.to_string();
    let found = signals.iter().position(|known| *known == name);
    found.unwrap_or_else(|| {
        signals.push(name);
        signals.len() - 1
    }) as u64
}

/// A single damaged byte always changes it.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

const BEYOND: Damaged = Damaged("a value is beyond all numbers");
const ALL_ZERO: u32 = 31;
/// A longer quotient costs more than the number itself.
const LONGEST_QUOTIENT: u64 = 15;

/// The values as they are, as differences, or as differences of these: whichever takes the fewest bits.
fn write_last(to: &mut Writer, values: &[i64]) {
    let mut rest = values.to_vec();
    let orders = (0..=2).map(|order| {
        if order > 0 {
            // From the back, so that each value's forerunner is still whole.
            (order..rest.len()).rev().for_each(|at| rest[at] -= rest[at - 1]);
        }
        let coded: Vec<u64> = rest.iter().map(|value| zigzag(*value)).collect();
        let (first, others) = coded.split_at(order.min(coded.len()));
        let parameter = parameter(others);
        let bits = first.iter().map(|value| 7 + bit_length(*value)).chain(others.iter().map(|v| cost(*v, parameter)));
        (bits.sum::<usize>(), order, coded)
    });
    let (_, order, coded) = orders.min_by_key(|(bits, ..)| *bits).expect("there are three of them");
    to.bits(order as u64, 2);
    let (first, others) = coded.split_at(order.min(coded.len()));
    first.iter().for_each(|value| to.number(*value));
    write_series(to, others);
}

fn read_last(from: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, Damaged> {
    let order = from.bits(2)? as usize;
    if order > 2 {
        return Err(Damaged("a series is of no known order"));
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..order.min(count) {
        values.push(unzigzag(from.number()?));
    }
    values.extend(read_series(from, count.saturating_sub(order))?.into_iter().map(unzigzag));
    for order in (1..=order).rev() {
        for at in order..count {
            values[at] = values[at - 1].checked_add(values[at]).ok_or(BEYOND)?;
        }
    }
    Ok(values)
}

fn write_series(to: &mut Writer, values: &[u64]) {
    let parameter = parameter(values);
    to.bits(parameter.into(), 5);
    values.iter().for_each(|value| write_rice(to, *value, parameter));
}

fn read_series(from: &mut Reader<'_>, count: usize) -> Result<Vec<u64>, Damaged> {
    let parameter = from.bits(5)? as u32;
    (0..count).map(|_| read_rice(from, parameter)).collect()
}

fn write_rice(to: &mut Writer, value: u64, parameter: u32) {
    if parameter == ALL_ZERO {
        return;
    }
    let quotient = value >> parameter;
    if quotient > LONGEST_QUOTIENT {
        to.bits(u64::MAX, LONGEST_QUOTIENT as u32 + 1);
        to.number(value);
        return;
    }
    to.bits((1 << (quotient + 1)) - 2, quotient as u32 + 1);
    to.bits(value, parameter);
}

fn read_rice(from: &mut Reader<'_>, parameter: u32) -> Result<u64, Damaged> {
    if parameter == ALL_ZERO {
        return Ok(0);
    }
    let mut quotient = 0;
    while quotient <= LONGEST_QUOTIENT && from.bit()? {
        quotient += 1;
    }
    if quotient > LONGEST_QUOTIENT {
        return from.number();
    }
    Ok(quotient << parameter | from.bits(parameter)?)
}

/// Bits that a value takes.
fn cost(value: u64, parameter: u32) -> usize {
    match value >> parameter {
        _ if parameter == ALL_ZERO => 0,
        quotient if quotient > LONGEST_QUOTIENT => LONGEST_QUOTIENT as usize + 1 + 7 + bit_length(value),
        quotient => quotient as usize + 1 + parameter as usize,
    }
}

/// The best is near the logarithm of the mean; where single values stand out, near that of the median.
fn parameter(values: &[u64]) -> u32 {
    if values.iter().all(|value| *value == 0) {
        return ALL_ZERO;
    }
    let mean = values.iter().map(|value| u128::from(*value)).sum::<u128>() / values.len() as u128;
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let typical = [mean as u64, sorted[sorted.len() / 2]];
    let near = typical.map(|value| (bit_length(value) as u32).saturating_sub(1).min(ALL_ZERO - 1));
    let whole = |parameter: &u32| values.iter().map(|value| cost(*value, *parameter)).sum::<usize>();
    near.into_iter().min_by_key(whole).expect("there are two of them")
}

fn bit_length(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

/// Small numbers of either sign become small ones without.
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests;
