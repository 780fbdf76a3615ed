//! One suite over every registry: the same story, told to each through the eyes of its clients.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::fake::FakeRegistry;
use super::file::FileRegistry;
use super::*;
use crate::model::IncidentId;

/// The outside of a registry. At first: `rpc-order` has `rpc-order-1` here and two others elsewhere, `rpc-cart` has
/// `rpc-cart-1` here alone; all of them healthy and in traffic.
#[async_trait(?Send)]
pub(super) trait World {
    fn registry(&self) -> &dyn Registry;
    /// The adapter as a later agent makes it, after this one's death.
    fn later(&self) -> Arc<dyn Registry>;
    /// The adapter before a party that takes every call and answers none; each time one of its own.
    fn silent(&self) -> Option<Arc<dyn Registry>>;
    /// Adapters whose rights do not suffice, where the registry knows rights.
    async fn cut(&self) -> Vec<Arc<dyn Registry>> {
        vec![]
    }
    /// Does a client find this instance of this host?
    async fn finds(&self, id: &str) -> bool;
    async fn set_healthy(&self, id: &str, healthy: bool);
    /// As a person does it; `None` puts it back.
    async fn isolate(&self, id: &str, reason: Option<&str>);
    async fn deregister(&self, id: &str);
    /// The service, or a person, writes the record again, otherwise than it was.
    async fn renew(&self, id: &str);
    /// What a client reads of the record; after [`World::renew`] it is another.
    async fn record(&self, id: &str) -> String;
    /// The id, as this registry writes it, of what is `rpc-order-1` elsewhere.
    fn id(&self, plain: &str) -> String {
        plain.into()
    }
    fn tells(&self) -> Tells {
        Tells::ALL
    }
    /// Into traffic by others while our drain stands: by a heartbeat, a reload, a service that registers anew.
    async fn comes_back(&self, id: &str) {
        self.isolate(id, None).await;
    }
    /// Into traffic by a person's hand, where it may have to be more than that.
    async fn by_hand(&self, id: &str) {
        self.comes_back(id).await;
    }
    /// In this time an adapter that holds its drains has looked at them some times.
    fn looked(&self) -> Duration {
        Duration::ZERO
    }
}

/// What a registry can tell at all; the rest is declared among its caveats.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Tells {
    /// A failing instance from a passing one.
    pub health: bool,
    /// One that a person took out, with the reason they gave, from one that is not there.
    pub isolation: bool,
    /// One that deregistered from one that is drained.
    pub deregistration: bool,
    /// A record that was written again from the one before.
    pub renewal: bool,
    /// How many others there are.
    pub count: bool,
    /// At which address an instance stands.
    pub addresses: bool,
    /// A drained instance from its neighbours: it takes none of them along.
    pub alone: bool,
}

impl Tells {
    pub const ALL: Self = Self {
        health: true,
        isolation: true,
        deregistration: true,
        renewal: true,
        count: true,
        addresses: true,
        alone: true,
    };
}

pub(super) const OURS: &str = "rpc-order-1";
pub(super) const NEIGHBOUR: &str = "rpc-cart-1";

/// Some calls of five seconds each, one after the other.
const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn marker(incident: &str) -> Marker {
    Marker { incident: IncidentId(incident.into()), host: "bj1-03".into() }
}

/// The address of a party that accepts connections and says nothing, for as long as the test's process lives.
pub(super) fn nobody_answers() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::mem::forget(listener);
    address
}

pub(super) async fn conforms(world: &dyn World) {
    tokio::join!(tells_the_story(world), every_call_ends(world));
}

async fn tells_the_story(world: &dyn World) {
    let registry = world.registry();
    let tells = world.tells();
    let [us, neighbour, none] = [OURS, NEIGHBOUR, "rpc-none-1"].map(|plain| world.id(plain));
    let (us, neighbour, none) = (us.as_str(), neighbour.as_str(), none.as_str());
    let traffic = async |id: &str| registry.observe(id).await.unwrap().traffic;
    let counts = async |id: &str, healthy: u32, registered: u32| match registry.others(id).await {
        Ok(others) => assert_eq!(others, Others { healthy, registered }, "{id}"),
        Err(error) => assert!(!tells.count && matches!(error, RegistryError::Refused { .. }), "{error}"),
    };
    assert!(tells == Tells::ALL || !registry.caveats().is_empty(), "what it cannot tell, it declares");
    let ours = marker("20261122T184329Z-rpc-order-1f3a");
    let record = registry.observe(us).await.unwrap();
    assert_eq!((record.name.as_str(), &record.traffic), ("rpc-order", &Traffic::Passing));
    counts(us, 2, 3).await;
    counts(neighbour, 0, 1).await;
    if tells.addresses {
        assert_eq!(registry.names().await.unwrap()[&"127.0.0.1:7801".parse().unwrap()], "rpc-order");
    }
    let address = (us.to_owned(), "127.0.0.1:7801".parse().unwrap());
    assert_eq!(registry.instances().await.unwrap().contains(&address), tells.addresses);
    assert_eq!(registry.counts(), tells.count);
    assert!(registry.markers().await.unwrap().is_empty());

    // What would be done is told, and not done.
    for change in [TrafficChange::Drain, TrafficChange::Restore] {
        let calls = registry.would(change, us, &ours).await.unwrap();
        assert!(!calls.is_empty() && calls.iter().all(|call| !call.contains('\n')), "{calls:?}");
    }
    assert_eq!(registry.observe(us).await.unwrap(), record);

    // What is not there is not registered, and nothing else.
    let absent = registry.observe(none).await.unwrap_err();
    assert!(matches!(absent, RegistryError::NotRegistered { .. }), "{absent}");
    assert!(matches!(registry.drain(none, &ours).await, Err(RegistryError::NotRegistered { .. })));
    if tells.count {
        assert!(matches!(registry.others(none).await, Err(RegistryError::NotRegistered { .. })));
    }
    assert!(matches!(registry.restore(none, &ours, &Value::Null).await, Ok(Restored::NotOurs(_))));

    assert!(!registry.takes_writes(us, &ours).await.unwrap());

    // A drain is seen by clients once it returns, again and again; a second hand's is refused.
    for _ in 0..2 {
        registry.drain(us, &ours).await.unwrap();
        assert!(!world.finds(us).await);
        assert_eq!(traffic(us).await, Traffic::DrainedBy(ours.clone()));
    }
    if tells.alone {
        assert!(world.finds(neighbour).await);
    }
    let second = registry.drain(us, &marker("another")).await.unwrap_err();
    assert!(
        matches!(&second, RegistryError::Refused { .. }) && second.to_string().contains(&ours.incident.0),
        "{second}"
    );
    assert_eq!(traffic(us).await, Traffic::DrainedBy(ours.clone()));
    assert_eq!(registry.markers().await.unwrap(), [FoundMarker { id: us.into(), marker: ours.clone() }]);
    // Drained, we are registered still, and the others are healthy still.
    counts(us, 2, 3).await;

    // That it takes writes still is proven by one that changes nothing, and where our own drain stands alone.
    assert!(registry.takes_writes(us, &ours).await.unwrap());
    assert!(!registry.takes_writes(us, &marker("another")).await.unwrap());
    assert_eq!(traffic(us).await, Traffic::DrainedBy(ours.clone()));
    assert!(!world.finds(us).await);

    // Only the marker's own drain is taken back; then the record is what it was.
    let another = registry.restore(us, &marker("another"), &record.record).await.unwrap();
    assert!(matches!(&another, Restored::NotOurs(what) if what.contains(&ours.incident.0)), "{another:?}");
    assert!(!world.finds(us).await);
    assert_eq!(registry.restore(us, &ours, &record.record).await.unwrap(), Restored::Done);
    assert!(world.finds(us).await);
    assert_eq!(registry.observe(us).await.unwrap(), record);
    let again = registry.restore(us, &ours, &record.record).await.unwrap();
    assert!(matches!(again, Restored::NotOurs(_)), "{again:?}");
    assert_eq!(registry.observe(us).await.unwrap(), record);
    assert!(registry.markers().await.unwrap().is_empty());

    // It outlives the agent: a later one finds it by the list of markers, holds it, and takes it back.
    registry.drain(us, &ours).await.unwrap();
    let later = world.later();
    assert_eq!(later.markers().await.unwrap(), [FoundMarker { id: us.into(), marker: ours.clone() }]);
    assert_eq!(later.observe(us).await.unwrap().traffic, Traffic::DrainedBy(ours.clone()));
    later.drain(us, &ours).await.unwrap();
    assert!(!later.hold(us, &ours).await.unwrap());
    assert!(!world.finds(us).await);
    assert_eq!(later.restore(us, &ours, &record.record).await.unwrap(), Restored::Done);
    assert!(world.finds(us).await);
    assert_eq!(registry.observe(us).await.unwrap(), record);
    assert!(registry.markers().await.unwrap().is_empty());

    // An answer that permissions have cut is the truth or an error, and never absence.
    registry.drain(us, &ours).await.unwrap();
    for cut in world.cut().await {
        for id in [us, neighbour] {
            true_or_refused(cut.observe(id).await.map(|seen| seen.traffic), traffic(id).await);
            true_or_refused(cut.others(id).await, registry.others(id).await.unwrap());
        }
        true_or_refused(cut.markers().await, registry.markers().await.unwrap());
        let refused = cut.drain(neighbour, &ours).await.unwrap_err();
        assert!(matches!(refused, RegistryError::Refused { .. }), "{refused}");
        assert!(world.finds(neighbour).await || !tells.alone);
    }
    assert_eq!(registry.restore(us, &ours, &record.record).await.unwrap(), Restored::Done);

    // What a person took out is left alone by both.
    if tells.isolation {
        world.isolate(us, Some("deploy of release 41")).await;
        assert_eq!(traffic(us).await, Traffic::Isolated { reason: "deploy of release 41".into() });
        let refused = registry.drain(us, &ours).await.unwrap_err();
        assert!(refused.to_string().contains("deploy of release 41"), "{refused}");
        assert!(matches!(registry.restore(us, &ours, &record.record).await, Ok(Restored::NotOurs(_))));
        assert_eq!(traffic(us).await, Traffic::Isolated { reason: "deploy of release 41".into() });
        assert!(registry.markers().await.unwrap().is_empty());
        world.isolate(us, None).await;
    }

    // Failing is not passing, can be drained, and is failing still when it is put back.
    if tells.health {
        world.set_healthy(us, false).await;
        assert_eq!(traffic(us).await, Traffic::Failing);
        registry.drain(us, &ours).await.unwrap();
        assert_eq!(registry.restore(us, &ours, &record.record).await.unwrap(), Restored::Done);
        assert_eq!(traffic(us).await, Traffic::Failing);
        world.set_healthy(us, true).await;
        assert!(world.finds(us).await);
    }

    // What was written meanwhile is newer than what we kept, and stays as it is.
    if tells.renewal {
        let before = world.record(us).await;
        registry.drain(us, &ours).await.unwrap();
        world.renew(us).await;
        registry.restore(us, &ours, &record.record).await.unwrap();
        assert!(world.finds(us).await);
        assert_ne!(world.record(us).await, before);
        assert_eq!(traffic(us).await, Traffic::Passing);
        assert!(registry.markers().await.unwrap().is_empty());
    }

    // What others have put back, and what is found so, no adapter that holds its drains takes out again.
    registry.drain(us, &ours).await.unwrap();
    world.comes_back(us).await;
    registry.restore(us, &ours, &record.record).await.unwrap();
    assert!(world.finds(us).await);
    tokio::time::sleep(world.looked()).await;
    assert!(world.finds(us).await);
    assert!(registry.markers().await.unwrap().is_empty());

    // What a person has decided on is let go of: traffic stays as it is until they put it back, and from then on too.
    let later = world.later();
    later.drain(us, &ours).await.unwrap();
    for _ in 0..2 {
        later.forget(us, &ours).await.unwrap();
        assert!(!world.finds(us).await);
    }
    world.by_hand(us).await;
    assert!(world.finds(us).await);
    tokio::time::sleep(world.looked()).await;
    assert!(world.finds(us).await);
    // Where our marker stands in the registry itself, it is there still.
    later.restore(us, &ours, &record.record).await.unwrap();
    assert_eq!(traffic(us).await, Traffic::Passing);
    assert!(registry.markers().await.unwrap().is_empty());

    // A record that went while it was drained is not written again.
    if tells.deregistration {
        registry.drain(us, &ours).await.unwrap();
        world.deregister(us).await;
        assert!(matches!(registry.restore(us, &ours, &record.record).await, Ok(Restored::NotOurs(_))));
        assert!(matches!(registry.observe(us).await, Err(RegistryError::NotRegistered { .. })));
    }
}

fn true_or_refused<T: PartialEq + std::fmt::Debug>(answer: Result<T, RegistryError>, truth: T) {
    match answer {
        Ok(answer) => assert_eq!(answer, truth),
        Err(error) => assert!(matches!(error, RegistryError::Refused { .. }), "{error}"),
    }
}

/// Before a party that never answers, no call waits for ever, and a change is worth trying again.
async fn every_call_ends(world: &dyn World) {
    let [Some(a), Some(b), Some(c), Some(d)] = std::array::from_fn(|_| world.silent()) else { return };
    let (us, ours) = (&world.id(OURS), &marker("i"));
    let calls = async {
        tokio::join!(a.drain(us, ours), b.restore(us, ours, &Value::Null), c.hold(us, ours), async {
            tokio::join!(d.observe(us), d.others(us), d.markers(), d.names())
        })
    };
    let (drained, restored, ..) = tokio::time::timeout(DEADLINE, calls).await.expect("every call ends");
    assert!(drained.unwrap_err().is_passing());
    assert!(restored.unwrap_err().is_passing());
}

const FILE: &str = r#"{"instances": [
  {"id": "rpc-order-1", "name": "rpc-order", "address": "127.0.0.1:7801", "healthy": true, "drained": null, "weight": 3},
  {"id": "rpc-order-2", "name": "rpc-order", "address": "10.0.0.2:7801", "healthy": true, "drained": null},
  {"id": "rpc-order-3", "name": "rpc-order", "address": "10.0.0.3:7801", "healthy": true, "drained": null},
  {"id": "rpc-cart-1", "name": "rpc-cart", "address": "127.0.0.1:7901", "healthy": true, "drained": null}
], "generation": 7}"#;

struct FileWorld {
    directory: tempfile::TempDir,
    registry: FileRegistry,
}

impl FileWorld {
    fn new(content: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.json");
        std::fs::write(&path, content).unwrap();
        Self { registry: FileRegistry::new("file", path), directory }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("registry.json")
    }

    fn content(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path()).unwrap()).unwrap()
    }

    fn change(&self, id: &str, change: impl Fn(&mut Value)) {
        let mut content = self.content();
        let instances = content["instances"].as_array_mut().unwrap();
        instances.iter_mut().filter(|instance| instance["id"] == id).for_each(change);
        instances.retain(|instance| !instance["id"].is_null());
        std::fs::write(self.path(), content.to_string()).unwrap();
    }
}

#[async_trait(?Send)]
impl World for FileWorld {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(FileRegistry::new("file", self.path()))
    }

    /// Somebody else holds the lock.
    fn silent(&self) -> Option<Arc<dyn Registry>> {
        let path = tempfile::tempdir_in(self.directory.path()).unwrap().keep().join("registry.json");
        std::fs::write(&path, FILE).unwrap();
        let lock = std::fs::File::create(path.with_extension("json.lock")).unwrap();
        std::mem::forget(Flock::lock(lock, FlockArg::LockExclusive).unwrap());
        Some(Arc::new(FileRegistry::new("file", path)))
    }

    async fn finds(&self, id: &str) -> bool {
        let content = self.content();
        let mut instances = content["instances"].as_array().unwrap().iter();
        instances.any(|instance| instance["id"] == id && instance["healthy"] == true && instance["drained"].is_null())
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        self.change(id, |instance| instance["healthy"] = healthy.into());
    }

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        self.change(id, |instance| {
            instance["drained"] = reason.map_or(Value::Null, |reason| serde_json::json!({ "by": reason }));
        });
    }

    async fn deregister(&self, id: &str) {
        self.change(id, |instance| instance["id"] = Value::Null);
    }

    async fn renew(&self, id: &str) {
        self.change(id, |instance| instance["weight"] = 5.into());
    }

    async fn record(&self, id: &str) -> String {
        let instances = self.content()["instances"].clone();
        instances.as_array().unwrap().iter().find(|instance| instance["id"] == id).unwrap()["weight"].to_string()
    }
}

#[async_trait(?Send)]
impl World for Arc<FakeRegistry> {
    fn registry(&self) -> &dyn Registry {
        self.as_ref()
    }

    /// The registry outlives who asks it.
    fn later(&self) -> Arc<dyn Registry> {
        self.clone()
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        None
    }

    async fn finds(&self, id: &str) -> bool {
        matches!(self.observe(id).await, Ok(Registration { traffic: Traffic::Passing, .. }))
    }

    async fn set_healthy(&self, id: &str, healthy: bool) {
        FakeRegistry::set_healthy(self, id, healthy);
    }

    async fn isolate(&self, id: &str, reason: Option<&str>) {
        FakeRegistry::isolate(self, id, reason);
    }

    async fn deregister(&self, id: &str) {
        FakeRegistry::deregister(self, id);
    }

    async fn renew(&self, id: &str) {
        self.register(id, "rpc-order", "127.0.0.1:7802");
    }

    async fn record(&self, id: &str) -> String {
        self.observe(id).await.unwrap().record["address"].to_string()
    }
}

#[tokio::test]
async fn the_fake_conforms() {
    let fake = Arc::new(FakeRegistry::new("fake"));
    fake.register("rpc-order-1", "rpc-order", "127.0.0.1:7801");
    fake.register("rpc-order-2", "rpc-order", "10.0.0.2:7801");
    fake.register("rpc-order-3", "rpc-order", "10.0.0.3:7801");
    fake.register("rpc-cart-1", "rpc-cart", "127.0.0.1:7901");
    conforms(&fake).await;
    fake.set_unreachable(true);
    assert!(fake.observe(NEIGHBOUR).await.unwrap_err().is_passing());
}

#[tokio::test]
async fn the_file_conforms() {
    conforms(&FileWorld::new(FILE)).await;
}

#[tokio::test]
async fn a_change_of_the_file_keeps_all_else_that_stands_in_it() {
    use std::os::unix::fs::PermissionsExt;
    let world = FileWorld::new(FILE);
    std::fs::set_permissions(world.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let mut expected: Value = serde_json::from_str(FILE).unwrap();
    world.registry.drain(OURS, &marker("i")).await.unwrap();
    expected["instances"][0]["drained"] = serde_json::json!({ "by": marker("i").to_string() });
    assert_eq!(world.content(), expected);
    assert_eq!(std::fs::metadata(world.path()).unwrap().permissions().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn a_file_that_is_no_registry_is_refused_and_left_as_it_is() {
    let twice = FILE.replace("rpc-order-2", "rpc-order-1");
    for wrong in ["", "[]", "{\"instances\": [{\"id\": \"rpc-order-1\"}]}", twice.as_str()] {
        let world = FileWorld::new(wrong);
        let error = world.registry.drain(OURS, &marker("i")).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(world.path()).unwrap(), wrong);
    }
    let world = FileWorld::new(FILE);
    std::fs::remove_file(world.path()).unwrap();
    assert!(world.registry.observe(OURS).await.unwrap_err().is_passing());
}
