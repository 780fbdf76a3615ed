//! Rows of the audit that the disk did not take: kept in memory, told from there, and written once it does.

use std::sync::{Mutex, MutexGuard};

use rusqlite::params;

use super::{AuditRow, Store, audit};

#[derive(Debug, Default)]
pub(super) struct KeptOrders(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    /// Where the order was written down before it was answered.
    id: Option<i64>,
    row: AuditRow,
    told: bool,
}

impl KeptOrders {
    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Store {
    /// Keeps what came of an order until the disk takes it.
    pub fn keep_order(&self, id: Option<i64>, row: AuditRow) {
        self.orders.lock().push(Kept { id, row, told: false });
    }

    /// Those that people have not been told of, and are from now on.
    pub fn tell_kept_orders(&self) -> Vec<AuditRow> {
        let mut kept = self.orders.lock();
        let untold = kept.iter_mut().filter(|one| !one.told);
        let told = untold.map(|one| {
            one.told = true;
            one.row.clone()
        });
        told.collect()
    }

    /// Writes those that are kept, where the disk takes them now.
    pub fn write_kept_orders(&self) {
        let mut kept = self.orders.lock();
        if kept.is_empty() {
            return;
        }
        let written = self.write(|transaction| {
            kept.iter().try_for_each(|Kept { id, row, told }| {
                let id = match id {
                    Some(id) => audit::answer(transaction, *id, row).map(|()| *id)?,
                    None => audit::insert(transaction, row)?,
                };
                transaction.execute("UPDATE audit SET told = ?2 WHERE id = ?1", params![id, told]).map(drop)
            })
        });
        if written.is_ok() {
            kept.clear();
        }
    }
}
