//! May root believe this file, and keep a secret in it? Whoever can write the configuration of an agent that runs as root
//! is root: a runbook starts commands. So a file that others can write, or that stands where others can replace it, is
//! refused. So is a secret that others can read: they have it already.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Who may read and change a file or directory.
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
            return Some(format!("can be written by anyone (mode {}): `chmod o-w`", self.shown()));
        }
        if self.mode & 0o020 != 0 && self.gid != 0 {
            return Some(format!("can be written by the group {} (mode {}): `chmod g-w`", self.gid, self.shown()));
        }
        None
    }

    /// Why it must not hold a secret of root's; `None` where only root can read and write it.
    pub fn discloses(self) -> Option<String> {
        if self.uid != 0 {
            return Some(format!("belongs to uid {}, not to root: `chown root`", self.uid));
        }
        (self.mode & 0o077 != 0).then(|| format!("is open to others than root (mode {}): `chmod 0600`", self.shown()))
    }

    fn shown(self) -> String {
        format!("{:04o}", self.mode & 0o7777)
    }
}

/// The agent acts as root, so that its configuration must be root's own.
pub fn runs_as_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The file itself, the directory that it is named in, and the one that it is in where a link leads elsewhere: why root must not
/// believe one of them.
///
/// # Errors
/// In words, where another than root could have written or placed the file, or a directory cannot be seen.
pub fn believe_in_place(path: &Path, file: Ownership) -> Result<(), String> {
    const REFUSED: &str = "refused: unwait runs as root, and the";
    if let Some(why) = file.distrust() {
        return Err(format!("{REFUSED} file {why}"));
    }
    let real = path.canonicalize().map_err(|error| format!("cannot be read: {error}"))?;
    for place in [path.parent(), real.parent()].into_iter().flatten() {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        let metadata = place.metadata().map_err(|error| format!("{}: {error}", place.display()))?;
        if let Some(why) = Ownership::from(&metadata).distrust() {
            return Err(format!("{REFUSED} directory {} {why}", place.display()));
        }
    }
    Ok(())
}

/// May the agent run this program, named by its full path? As root, only one that root alone could have written and placed.
///
/// # Errors
/// In words, with the path.
pub fn may_run(program: &Path) -> Result<(), String> {
    let says = |why: String| format!("{}: {why}", program.display());
    let metadata = program.metadata().map_err(|error| says(error.to_string()))?;
    if !metadata.is_file() {
        return Err(says("is not a regular file".into()));
    }
    match runs_as_root() {
        true => {
            believe_in_place(program, Ownership::from(&metadata)).and_then(|()| believe_above(program)).map_err(says)
        }
        false => Ok(()),
    }
}

/// Whoever may write a directory further up can put another one in its place; but for one like /tmp, where each removes what is
/// his own.
fn believe_above(path: &Path) -> Result<(), String> {
    const STICKY: u32 = 0o1000;
    let real = path.canonicalize().map_err(|error| format!("cannot be read: {error}"))?;
    for place in path.ancestors().skip(2).chain(real.ancestors().skip(2)).filter(|place| !place.as_os_str().is_empty())
    {
        let metadata = place.metadata().map_err(|error| format!("{}: {error}", place.display()))?;
        let ownership = Ownership::from(&metadata);
        let is_shared_by_root = ownership.uid == 0 && ownership.mode & STICKY != 0;
        if let Some(why) = ownership.distrust().filter(|_| !is_shared_by_root) {
            return Err(format!("refused: unwait runs as root, and the directory {} {why}", place.display()));
        }
    }
    Ok(())
}

/// Nothing that is read here is longer than the system's own bundle of authorities, of some 220 KiB.
const LONGEST: u64 = 1 << 20;

/// Reads a token, a password, a key, a webhook's address or a header. Refused: what is no regular file, or no text; as
/// root, a file that others than root can read or write.
pub fn read_secret(path: &Path) -> io::Result<String> {
    let bytes = read(path, Ownership::discloses)?;
    String::from_utf8(bytes).map_err(|_| refused("is not UTF-8 text".into()))
}

/// Reads what is no secret, and must be nobody else's word: a certificate, the authorities that we believe.
pub fn read_believed(path: &Path) -> io::Result<Vec<u8>> {
    read(path, Ownership::distrust)
}

fn read(path: &Path, wrong: fn(Ownership) -> Option<String>) -> io::Result<Vec<u8>> {
    // Without O_NONBLOCK, a named pipe would hold the agent up before it can be refused.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused("is not a regular file".into()));
    }
    if let Some(why) = wrong(Ownership::from(&metadata)).filter(|_| runs_as_root()) {
        return Err(refused(format!("refused: unwait runs as root, and the file {why}")));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(refused("is longer than 1 MiB, the most that is read".into()));
    }
    Ok(bytes)
}

/// Writes a secret where [`read_secret`] takes it.
#[cfg(test)]
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn refused(why: String) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn root_believes_only_what_root_alone_can_write_and_keeps_secrets_where_nobody_reads() {
        let (belongs, anyone, group, open) =
            ("belongs to uid 1000", "by anyone (mode 0646)", "by the group 5 (mode 0664)", "is open to others");
        for (uid, gid, mode, distrust, discloses) in [
            (0, 0, 0o100644, None, Some(open)),
            (0, 0, 0o100600, None, None),
            (0, 5, 0o100400, None, None),
            (0, 0, 0o100640, None, Some(open)),
            (0, 0, 0o100604, None, Some("(mode 0604): `chmod 0600`")),
            (0, 0, 0o100664, None, Some(open)),
            (0, 5, 0o100644, None, Some(open)),
            (1000, 0, 0o100600, Some(belongs), Some(belongs)),
            (0, 0, 0o100646, Some(anyone), Some(open)),
            (0, 0, 0o041777, Some("by anyone (mode 1777)"), Some(open)),
            (0, 5, 0o100664, Some(group), Some(open)),
        ] {
            let file = Ownership { uid, gid, mode };
            for (found, says) in [(file.distrust(), distrust), (file.discloses(), discloses)] {
                match says {
                    None => assert_eq!(found, None, "{mode:o}"),
                    Some(words) => {
                        assert!(found.as_ref().is_some_and(|text| text.contains(words)), "{mode:o}: {found:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn root_runs_no_program_that_another_could_have_written_or_placed() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("may-act");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        for (file, directory, may) in [(0o755, 0o755, true), (0o757, 0o755, false), (0o755, 0o777, false)] {
            std::fs::set_permissions(&program, Permissions::from_mode(file)).unwrap();
            std::fs::set_permissions(dir.path(), Permissions::from_mode(directory)).unwrap();
            assert_eq!(may_run(&program).is_ok(), may || !runs_as_root(), "{file:o} in {directory:o}");
        }
        assert!(may_run(&dir.path().join("none")).unwrap_err().contains("No such file"));
        assert!(may_run(dir.path()).unwrap_err().contains("not a regular file"));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_and_a_certificate_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hush\n").unwrap();
        for (mode, secret, believed) in [(0o600, true, true), (0o644, false, true), (0o666, false, false)] {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let (secret, believed) = (secret || !runs_as_root(), believed || !runs_as_root());
            assert_eq!(read_secret(&file).is_ok(), secret, "{mode:o}");
            assert_eq!(read_believed(&file).is_ok(), believed, "{mode:o}");
        }
        assert!(read_secret(dir.path()).unwrap_err().to_string().contains("not a regular file"));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read_secret(&pipe).unwrap_err().to_string().contains("not a regular file"));
    }
}
