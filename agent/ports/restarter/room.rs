//! Whether there is room to start anything: on a file system without any, a program writes no pid file, socket or log.

use nix::sys::statvfs::{FsFlags, statvfs};

/// Where programs write at their start, as PID 1 sees it: our own sandbox may have others in their place.
const PLACES: [&str; 4] = ["/", "/run", "/tmp", "/var"];
const LEAST_BYTES: u64 = 64 * 1024;

/// The first of them that is full; one that cannot be asked, or is never written, says nothing.
pub fn full() -> Option<String> {
    PLACES.into_iter().find_map(|place| {
        full_at(&format!("/proc/1/root{place}")).map(|lack| {
            format!("the file system of {place} {lack}: the service could not write its pid file, socket or log")
        })
    })
}

fn full_at(place: &str) -> Option<String> {
    let room = statvfs(place).ok().filter(|room| !room.flags().contains(FsFlags::ST_RDONLY))?;
    // Some file systems (btrfs) make inodes as they need them, and tell of none.
    match (room.blocks_available() * room.fragment_size() < LEAST_BYTES, room.files()) {
        (true, _) if room.blocks() > 0 => Some("has no space left".into()),
        (_, 1..) if room.files_available() == 0 => Some("has no inodes left".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_written_or_has_room_is_not_full() {
        // A kernel's own file system tells of no blocks at all.
        for place in ["/proc", "/sys", "/nowhere"] {
            assert_eq!(full_at(place), None, "{place}");
        }
    }
}
