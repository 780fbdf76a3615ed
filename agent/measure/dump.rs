//! What `ss -tan` printed, as censuses: for whoever wants to know what a policy would have made of the dumps that he has. Pure.
//!
//! A table begins with ss's own heading. A line before it may say when it was made; where none does, the caller knows. What a
//! dump does not tell stays unknown: processes, descriptors, whether a socket was accepted. An age counts from the first dump in
//! which the socket stood in CLOSE_WAIT, so it is a lower bound.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;

use super::Meter;
use crate::model::socket::{PassedOver, Quality};
use crate::model::{Brief, Census, Readings, Sample, ServiceCensus, ServiceName, Signal};

/// One table of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub at: Timestamp,
    close_wait: Vec<Row>,
    /// The ports that anybody listens on; none where the dump shows no listening sockets.
    listening: BTreeSet<u16>,
    established: u64,
}

/// A socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    peer: SocketAddr,
    recv_q: u32,
    send_q: u32,
}

/// Where a dump cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct DumpError {
    pub line: usize,
    pub why: String,
}

/// Every table of one text. `written`: when a table was made that says nothing of it itself; it is asked for one only.
pub fn tables(text: &str, written: Timestamp) -> Result<Vec<Table>, DumpError> {
    let mut tables: Vec<Table> = Vec::new();
    let mut said: Option<Timestamp> = None;
    let mut untimed = 0;
    for (number, line) in text.lines().enumerate() {
        let error = |why: String| DumpError { line: number + 1, why };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["State", "Recv-Q", "Send-Q", ..] => {
                untimed += usize::from(said.is_none());
                if untimed > 1 {
                    return Err(error(
                        "a second table without a time: put one before each, as `date -Iseconds; ss -tan` does".into(),
                    ));
                }
                let (close_wait, listening) = (Vec::new(), BTreeSet::new());
                tables.push(Table { at: said.take().unwrap_or(written), close_wait, listening, established: 0 });
            }
            [state, recv_q, send_q, local, peer, ..] if is_state(state) => {
                let table = tables.last_mut().ok_or_else(|| {
                    error(
                        "a socket before ss's heading (`State Recv-Q Send-Q …`): was it printed with --no-header?"
                            .into(),
                    )
                })?;
                match *state {
                    "LISTEN" => table.listening.extend(port(local)),
                    "ESTAB" => table.established += 1,
                    "CLOSE-WAIT" => {
                        let count =
                            |text: &str| text.parse().map_err(|_| error(format!("`{text}` is no count of bytes")));
                        let address =
                            |text: &str| address(text).ok_or_else(|| error(format!("`{text}` is no address and port")));
                        let (recv_q, send_q) = (count(recv_q)?, count(send_q)?);
                        table.close_wait.push(Row { local: address(local)?, peer: address(peer)?, recv_q, send_q });
                    }
                    _ => {}
                }
            }
            _ => {
                said = Some(time(line.trim()).ok_or_else(|| {
                    error(format!(
                        "`{}` is neither a socket as `ss -tan` prints it, nor a time (`date -Iseconds`, `date +%s`)",
                        line.trim().chars().take(60).collect::<String>().escape_debug()
                    ))
                })?);
            }
        }
    }
    match tables.is_empty() {
        false => Ok(tables),
        true => {
            Err(DumpError { line: 1, why: "no table: ss's heading (`State Recv-Q Send-Q …`) is not there".into() })
        }
    }
}

/// A time with its offset, or the seconds since 1970.
pub fn time(text: &str) -> Option<Timestamp> {
    let seconds = || text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    text.parse().ok().or_else(seconds)
}

/// As ss names them, all in capitals.
fn is_state(word: &str) -> bool {
    word.len() > 1
        && word.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'0'..=b'9'))
        && word.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn port(text: &str) -> Option<u16> {
    text.rsplit_once(':')?.1.parse().ok()
}

/// `10.0.0.1:80`, `[::ffff:10.0.0.1]:80`, with an interface behind the host where it has one: `10.0.0.1%eth0:80`.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host: IpAddr = host.split('%').next()?.parse().ok()?;
    Some(SocketAddr::new(host.to_canonical(), port.parse().ok()?))
}

/// The tables as samples of one service that holds all of their sockets, oldest first: the signals that a dump tells, and of
/// those with an argument the ones that are `asked` for.
pub fn samples(mut tables: Vec<Table>, service: &ServiceName, asked: impl IntoIterator<Item = Signal>) -> Vec<Sample> {
    tables.sort_by_key(|table| table.at);
    let mut meter = Meter::new(asked);
    let mut since: BTreeMap<(SocketAddr, SocketAddr), Timestamp> = BTreeMap::new();
    let began = tables.first().map(|table| table.at);
    let mut samples = Vec::new();
    for table in tables {
        since = table
            .close_wait
            .iter()
            .map(|row| ((row.local, row.peer), since.get(&(row.local, row.peer)).copied().unwrap_or(table.at)))
            .collect();
        let monotonic = began.map_or(Duration::ZERO, |began| lasts(began, table.at));
        let measured = meter.feed(&census(&table, service, monotonic, &since));
        samples.push(Sample::moment(table.at, told(&measured.of(service), !table.listening.is_empty())));
    }
    samples
}

fn lasts(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn census(
    table: &Table,
    service: &ServiceName,
    monotonic: Duration,
    since: &BTreeMap<(SocketAddr, SocketAddr), Timestamp>,
) -> Census {
    let mut held = ServiceCensus { established: Some(table.established), ..ServiceCensus::default() };
    for row in &table.close_wait {
        let age = since.get(&(row.local, row.peer)).map_or(Duration::ZERO, |since| lasts(*since, table.at));
        // The FIN counts as one byte. Any inode: a dump does not tell whether the socket was accepted.
        let brief = Brief::new(1, age, row.recv_q > 1, row.send_q > 0).at_least(true);
        match table.listening.contains(&row.local.port()) {
            true => held.inbound.push(brief),
            false => held.outbound.push(brief),
        }
    }
    Census {
        at: table.at,
        monotonic,
        services: BTreeMap::from([(service.clone(), held)]),
        unattributed: BTreeMap::new(),
        of_no_service: BTreeMap::new(),
        unowned_listeners: 0,
        passed_over: PassedOver::default(),
        quality: Quality::Complete,
    }
}

/// Those of the readings that a dump tells.
fn told(readings: &Readings, directions: bool) -> Readings {
    let mut told = Readings::default();
    for (signal, value) in readings.iter() {
        let is_told = match signal {
            Signal::CloseWaitInbound | Signal::CloseWaitOutbound => directions,
            Signal::CloseWaitUnaccepted | Signal::CloseWaitHostShare => false,
            _ => true,
        };
        if is_told {
            told.set(signal, value);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reading;

    const HEADING: &str = "State      Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n";

    fn service() -> ServiceName {
        ServiceName::parse("rpc-order.service").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_table_is_read_as_ss_prints_it_and_ages_count_from_dump_to_dump() {
        let first = "LISTEN 0 511 0.0.0.0:7801 0.0.0.0:*\nLISTEN 0 128 [::]:22 [::]:*\nESTAB 0 0 10.0.0.1:22 10.0.0.9:5000\n\
                     CLOSE-WAIT 1 0 10.0.0.1:7801 10.0.0.2:4000\nCLOSE-WAIT 9 5 [::ffff:10.0.0.1]:40000 [::ffff:10.0.0.3]:6379\n\
                     TIME-WAIT 0 0 10.0.0.1%eth0:1 10.0.0.2:2\n";
        let second = "LISTEN 0 511 *:7801 *:*\nCLOSE-WAIT 1 0 10.0.0.1%eth0:7801 10.0.0.2:4000 users:((\"php\",pid=7,fd=5))\n\
                      CLOSE-WAIT 1 0 10.0.0.1:7801 10.0.0.2:4001\n";
        let text = format!("2026-11-30T10:00:00+00:00\n{HEADING}{first}\n1796033700\n{HEADING}{second}");
        let tables = tables(&text, at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(tables[0].at, at("2026-11-30T10:00:00Z"));
        let aged = Signal::CloseWaitAged(Duration::from_secs(600));
        let samples = samples(tables, &service(), [aged]);
        let values = |sample: &Sample| {
            let of = |signal| sample.readings.get(signal);
            [Signal::CloseWait, Signal::CloseWaitInbound, Signal::CloseWaitUnread, Signal::CloseWaitSending, aged]
                .map(of)
        };
        let known = |values: [u32; 5]| values.map(|value| Reading::Known(value.into()));
        assert_eq!(values(&samples[0]), known([2, 1, 1, 1, 0]));
        assert_eq!(samples[1].at, at("2026-11-30T10:15:00Z"));
        assert_eq!(values(&samples[1]), known([2, 2, 0, 0, 1]));
        assert_eq!(samples[0].readings.get(Signal::Established), Reading::Known(1.0));
        assert_eq!(samples[0].readings.get(Signal::CloseWaitUnaccepted), Reading::Unknown);
    }

    #[test]
    fn a_dump_alone_is_as_old_as_its_file_and_without_listeners_no_direction_is_known() {
        let written = at("2026-11-30T10:00:00Z");
        let tables = tables(&format!("{HEADING}CLOSE-WAIT 1 0 10.0.0.1:7801 10.0.0.2:4000\n"), written).unwrap();
        let samples = samples(tables, &service(), []);
        assert_eq!(samples[0].at, written);
        assert_eq!(samples[0].readings.get(Signal::HostCloseWait), Reading::Known(1.0));
        assert_eq!(samples[0].readings.get(Signal::CloseWaitInbound), Reading::Unknown);
    }

    #[test]
    fn what_is_no_dump_is_told_with_its_line() {
        let said = |text: &str| tables(text, Timestamp::UNIX_EPOCH).unwrap_err().to_string();
        for (text, line, why) in [
            (String::new(), 1, "no table"),
            ("CLOSE-WAIT 1 0 10.0.0.1:1 10.0.0.2:2\n".into(), 1, "before ss's heading"),
            (format!("{HEADING}{HEADING}"), 2, "a second table without a time"),
            (format!("{HEADING}Mon Nov 30 19:35:47 CST 2026\n"), 2, "nor a time (`date -Iseconds`"),
            (format!("{HEADING}CLOSE-WAIT 1 0 10.0.0.1 10.0.0.2:2\n"), 2, "`10.0.0.1` is no address and port"),
            (format!("{HEADING}CLOSE-WAIT x 0 10.0.0.1:1 10.0.0.2:2\n"), 2, "`x` is no count of bytes"),
        ] {
            let said = said(&text);
            assert!(said.starts_with(&format!("line {line}: ")) && said.contains(why), "{said}");
        }
    }
}
