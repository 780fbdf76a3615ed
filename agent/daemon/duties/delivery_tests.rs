//! Delivery, in virtual time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::*;
use crate::clock::VirtualClock;
use crate::model::{EventKind, IncidentId, Message, ServiceName};
use crate::store::Audience;

/// Takes all that it is told.
#[derive(Default)]
struct Ears {
    heard: Mutex<Vec<(String, String)>>,
    hears: Notify,
}

impl Ears {
    fn titles(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|(_, title)| title.clone()).collect()
    }

    async fn has_heard(&self, messages: usize) {
        while self.heard.lock().unwrap().len() < messages {
            self.hears.notified().await;
        }
    }
}

#[async_trait]
impl Notifier for Ears {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        self.heard.lock().unwrap().push((letter.id.into(), letter.message.title.clone()));
        self.hears.notify_one();
        Ok(None)
    }

    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }
}

/// Takes the question, and never answers.
#[derive(Default)]
struct Hangs {
    asked: Mutex<Vec<String>>,
    asks: Notify,
}

#[async_trait]
impl Notifier for Hangs {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        self.asked.lock().unwrap().push(letter.id.into());
        self.asks.notify_one();
        std::future::pending().await
    }

    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }
}

fn outbox(notifiers: &[(&str, Arc<dyn Notifier>)]) -> Outbox {
    let clock = Arc::new(VirtualClock::start());
    let notifiers = notifiers.iter().map(|(name, notifier)| (name.to_string(), notifier.clone())).collect();
    Outbox { store: Arc::new(Store::open(Path::new(":memory:")).unwrap()), notifiers, clock, paces: Arc::default() }
}

fn tell(outbox: &Outbox, destination: &str, title: &str) {
    let audience = Audience::of(vec![(destination.into(), vec![EventKind::Stuck])]);
    outbox.store.tell(&audience, &[Message::new(EventKind::Stuck, "bj1-03", outbox.clock.now(), title)]);
}

/// Far more than is delivered at a look, for one that hangs; then one for one that hears.
fn a_backlog_before_one(ears: &Arc<Ears>) -> Outbox {
    let outbox = outbox(&[("chat", Arc::new(Hangs::default())), ("pager", ears.clone())]);
    for nth in 0..60 {
        tell(&outbox, "chat", &nth.to_string());
    }
    tell(&outbox, "pager", "OUT OF TRAFFIC");
    outbox
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_with_a_backlog_keeps_no_message_from_another() {
    let ears = Arc::new(Ears::default());
    let outbox = a_backlog_before_one(&ears);
    let _delivery = Delivery::start(outbox.clone());
    for told in 1..4 {
        // Sooner than the other one is given up.
        tokio::time::timeout(DEADLINE / 2, ears.has_heard(told)).await.expect("it is told at once");
        tell(&outbox, "pager", "still OUT OF TRAFFIC");
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_as_the_agent_ends_keeps_no_message_from_another() {
    let ears = Arc::new(Ears::default());
    let outbox = a_backlog_before_one(&ears);
    Delivery::start(outbox).end(LAST).await;
    assert_eq!(ears.titles(), ["OUT OF TRAFFIC"]);
}

/// Takes a message at once, and takes its time to say so.
#[derive(Default)]
struct Dawdles(Ears);

#[async_trait]
impl Notifier for Dawdles {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        self.0.deliver(letter).await?;
        tokio::time::sleep(LAST / 4).await;
        Ok(None)
    }

    fn pace(&self) -> Pace {
        Pace::UNLIMITED
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_as_the_agent_ends_is_told_once_and_what_is_said_last_after_it() {
    let dawdles = Arc::new(Dawdles::default());
    let outbox = outbox(&[("pager", dawdles.clone())]);
    tell(&outbox, "pager", "OUT OF TRAFFIC");
    let delivery = Delivery::start(outbox.clone());
    dawdles.0.has_heard(1).await;
    tell(&outbox, "pager", "the agent stops");
    delivery.end(LAST).await;
    assert_eq!(dawdles.0.titles(), ["OUT OF TRAFFIC", "the agent stops"]);
    assert!(outbox.store.undelivered(10).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_destination_hears_on_the_disk_and_in_memory_in_the_order_in_which_it_was_told() {
    let ears = Arc::new(Ears::default());
    let outbox = outbox(&[("pager", ears.clone())]);
    let told: Vec<String> = (0..60).map(|nth| nth.to_string()).collect();
    for title in &told[..30] {
        tell(&outbox, "pager", title);
    }
    outbox.store.refuse_writes(true);
    for title in &told[30..] {
        tell(&outbox, "pager", title);
    }
    let _delivery = Delivery::start(outbox);
    let _ = tokio::time::timeout(Duration::from_secs(60), ears.has_heard(told.len())).await;
    assert_eq!(ears.titles(), told);
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_refuses_outlives_the_delivery_that_hangs_on_it() {
    for ends in [false, true] {
        let hangs = Arc::new(Hangs::default());
        let before = outbox(&[("pager", hangs.clone())]);
        before.store.refuse_writes(true);
        for title in ["OUT OF TRAFFIC", "the agent stops"] {
            tell(&before, "pager", title);
        }
        let delivery = Delivery::start(before.clone());
        hangs.asks.notified().await;
        drop(delivery);

        // The agent was told another configuration, or it ends.
        let ears = Arc::new(Ears::default());
        let notifiers = [("pager".to_string(), ears.clone() as Arc<dyn Notifier>)].into();
        let after = Outbox { notifiers, ..before };
        let delivery = Delivery::start(after);
        let _delivery = match ends {
            true => {
                delivery.end(LAST).await;
                None
            }
            false => Some(delivery),
        };
        let heard = tokio::time::timeout(Duration::from_secs(60), ears.has_heard(2)).await;
        heard.unwrap_or_else(|_| panic!("lost; the agent ends: {ends}; heard: {:?}", ears.titles()));
        assert_eq!(ears.titles(), ["OUT OF TRAFFIC", "the agent stops"], "the agent ends: {ends}");
        assert_eq!(ears.heard.lock().unwrap()[0].0, hangs.asked.lock().unwrap()[0], "by the same id");
    }
}

/// Answers as it was told to, and then takes everything; with when it was asked, and where the letter goes on.
struct Chat {
    pace: Pace,
    answers: Mutex<VecDeque<Result<Option<ThreadKey>, DeliveryError>>>,
    heard: Mutex<Vec<Heard>>,
    hears: Notify,
    began: tokio::time::Instant,
}

#[derive(Clone, Debug, PartialEq)]
struct Heard {
    at: Duration,
    message: Message,
    thread: Option<ThreadKey>,
}

impl Chat {
    fn of(every: Duration, answers: impl IntoIterator<Item = Result<Option<ThreadKey>, DeliveryError>>) -> Arc<Self> {
        Arc::new(Self {
            pace: Pace { every, joined_bytes: Some(2_500) },
            answers: Mutex::new(answers.into_iter().collect()),
            heard: Mutex::default(),
            hears: Notify::new(),
            began: tokio::time::Instant::now(),
        })
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    async fn has_heard(&self, messages: usize) -> Vec<Heard> {
        let heard = async {
            while self.heard().len() < messages {
                self.hears.notified().await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(3_600), heard).await;
        heard.unwrap_or_else(|_| panic!("not told: {:?}", self.heard()));
        self.heard()
    }
}

#[async_trait]
impl Notifier for Chat {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let (at, message) = (self.began.elapsed(), letter.message.clone());
        self.heard.lock().unwrap().push(Heard { at, message, thread: letter.thread.cloned() });
        self.hears.notify_one();
        self.answers.lock().unwrap().pop_front().unwrap_or(Ok(None))
    }

    fn pace(&self) -> Pace {
        self.pace
    }
}

fn told(outbox: &Outbox, event: EventKind, service: usize, incident: &str) {
    let audience = Audience::of(vec![("chat".into(), vec![event])]);
    let title = format!("s{service} {event}");
    let message = Message {
        service: Some(ServiceName::parse(&format!("s{service}.service")).unwrap()),
        policy: Some("leak".into()),
        incident: Some(IncidentId(incident.into())),
        ..Message::new(event, "bj1-03", outbox.clock.now(), title)
    };
    outbox.store.tell(&audience, &[message]);
}

async fn all_taken(outbox: &Outbox) {
    while !outbox.store.undelivered(1).unwrap().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_told_at_its_own_pace_also_over_a_reload() {
    const EVERY: Duration = Duration::from_secs(3);
    let chat = Chat::of(EVERY, []);
    let outbox = outbox(&[("chat", chat.clone())]);
    for service in 0..3 {
        told(&outbox, EventKind::Breach, service, "none");
    }
    let delivery = Delivery::start(outbox.clone());
    chat.has_heard(1).await;
    // The agent is told another configuration.
    drop(delivery);
    let _delivery = Delivery::start(outbox.clone());
    let heard = chat.has_heard(3).await;
    let gaps: Vec<Duration> = heard.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(gaps.iter().all(|gap| *gap >= EVERY), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn two_hundred_incidents_in_a_minute_are_few_messages_and_none_is_hidden_or_told_twice() {
    let chat = Chat::of(Duration::from_secs(1), []);
    let outbox = outbox(&[("chat", chat.clone())]);
    let _delivery = Delivery::start(outbox.clone());
    for service in 0..200 {
        for event in [EventKind::Breach, EventKind::Start, EventKind::End] {
            let event = if service % 50 == 7 && event == EventKind::End { EventKind::Stuck } else { event };
            told(&outbox, event, service, &format!("i-{service}"));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    all_taken(&outbox).await;
    let heard = chat.heard();
    assert!(heard.windows(2).all(|pair| pair[1].at - pair[0].at >= Duration::from_secs(1)), "above its pace");
    assert!(heard.len() <= 45, "{}", heard.len());
    let counted = |event| -> u64 {
        let of = heard.iter().filter(|one| one.message.event == event).map(|one| &one.message);
        let joined = |message: &Message| message.title.split_once("bj1-03: ").map(|(_, count)| count.to_owned());
        let count = |message| joined(message).map_or(1, |count| count.split(' ').next().unwrap().parse().unwrap());
        of.map(count).sum()
    };
    let events = [EventKind::Breach, EventKind::Start, EventKind::End, EventKind::Stuck];
    assert_eq!(events.map(counted), [200, 200, 196, 4]);
    for service in [7, 57, 107, 157] {
        assert!(heard.iter().any(|one| one.message.title == format!("s{service} stuck")), "{service}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_asks_for_time_gets_it_for_all_messages_and_over_a_reload() {
    let wait = Duration::from_secs(30);
    let chat = Chat::of(Duration::ZERO, [Err(DeliveryError::Later { after: Some(wait), detail: "429".into() })]);
    let outbox = outbox(&[("chat", chat.clone())]);
    told(&outbox, EventKind::Start, 1, "i-1");
    let delivery = Delivery::start(outbox.clone());
    chat.has_heard(1).await;
    told(&outbox, EventKind::End, 1, "i-1");
    told(&outbox, EventKind::Stuck, 2, "i-2");
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(delivery);
    let _delivery = Delivery::start(outbox.clone());
    let heard = chat.has_heard(4).await;
    assert!(heard[1].at - heard[0].at >= wait, "{heard:?}");
    let titles: Vec<&str> = heard[1..].iter().map(|one| one.message.title.as_str()).collect();
    assert_eq!(titles, ["s2 stuck", "s1 start", "s1 end"]);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_an_incident_is_told_in_its_order() {
    let away = || Err(DeliveryError::Later { after: None, detail: "503".into() });
    let chat = Chat::of(Duration::from_secs(1), (0..12).map(|_| away()));
    let outbox = outbox(&[("chat", chat.clone())]);
    for event in [EventKind::Start, EventKind::Step, EventKind::End] {
        told(&outbox, event, 1, "i-1");
    }
    let _delivery = Delivery::start(outbox.clone());
    let heard = chat.has_heard(15).await;
    let titles: Vec<&str> = heard[12..].iter().map(|one| one.message.title.as_str()).collect();
    assert_eq!(titles, ["s1 start", "s1 step", "s1 end"]);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_of_hours_what_waits_is_few_messages_and_what_asks_a_person_is_soon_told() {
    let away = || Err(DeliveryError::Later { after: None, detail: "503".into() });
    let chat = Chat::of(Duration::from_secs(1), (0..30).map(|_| away()));
    let outbox = outbox(&[("chat", chat.clone())]);
    for service in 0..100 {
        told(&outbox, EventKind::Start, service, &format!("i-{service}"));
    }
    told(&outbox, EventKind::Stuck, 7, "i-7");
    let _delivery = Delivery::start(outbox.clone());
    all_taken(&outbox).await;
    let heard = chat.heard().split_off(30);
    assert!(heard.len() < 15, "{}", heard.len());
    let stuck = heard.iter().find(|one| one.message.title == "s7 stuck").unwrap();
    assert!(stuck.at - heard[0].at < Duration::from_secs(60), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_taken_keeps_no_other_waiting_for_long() {
    struct Hates(Arc<Chat>);
    #[async_trait]
    impl Notifier for Hates {
        async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
            match letter.message.title.as_str() {
                "s1 start" => Err(DeliveryError::Later { after: None, detail: "500".into() }),
                _ => self.0.deliver(letter).await,
            }
        }

        fn pace(&self) -> Pace {
            self.0.pace
        }
    }
    let chat = Chat::of(Duration::from_secs(1), []);
    let outbox = outbox(&[("chat", Arc::new(Hates(chat.clone())))]);
    told(&outbox, EventKind::Start, 1, "i-1");
    told(&outbox, EventKind::Start, 2, "i-2");
    told(&outbox, EventKind::Stuck, 1, "i-1");
    let _delivery = Delivery::start(outbox.clone());
    let heard = chat.has_heard(2).await;
    assert!(heard[1].at <= Duration::from_secs(300), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn an_incident_goes_on_where_it_began_also_after_a_restart_and_while_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unwait.db");
    for disk_is_full in [false, true] {
        let key = ThreadKey("C1 1503435956.000247".into());
        let chat = Chat::of(Duration::ZERO, [Ok(Some(key.clone()))]);
        let incident = format!("i-{disk_is_full}");
        let store = || Arc::new(Store::open(&path).unwrap());
        let before = Outbox { store: store(), ..outbox(&[("chat", chat.clone())]) };
        told(&before, EventKind::Start, 1, &incident);
        before.store.refuse_writes(disk_is_full);
        let delivery = Delivery::start(before.clone());
        chat.has_heard(1).await;
        let after = match disk_is_full {
            true => before,
            false => {
                all_taken(&before).await;
                drop((delivery, before));
                Outbox { store: store(), ..outbox(&[("chat", chat.clone())]) }
            }
        };
        let _delivery = Delivery::start(after.clone());
        told(&after, EventKind::End, 1, &incident);
        let heard = chat.has_heard(2).await;
        assert_eq!((&heard[0].thread, &heard[1].thread), (&None, &Some(key)), "the disk is full: {disk_is_full}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_between_the_answer_and_the_mark_tells_all_of_a_joined_message_again() {
    let dawdles = Arc::new(Slow(Chat::of(Duration::from_secs(1), [])));
    let outbox = outbox(&[("chat", dawdles.clone())]);
    for service in 0..30 {
        told(&outbox, EventKind::End, service, &format!("i-{service}"));
    }
    let delivery = Delivery::start(outbox.clone());
    let taken = dawdles.0.has_heard(1).await;
    drop(delivery);
    assert_eq!(outbox.store.undelivered(99).unwrap().len(), 30, "nothing is marked");
    let _delivery = Delivery::start(outbox.clone());
    let again = dawdles.0.has_heard(2).await;
    assert_eq!(again[1].message, taken[0].message);
    all_taken(&outbox).await;
    assert_eq!(dawdles.0.heard().len(), 2, "one message more");
}

/// Takes a message at once, and takes its time to say so.
struct Slow(Arc<Chat>);

#[async_trait]
impl Notifier for Slow {
    async fn deliver(&self, letter: Letter<'_>) -> Result<Option<ThreadKey>, DeliveryError> {
        let taken = self.0.deliver(letter).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        taken
    }

    fn pace(&self) -> Pace {
        self.0.pace
    }
}
