//! A disk that hangs for real: an ext4 file system in a file, frozen by `fsfreeze`. Whoever writes to it is in state D until it
//! is thawed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::*;
use crate::clock::SystemClock;

/// Mounted below a directory of its own, for as long as this lives.
struct HangingDisk {
    dir: tempfile::TempDir,
    /// Thaws it where the test was killed.
    belt: Child,
}

impl HangingDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, place) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).unwrap();
        std::fs::create_dir(&place).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()]);
        let on_it = std::fs::File::open(&place).unwrap();
        let thaws = "sleep 120; fsfreeze -u /proc/self/fd/0";
        let belt = Command::new("sh").args(["-c", thaws]).stdin(on_it).process_group(0).spawn().unwrap();
        Self { dir, belt }
    }

    fn database(&self) -> std::path::PathBuf {
        self.dir.path().join("disk/unwait.db")
    }

    fn hangs(&self, hangs: bool) {
        run("fsfreeze", &[if hangs { "-f" } else { "-u" }, self.dir.path().join("disk").to_str().unwrap()]);
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        let place = self.dir.path().join("disk");
        let _ = Command::new("fsfreeze").arg("-u").arg(&place).stderr(Stdio::null()).status();
        let _ = kill(Pid::from_raw(-(self.belt.id() as i32)), Signal::SIGKILL);
        let _ = self.belt.wait();
        let _ = Command::new("umount").arg("-l").arg(&place).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_disk_that_hangs_is_an_error_after_a_while_and_keeps_neither_reads_nor_other_work_waiting() {
    let disk = HangingDisk::mount();
    let store = Arc::new(Store::open_with(&disk.database(), Arc::new(SystemClock)).unwrap());
    begin(&store, "i-1");
    disk.hangs(true);

    // On the only thread of the runtime.
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { append(&store, "i-1", &[row(0)], None) }
    });
    let beside = tokio::spawn(tokio::time::sleep(Duration::from_millis(50)));
    let asked = Instant::now();
    beside.await.unwrap();
    assert_eq!(store.open_incidents().unwrap().len(), 1, "what was committed before is read");
    assert!(asked.elapsed() < lane::GIVEN_UP_AFTER, "{:?}", asked.elapsed());
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Hangs { access: Access::Write, .. }), "{error}");
    assert!(matches!(store.health(), Health::Hanging(_)));
    let asked = Instant::now();
    append(&store, "i-1", &[row(1)], None).unwrap_err();
    assert!(asked.elapsed() < lane::GIVEN_UP_AFTER / 2, "it is known to hang: {:?}", asked.elapsed());

    disk.hangs(false);
    let until = Instant::now() + Duration::from_secs(30);
    while store.test_write(now()).is_err() {
        assert!(Instant::now() < until, "the disk is well again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.health(), Health::Sound);
    let rows = store.journal(&IncidentId("i-1".into())).unwrap();
    assert_eq!(rows, [row(0)], "the write that was given up came to its end, the one that was refused did not");
}
