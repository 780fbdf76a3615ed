//! Small file systems inside the lab: one that can be filled to the last byte, and emptied again, or made read-only; and one
//! that hangs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Lab;

const FILLER: &str = "filler";

/// The file system. It lives as long as the lab.
pub struct Disk<'lab> {
    lab: &'lab Lab,
    path: PathBuf,
}

impl<'lab> Disk<'lab> {
    /// Mounts a file system of `size_bytes` at `name` in the lab's directory. Only the lab sees it there; a
    /// test reads it at [`Disk::outside`].
    pub fn mount(lab: &'lab Lab, name: &str, size_bytes: u64) -> Self {
        let path = lab.dir().join(name);
        std::fs::create_dir(&path).expect("the lab's directory is writable");
        let options = format!("size={size_bytes},mode=755");
        lab.run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", as_str(&path)]);
        Self { lab, path }
    }

    /// Where the lab sees it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the test sees it.
    pub fn outside(&self) -> PathBuf {
        self.lab.inside(&self.path)
    }

    /// Fills it: not one byte more can be written.
    pub fn fill(&self) {
        let target = format!("of={}", self.path.join(FILLER).display());
        let output = self
            .lab
            .command(&["dd", "if=/dev/zero", &target, "bs=4k", "oflag=append", "conv=notrunc"])
            .output()
            .expect("dd starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("No space left on device"), "dd ended before the disk was full: {errors}");
    }

    /// As a file system becomes whose device fails: whatever is there can be read, and nothing written.
    pub fn refuse_writes(&self) {
        self.lab.run(&["mount", "-o", "remount,ro", as_str(&self.path)]);
    }

    pub fn allow_writes(&self) {
        self.lab.run(&["mount", "-o", "remount,rw", as_str(&self.path)]);
    }

    /// Makes room again.
    pub fn free(&self) {
        self.lab.run(&["rm", as_str(&self.path.join(FILLER))]);
    }
}

fn as_str(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are UTF-8")
}

/// A file system that hangs when it is told to: ext4 in a file, frozen as `fsfreeze` does. Whoever writes to it is in state D,
/// and no signal ends that, until it is thawed.
pub struct HangingDisk<'lab> {
    lab: &'lab Lab,
    path: PathBuf,
}

impl<'lab> HangingDisk<'lab> {
    /// Mounts one at `name` in the lab's directory. Only the lab sees it there.
    pub fn mount(lab: &'lab Lab, name: &str) -> Self {
        let (path, image) = (lab.dir().join(name), lab.dir().join(format!("{name}.image")));
        std::fs::create_dir(&path).expect("the lab's directory is writable");
        let file = std::fs::File::create(&image).expect("the lab's directory is writable");
        file.set_len(64 << 20).expect("the file is sparse");
        outside(&["mkfs.ext4", "-q", as_str(&image)]);
        let device = outside(&["losetup", "--find", "--show", as_str(&image)]);
        let device = device.trim();
        // The lab has no devices but its own.
        let number = device.trim_start_matches("/dev/loop");
        lab.run(&["mknod", device, "b", "7", number]);
        lab.run(&["mount", "-t", "ext4", device, as_str(&path)]);
        // Once nobody has it mounted: when the lab ends.
        outside(&["losetup", "--detach", device]);
        Self { lab, path }
    }

    /// Where the lab sees it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It hangs from now on, for as long as the guard lives. Declare the guard behind whoever may write.
    pub fn hang(&self) -> Hanging<'_> {
        let place = std::fs::File::open(self.lab.inside(&self.path)).expect("it is mounted");
        self.lab.run(&["fsfreeze", "--freeze", as_str(&self.path)]);
        // A test that is killed leaves nobody in state D for good.
        let belt = Command::new("sh")
            .args(["-c", "sleep 180; fsfreeze --unfreeze /proc/self/fd/0"])
            .stdin(place)
            .process_group(0)
            .spawn()
            .expect("a shell starts");
        Hanging { disk: self, belt }
    }
}

/// While it lives the disk hangs.
pub struct Hanging<'disk> {
    disk: &'disk HangingDisk<'disk>,
    belt: Child,
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        let thaw = self.disk.lab.command(&["fsfreeze", "--unfreeze", as_str(&self.disk.path)]).status();
        assert!(thaw.is_ok_and(|status| status.success()) || std::thread::panicking(), "it thaws");
        let _ = kill(Pid::from_raw(-(self.belt.id() as i32)), Signal::SIGKILL);
        let _ = self.belt.wait();
    }
}

/// Outside of the lab; returns what it says.
fn outside(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap_or_else(|error| panic!("{argv:?}: {error}"));
    assert!(output.status.success(), "{argv:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
