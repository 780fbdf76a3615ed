//! `unwait replay`: one policy over a month of samples of each of a hundred services.

use crate::figures::{Table, Unit};
use crate::look::Month;
use crate::parts::walk::cpu_of;

pub const TITLE: &str = "replay: one policy over a month of samples, 15 s apart, of 100 services (CPU time)";
const SERVICES: u32 = 100;
const MILLISECONDS_AT_MOST: f64 = 1000.0;

pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let month = Month::of_samples()?;
    let mut breaches = 0;
    let took = cpu_of(|| {
        breaches = (0..SERVICES).map(|_| month.replay()).sum::<usize>();
        Ok(())
    })?;
    anyhow::ensure!(breaches == SERVICES as usize * month.breaches(), "{breaches} breaches");
    let from = format!("{} samples each", month.samples());
    let measured = (1e3 * took.as_secs_f64(), Unit::Milliseconds);
    table.figure("none", "a month of 100 services", measured, Some(MILLISECONDS_AT_MOST), from);
    Ok(())
}
