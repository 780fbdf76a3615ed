//! What a replay goes over: the agent's recorded history, dumps of `ss -tan`, or a CSV file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;

use super::super::{Failure, open, signals};
use crate::config::Config;
use crate::measure::dump;
use crate::model::{Policy, Readings, Sample, ServiceName, Signal};
use crate::store::StoreError;

/// A dump, or a CSV file without a `service` column, is of this one where none is named.
const UNNAMED: &str = "process:recorded";

/// One service's history, and the policies that are tried on it.
pub struct History<'a> {
    pub service: ServiceName,
    pub samples: Vec<Sample>,
    pub policies: Vec<&'a Policy>,
}

/// What the agent has recorded. `only` this service.
pub async fn recorded<'a>(
    config: &'a Config,
    only: Option<&ServiceName>,
    is_wanted: impl Fn(&Policy) -> bool,
    (from, until): (Timestamp, Timestamp),
) -> Result<Vec<History<'a>>, Failure> {
    let unreachable = |error: StoreError| Failure::Unreachable(error.to_string());
    signals::written(&config.host.state).await;
    let store = open::store_to_read(&config.host.state).await?;
    let mut all = Vec::new();
    for name in store.services_with_samples().map_err(unreachable)? {
        let Ok(service) = ServiceName::parse(&name) else { continue };
        let policies: Vec<&Policy> =
            config.selecting(&service).into_iter().filter(|policy| is_wanted(policy)).collect();
        if policies.is_empty() || only.is_some_and(|only| *only != service) {
            continue;
        }
        let samples = store.samples(&service, from, until).map_err(unreachable)?;
        all.push(History { service, samples, policies });
    }
    Ok(all)
}

/// Dumps, as if one service held all of their sockets.
pub fn dumps<'a>(
    config: &'a Config,
    named: Option<&ServiceName>,
    is_wanted: impl Fn(&Policy) -> bool,
    files: &[PathBuf],
) -> Result<Vec<History<'a>>, Failure> {
    let mut tables = Vec::new();
    for file in files {
        let (text, written) = read(file)?;
        let of = |error: dump::DumpError| Failure::Usage(format!("{}:{}: {}", file.display(), error.line, error.why));
        tables.extend(dump::tables(&text, written).map_err(of)?);
    }
    let (service, policies) = whose(config, named, is_wanted);
    let asked: Vec<Signal> = policies.iter().flat_map(|policy| signals_of(policy)).collect();
    let samples = dump::samples(tables, &service, asked);
    Ok(vec![History { service, samples, policies }])
}

/// The policies that select the named service; where none is named, all of them.
fn whose<'a>(
    config: &'a Config,
    named: Option<&ServiceName>,
    is_wanted: impl Fn(&Policy) -> bool,
) -> (ServiceName, Vec<&'a Policy>) {
    let service = named.cloned().unwrap_or_else(|| ServiceName::parse(UNNAMED).expect("it is a name"));
    let policies = match named {
        Some(service) => config.selecting(service),
        None => config.policies.iter().collect(),
    };
    (service, policies.into_iter().filter(|policy| is_wanted(policy)).collect())
}

fn signals_of(policy: &Policy) -> Vec<Signal> {
    let conditions = [Some(&policy.when), policy.clear.as_ref()].into_iter().flatten();
    conditions.flat_map(|condition| condition.comparisons()).map(|comparison| comparison.signal).collect()
}

/// The text, and when it was written last.
fn read(file: &Path) -> Result<(String, Timestamp), Failure> {
    let failed = |error: std::io::Error| Failure::Usage(format!("{}: {error}", file.display()));
    let written = fs::metadata(file).and_then(|of| of.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let text = fs::read(file).map_err(failed)?;
    Ok((String::from_utf8_lossy(&text).into_owned(), Timestamp::try_from(written).unwrap_or(Timestamp::UNIX_EPOCH)))
}

/// A CSV file: a column `time` (with its offset, or seconds since 1970), one a signal, and `service` where it is of several. An
/// empty cell is unknown.
pub fn csv<'a>(
    config: &'a Config,
    named: Option<&ServiceName>,
    is_wanted: impl Fn(&Policy) -> bool,
    file: &Path,
) -> Result<Vec<History<'a>>, Failure> {
    let (text, _) = read(file)?;
    let wrong = |line: u64, why: String| Failure::Usage(format!("{}:{line}: {why}", file.display()));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let unreadable =
        |error: csv::Error| wrong(error.position().map_or(1, csv::Position::line), format!("no line of CSV: {error}"));
    let headings = reader.headers().map_err(unreadable)?.clone();
    let columns = headings.iter().map(Column::parse).collect::<Result<Vec<_>, _>>().map_err(|why| wrong(1, why))?;
    if !columns.contains(&Column::Time) {
        return Err(wrong(1, "no column `time`".into()));
    }
    let mut histories: BTreeMap<Option<ServiceName>, Vec<Sample>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        let (service, sample) = row(&columns, &record).map_err(|why| wrong(line, why))?;
        histories.entry(service).or_default().push(sample);
    }
    let mut all = Vec::new();
    for (service, mut samples) in histories {
        let (service, policies) = whose(config, service.as_ref().or(named), &is_wanted);
        if named.is_none_or(|named| *named == service) && !policies.is_empty() {
            samples.sort_by_key(|sample| sample.at);
            all.push(History { service, samples, policies });
        }
    }
    Ok(all)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Column {
    Time,
    Service,
    Signal(Signal),
}

impl Column {
    fn parse(heading: &str) -> Result<Self, String> {
        match heading {
            "time" => Ok(Self::Time),
            "service" => Ok(Self::Service),
            signal => Signal::parse(signal).map(Self::Signal).map_err(|why| format!("column `{signal}`: {why}")),
        }
    }
}

fn row(columns: &[Column], record: &csv::StringRecord) -> Result<(Option<ServiceName>, Sample), String> {
    let (mut at, mut service, mut readings) = (None, None, Readings::default());
    for (column, cell) in columns.iter().zip(record) {
        match column {
            Column::Time => {
                let time = dump::time(cell);
                at = Some(
                    time.ok_or_else(|| format!("`{cell}` is no time: 2026-11-30T10:00:00Z, or seconds since 1970"))?,
                );
            }
            Column::Service => service = Some(ServiceName::parse(cell)?),
            Column::Signal(_) if cell.is_empty() => {}
            Column::Signal(signal) => {
                let value: f64 = cell.parse().map_err(|_| format!("`{cell}` is no number ({signal})"))?;
                if !value.is_finite() {
                    return Err(format!("`{cell}` is no number ({signal})"));
                }
                readings.set(*signal, value);
            }
        }
    }
    let at = at.ok_or("the row has no time")?;
    Ok((service, Sample::moment(at, readings)))
}
