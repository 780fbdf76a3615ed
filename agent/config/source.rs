//! A file of the configuration with its text, read once and only where it may be believed.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;
use crate::trust::{self, Ownership};

/// Nobody writes more than this by hand: 1 MiB is some 20,000 lines.
const LONGEST: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    /// Reads a file. Refused: not UTF-8, longer than 1 MiB, no regular file; as root, a file that another
    /// could have written, or that stands in a directory where another could have put it.
    pub fn read(path: &Path) -> Result<Self, Diagnostic> {
        let wrong = |message: String| Diagnostic::of_file(path, message);
        // Without O_NONBLOCK, a named pipe would hold the agent up before it can be refused.
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut file = open.map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let metadata = file.metadata().map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if !metadata.is_file() {
            return Err(wrong("is not a regular file".into()));
        }
        if trust::runs_as_root() {
            trust::believe_in_place(path, Ownership::from(&metadata)).map_err(wrong)?;
        }
        let mut bytes = Vec::new();
        file.by_ref()
            .take(LONGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > LONGEST {
            return Err(wrong("is longer than 1 MiB, the most for a configuration file".into()));
        }
        let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8 text".into()))?;
        // Some editors begin a file with a byte order mark; YAML 1.2 (section 5.2) allows it.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(Self { path: path.into(), text })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "\u{feff}interval: 15s\n").unwrap();
        assert_eq!(Source::read(&path).unwrap().text, "interval: 15s\n");
    }

    #[test]
    fn a_file_in_a_directory_that_others_can_write_is_refused_for_root() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "interval: 15s\n").unwrap();
        assert!(Source::read(&path).is_ok());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        match (Source::read(&path), trust::runs_as_root()) {
            (Err(refused), true) => assert!(refused.message.contains("the directory"), "{refused}"),
            (Ok(_), false) => {}
            (other, root) => panic!("as root {root}: {other:?}"),
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(Source::read(&path).unwrap_err().message, "is not UTF-8 text");
        std::fs::write(&path, "#".repeat(LONGEST as usize + 1)).unwrap();
        assert!(Source::read(&path).unwrap_err().message.contains("1 MiB"));
        assert!(Source::read(dir.path()).unwrap_err().message.contains("not a regular file"));
    }
}
