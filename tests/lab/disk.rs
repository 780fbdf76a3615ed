//! A small file system inside the lab that can be filled to the last byte, and emptied again; or made read-only.

use std::path::{Path, PathBuf};

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
