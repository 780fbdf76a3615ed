//! May root believe this file? Whoever can write the configuration of an agent that runs as root is root: a
//! runbook starts commands. So a file that others can write, or that stands where others can replace it, is refused.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Who may change a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, as in `stat(2)`.
    pub mode: u32,
}

impl From<&Metadata> for Ownership {
    fn from(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() }
    }
}

impl Ownership {
    /// Why root must not believe it; `None` where only root can write it.
    pub fn distrust(self) -> Option<String> {
        if self.uid != 0 {
            return Some(format!("belongs to uid {}, not to root: `chown root`", self.uid));
        }
        if self.mode & 0o002 != 0 {
            return Some(format!("can be written by anyone (mode {:04o}): `chmod o-w`", self.mode & 0o7777));
        }
        if self.mode & 0o020 != 0 && self.gid != 0 {
            return Some(format!(
                "can be written by the group {} (mode {:04o}): `chmod g-w`",
                self.gid,
                self.mode & 0o7777
            ));
        }
        None
    }
}

/// The agent acts as root, so that its configuration must be root's own.
pub fn runs_as_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_believes_only_what_root_alone_can_write() {
        for (uid, gid, mode, says) in [
            (0, 0, 0o100644, None),
            (0, 0, 0o100664, None),
            (0, 5, 0o100644, None),
            (1000, 0, 0o100600, Some("belongs to uid 1000")),
            (0, 0, 0o100646, Some("by anyone (mode 0646)")),
            (0, 0, 0o041777, Some("by anyone (mode 1777)")),
            (0, 5, 0o100664, Some("by the group 5 (mode 0664)")),
        ] {
            let found = Ownership { uid, gid, mode }.distrust();
            match says {
                None => assert_eq!(found, None, "{mode:o}"),
                Some(words) => assert!(found.as_ref().is_some_and(|text| text.contains(words)), "{mode:o}: {found:?}"),
            }
        }
    }
}
