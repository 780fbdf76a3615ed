//! The health file before a real nginx that serves it to a balancer's checks: the suite, and what is the file's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::conformance::{OURS, Tells, World, conforms, marker};
use super::health_file::HealthFile;
use super::*;
use crate::ports::testing_consul::wait_for;
use crate::ports::testing_nginx::TestNginx;

const US: &str = "rpc-order/up";
const NOTHING: serde_json::Value = serde_json::Value::Null;
/// So long that a test sees what is so without it.
const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(20);

struct Served {
    nginx: TestNginx,
    directory: tempfile::TempDir,
    registry: HealthFile,
}

impl Served {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for service in ["rpc-order", "rpc-cart"] {
            fs::create_dir(directory.path().join(service)).unwrap();
            fs::write(directory.path().join(service).join("up"), "UP\n").unwrap();
        }
        let nginx = TestNginx::start("", &format!("root {};", directory.path().display())).await;
        let registry = HealthFile::new("health_file", directory.path(), NEVER, "bj1-03");
        Self { nginx, directory, registry }
    }

    fn another(&self, hold_every: Duration) -> HealthFile {
        HealthFile::new("health_file", self.directory.path(), hold_every, "bj1-03")
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.path().join(id)
    }

    fn kept(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| Some(name.to_str()?.to_owned())).filter(|name| name.starts_with("unwait")).collect()
    }
}

#[async_trait(?Send)]
impl World for Served {
    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn later(&self) -> Arc<dyn Registry> {
        Arc::new(self.another(OFTEN))
    }

    fn silent(&self) -> Option<Arc<dyn Registry>> {
        None
    }

    async fn finds(&self, id: &str) -> bool {
        match self.nginx.get(&format!("/{id}")).await.0 {
            200 => true,
            404 => false,
            other => panic!("{other}"),
        }
    }

    async fn set_healthy(&self, _id: &str, _healthy: bool) {}

    async fn isolate(&self, _id: &str, _reason: Option<&str>) {}

    async fn deregister(&self, _id: &str) {}

    async fn renew(&self, id: &str) {
        fs::write(self.path(id), "UP again\n").unwrap();
    }

    async fn comes_back(&self, id: &str) {
        self.renew(id).await;
    }

    fn looked(&self) -> Duration {
        10 * OFTEN
    }

    async fn record(&self, id: &str) -> String {
        self.nginx.get(&format!("/{id}")).await.1
    }

    fn id(&self, plain: &str) -> String {
        match plain {
            OURS => US,
            "rpc-none-1" => "rpc-none/up",
            _ => "rpc-cart/up",
        }
        .into()
    }

    fn tells(&self) -> Tells {
        let none = Tells { health: false, isolation: false, deregistration: false, ..Tells::ALL };
        Tells { count: false, addresses: false, ..none }
    }
}

#[tokio::test]
async fn the_health_file_conforms() {
    let mut world = Served::new().await;
    world.registry = world.another(OFTEN);
    conforms(&world).await;
    assert!(!world.registry.counts());
}

#[tokio::test]
async fn a_file_that_the_service_writes_again_is_taken_out_again_until_it_is_put_back() {
    let world = Served::new().await;
    world.registry.drain(US, &marker("i")).await.unwrap();
    // Its directory goes with it, as a RuntimeDirectory does.
    fs::remove_dir(world.path("rpc-order")).unwrap();
    fs::create_dir(world.path("rpc-order")).unwrap();
    fs::write(world.path(US), "UP, started anew\n").unwrap();
    assert!(world.finds(US).await);
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.finds(US).await);
    assert!(!world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.registry.hold(US, &marker("another")).await.unwrap());

    // A reboot, as /run forgets what was kept.
    fs::remove_file(world.path("unwait~rpc-order~up~i~bj1-03")).unwrap();
    fs::write(world.path(US), "UP, after a reboot\n").unwrap();
    assert!(world.registry.hold(US, &marker("i")).await.unwrap());
    assert!(!world.finds(US).await);

    // Nobody asks: a later agent's adapter looks by itself, once it has listed the drains.
    let later = world.another(OFTEN);
    later.markers().await.unwrap();
    fs::write(world.path(US), "UP, a third time\n").unwrap();
    wait_for("the file to be taken out", async || !world.finds(US).await).await;

    assert_eq!(later.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
    assert_eq!(world.record(US).await, "UP, a third time\n");
    assert!(world.kept().is_empty());
}

#[tokio::test]
async fn what_is_put_back_is_the_very_file_that_was_taken() {
    let world = Served::new().await;
    fs::set_permissions(world.path(US), fs::Permissions::from_mode(0o640)).unwrap();
    chown(world.path(US), Some(33), Some(34)).unwrap();
    let before = fs::metadata(world.path(US)).unwrap();
    world.registry.drain(US, &marker("i")).await.unwrap();
    assert_eq!(world.kept(), ["unwait~rpc-order~up~i~bj1-03"]);
    assert_eq!(world.registry.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
    let after = fs::metadata(world.path(US)).unwrap();
    let all = |file: &fs::Metadata| (file.ino(), file.mode(), file.uid(), file.gid(), file.len());
    assert_eq!(all(&after), all(&before));
}

#[tokio::test]
async fn a_newer_file_is_not_replaced_and_what_has_no_place_any_more_is_kept() {
    let world = Served::new().await;
    world.registry.drain(US, &marker("i")).await.unwrap();
    fs::write(world.path(US), "newer\n").unwrap();
    assert_eq!(world.registry.restore(US, &marker("i"), &NOTHING).await.unwrap(), Restored::Done);
    assert_eq!(world.record(US).await, "newer\n");
    assert!(world.kept().is_empty());

    world.registry.drain(US, &marker("j")).await.unwrap();
    fs::remove_dir(world.path("rpc-order")).unwrap();
    let nowhere = world.registry.restore(US, &marker("j"), &NOTHING).await.unwrap_err();
    assert!(nowhere.is_passing() && nowhere.to_string().contains("rpc-order does not exist"), "{nowhere}");
    assert_eq!(world.registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("j")));
    fs::create_dir(world.path("rpc-order")).unwrap();
    assert_eq!(world.registry.restore(US, &marker("j"), &NOTHING).await.unwrap(), Restored::Done);
    assert_eq!(world.record(US).await, "newer\n");
    assert!(world.kept().is_empty());
}

#[tokio::test]
async fn another_hosts_and_what_is_no_plain_file_are_left_alone() {
    let world = Served::new().await;
    let theirs = HealthFile::new("health_file", world.directory.path(), NEVER, "bj1-04");
    theirs.drain(US, &Marker { host: "bj1-04".into(), ..marker("i") }).await.unwrap();
    assert!(world.registry.markers().await.unwrap().is_empty());
    assert!(matches!(world.registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));

    std::os::unix::fs::symlink("/etc/hostname", world.path("rpc-cart/link")).unwrap();
    for wrong in ["rpc-cart/link", "rpc-cart", "../up", "rpc-cart/../up", "rpc-cart/a/b", "rpc~cart/up", "/up", ""] {
        let error = world.registry.drain(wrong, &marker("i")).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{wrong}: {error}");
    }
    let nowhere = HealthFile::new("health_file", &world.path("nowhere"), NEVER, "bj1-03");
    assert!(matches!(nowhere.observe(US).await, Err(RegistryError::Refused { .. })));
}

/// Met before the restart, and not by the rename that would put it back.
#[tokio::test]
async fn a_file_system_that_became_read_only_is_met_while_a_drain_stands() {
    use nix::mount::{MsFlags, mount};
    // This test's thread alone gets a mount namespace of its own, which ends with it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let directory = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::create_dir(directory.path().join("rpc-order")).unwrap();
    fs::write(directory.path().join(US), "UP\n").unwrap();
    let registry = HealthFile::new("health_file", directory.path(), NEVER, "bj1-03");
    registry.drain(US, &marker("i")).await.unwrap();
    assert!(registry.takes_writes(US, &marker("i")).await.unwrap());
    mount(none, directory.path(), none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
    assert!(!registry.hold(US, &marker("i")).await.unwrap());
    let error = registry.takes_writes(US, &marker("i")).await.unwrap_err();
    assert!(error.to_string().contains("EROFS"), "{error}");
    // The service's own directory may be away until it is started anew.
    mount(none, directory.path(), none, MsFlags::MS_REMOUNT, none).unwrap();
    fs::remove_dir(directory.path().join("rpc-order")).unwrap();
    assert!(registry.takes_writes(US, &marker("i")).await.unwrap());
    nix::mount::umount(directory.path()).unwrap();
}
