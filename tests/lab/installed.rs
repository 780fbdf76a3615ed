//! Where `tests/run` has put the servers that the tests speak with: for the stories and for the tests beside the adapters.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of a component, which holds what its packages would put below `/`: `etcd` as the machine's own release has
/// it, `consul-1.8.7` where the version is pinned. UNWAIT_TEST_ETCD, UNWAIT_TEST_CONSUL and so on name another folder.
pub fn installed(name: &str) -> PathBuf {
    let component = name.split('-').next().unwrap_or(name);
    let named = format!("UNWAIT_TEST_{}", component.to_uppercase());
    let folder = match std::env::var_os(&named) {
        Some(folder) => folder.into(),
        None => cache().join("unwait-tests").join(name),
    };
    assert!(folder.is_dir(), "no {component} in {folder:?}: `tests/run` puts it there; {named} names another folder");
    folder
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from)
}

/// The server's program. Debian ships it in `redis-tools` under another name; it becomes a server by the name that it is
/// called by. UNWAIT_TEST_REDIS names another program, such as Valkey's.
pub fn redis_server() -> PathBuf {
    std::env::var_os("UNWAIT_TEST_REDIS").map_or_else(|| "/usr/bin/redis-check-rdb".into(), PathBuf::from)
}

/// Alertmanager, without arguments yet. Debian's 0.25 does not start without its templates in the machine's own /usr/share: it
/// gets a mount namespace in which they are there, and keeps the pid of what is started.
#[allow(dead_code, reason = "not every crate that includes this file starts one")]
pub fn alertmanager() -> Command {
    let folder = installed("alertmanager");
    let program = folder.join("usr/bin/prometheus-alertmanager");
    if folder == Path::new("/") {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    let script = "mount -t overlay overlay -o lowerdir=$0/usr/share:/usr/share /usr/share && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(folder).arg(program);
    command
}
