//! The store, read for whoever asks over HTTP: beside the server's thread, two at a time, and nobody waits longer than a second.
//! A disk that hangs keeps those two threads until it answers, and none besides.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::store::{Health, Store, StoreError};

/// It has answered within milliseconds, or its disk hangs.
const WITHIN: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 2;

pub struct Shelf {
    store: Arc<Store>,
    places: Arc<Semaphore>,
}

impl Shelf {
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// # Errors
    /// In words: the disk hangs, or the file cannot be read.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        // Another that waits for it would help nobody.
        if matches!(self.store.health(), Health::Hanging(_)) {
            return Err(self.store.health().says().unwrap_or_default());
        }
        let (store, places) = (Arc::clone(&self.store), Arc::clone(&self.places));
        let reading = async move {
            let place = places.acquire_owned().await.expect("nobody closes it");
            let reading = tokio::task::spawn_blocking(move || {
                let found = read(&store);
                drop(place);
                found
            });
            match reading.await {
                Ok(found) => found.map_err(|error| error.to_string()),
                Err(defect) => std::panic::resume_unwind(defect.into_panic()),
            }
        };
        match tokio::time::timeout(WITHIN, reading).await {
            Ok(found) => found,
            Err(_) => Err("the disk of the state directory does not answer; check the disk (dmesg)".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_keeps_two_threads_and_nobody_else_waiting() {
        let shelf = Shelf::new(Arc::new(Store::open(Path::new(":memory:")).unwrap()));
        assert_eq!(shelf.read(|_| Ok(7)).await, Ok(7));
        let (comes_back, hang): (Vec<_>, Vec<_>) = (0..AT_ONCE).map(|_| channel::<()>()).unzip();
        for disk in hang {
            let found = shelf.read(move |_| {
                let _ = disk.recv();
                Ok(0)
            });
            assert!(found.await.unwrap_err().contains("does not answer"));
        }
        // No third thread is lost to it.
        assert!(shelf.read(|_| -> Result<i32, StoreError> { panic!("it was begun") }).await.is_err());
        drop(comes_back);
        while shelf.places.available_permits() < AT_ONCE {
            tokio::task::yield_now().await;
        }
        assert_eq!(shelf.read(|_| Ok(7)).await, Ok(7));
    }
}
