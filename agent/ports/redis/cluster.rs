//! Who holds a key in a Redis Cluster. Nothing is asked beforehand: any node sends a question on to the one that holds its
//! key's slot (MOVED), and that is remembered until it is wrong.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::Value;

use crate::model::RedisAddress;

const SLOTS: u16 = 16_384;

pub(super) struct Cluster {
    /// As the host's file names them; at least one.
    nodes: Vec<RedisAddress>,
    known: Mutex<BTreeMap<u16, RedisAddress>>,
}

impl Cluster {
    pub fn of(nodes: Vec<RedisAddress>) -> Self {
        Self { nodes, known: Mutex::default() }
    }

    /// Whom to ask after so many were asked in vain.
    pub fn node_of(&self, slot: Option<u16>, vain: usize) -> RedisAddress {
        let known = slot.and_then(|slot| self.known().get(&slot).cloned());
        known.unwrap_or_else(|| self.nodes[vain % self.nodes.len()].clone())
    }

    pub fn learn(&self, slot: Option<u16>, at: &RedisAddress) {
        if let Some(slot) = slot {
            self.known().insert(slot, at.clone());
        }
    }

    pub fn forget(&self, slot: Option<u16>) {
        if let Some(slot) = slot {
            self.known().remove(&slot);
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u16, RedisAddress>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of a key: of its first `{…}` that holds something, else of all of it (redis.io, Redis cluster specification).
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS
}

/// What of a key tells its slot.
pub(super) fn tag(key: &[u8]) -> &[u8] {
    let inside = key.iter().position(|byte| *byte == b'{').map(|open| &key[open + 1..]);
    let inside = inside.and_then(|rest| Some(&rest[..rest.iter().position(|byte| *byte == b'}')?]));
    inside.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

/// The masters, each once, by the answer of CLUSTER SLOTS: `[[first, last, [host, port, …], replicas…], …]`.
pub(super) fn masters(slots: &Value) -> Result<Vec<RedisAddress>, String> {
    let not_read = || "Redis: the answer of CLUSTER SLOTS has another form than expected".to_owned();
    let (mut masters, mut served) = (Vec::new(), 0u32);
    let Value::Array(ranges) = slots else { return Err(not_read()) };
    for range in ranges {
        let Value::Array(range) = range else { return Err(not_read()) };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else {
            return Err(not_read());
        };
        let [host, Value::Int(port), ..] = master.as_slice() else { return Err(not_read()) };
        let host: String = redis::from_redis_value(host.clone()).map_err(|_| not_read())?;
        let address = RedisAddress::Tcp { host, port: u16::try_from(*port).map_err(|_| not_read())? };
        served += u32::try_from(last - first + 1).map_err(|_| not_read())?;
        if !masters.contains(&address) {
            masters.push(address);
        }
    }
    match served == u32::from(SLOTS) {
        true => Ok(masters),
        false => Err(format!(
            "Redis: only {served} of the Cluster's {SLOTS} hash slots have a master: not all of its keys can be read until each \
             has one"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CLUSTER KEYSLOT says.
    #[test]
    fn a_key_lies_in_the_slot_that_redis_says() {
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("{foo}.bar", 12_182),
            ("unwait:drained:{foo}", 12_182),
            ("a{}{foo}", slot(b"a{}{foo}")),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        for (key, expected) in [("a{b}c{d}", "b"), ("{}b", "{}b"), ("a{b", "a{b"), ("a}b{c}", "c"), ("{{b}}", "{b")] {
            assert_eq!(tag(key.as_bytes()), expected.as_bytes(), "{key}");
        }
    }
}
