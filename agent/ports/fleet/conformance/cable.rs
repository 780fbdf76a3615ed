//! The cable between the hosts and a store, which loses what a test tells it to.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Cable {
    pub address: SocketAddr,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Faults {
    lost_answers: u32,
    lost_requests: u32,
    silent: bool,
    /// So many questions are passed on, and the next is answered by the cable.
    passing: u32,
    /// That answer; an empty one breaks the connection.
    answers: Option<&'static str>,
}

impl Faults {
    fn answers_this(&mut self) -> Option<&'static str> {
        match self.passing {
            0 => self.answers.take(),
            _ => {
                self.passing -= 1;
                None
            }
        }
    }
}

impl Cable {
    /// `write` stands in the first packet of every write to the store, and of nothing else.
    pub async fn to(store: SocketAddr, write: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cable = Self { address: listener.local_addr().unwrap(), faults: Arc::default() };
        let faults = cable.faults.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, store, write, faults.clone()));
            }
        });
        cable
    }

    pub fn lose_answers(&self, writes: u32) {
        self.faults.lock().unwrap().lost_answers = writes;
    }

    pub fn lose_requests(&self, writes: u32) {
        self.faults.lock().unwrap().lost_requests = writes;
    }

    /// The `nth` question from now, counted from 0, is answered so in the store's place.
    pub fn answer_nth(&self, nth: u32, answer: &'static str) {
        let mut faults = self.faults.lock().unwrap();
        (faults.passing, faults.answers) = (nth, Some(answer));
    }

    /// Was that question asked meanwhile? It is not waited for any more.
    pub fn has_answered(&self) -> bool {
        self.faults.lock().unwrap().answers.take().is_none()
    }

    pub fn set_silent(&self, silent: bool) {
        self.faults.lock().unwrap().silent = silent;
    }
}

/// Ends, and with it both connections, where either side ends or the cable loses something.
async fn carry(mut client: TcpStream, store: SocketAddr, write: &str, faults: Arc<Mutex<Faults>>) {
    if faults.lock().unwrap().silent {
        return std::future::pending().await;
    }
    let answer = faults.lock().unwrap().answers_this();
    if let Some(answer) = answer {
        // The question is read first, so that its end is no reset before it.
        let mut asked = [0; 4_096];
        let _ = client.read(&mut asked).await;
        let _ = client.write_all(answer.as_bytes()).await;
        return;
    }
    // Each on a way of its own length, so that hosts do not go in step.
    let microseconds = RandomState::new().hash_one(()) % 4_000;
    tokio::time::sleep(Duration::from_micros(microseconds)).await;
    let mut store = TcpStream::connect(store).await.unwrap();
    store.set_nodelay(true).unwrap();
    client.set_nodelay(true).unwrap();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    let mut answer_is_lost = false;
    loop {
        tokio::select! {
            read = client.read_buf(&mut asked) => match read {
                Ok(1..) => {}
                _ => return,
            },
            read = store.read_buf(&mut answered) => match read {
                Ok(1..) => {}
                _ => return,
            },
        }
        if answer_is_lost && !answered.is_empty() {
            return;
        }
        if !asked.is_empty() {
            if asked.windows(write.len()).any(|window| window == write.as_bytes()) {
                let mut faults = faults.lock().unwrap();
                if faults.lost_requests > 0 {
                    faults.lost_requests -= 1;
                    return;
                }
                if faults.lost_answers > 0 {
                    faults.lost_answers -= 1;
                    answer_is_lost = true;
                }
            }
            if store.write_all(&std::mem::take(&mut asked)).await.is_err() {
                return;
            }
        }
        if client.write_all(&std::mem::take(&mut answered)).await.is_err() {
            return;
        }
    }
}
