use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;
use crate::evidence::retention::MinFree;
use crate::model::census::Owned;
use crate::model::{Direction, Readings, Sample, ServiceName, Signal, Socket, TableRow};

const ROOMY: Limits =
    Limits { keep: 50, max_bytes: u64::MAX, min_free: MinFree::Bytes(0), max_age: Duration::from_secs(1 << 40) };

/// Everything that a request borrows. This process is the service: it holds the client's end of a connection that
/// its peer has closed.
struct Scene {
    incident: IncidentId,
    service: ServiceName,
    sockets: Vec<Owned>,
    table: Vec<TableRow>,
    holders: BTreeMap<u32, usize>,
    names: HashMap<SocketAddr, String>,
    history: Vec<Sample>,
    commands: Vec<Vec<String>>,
    _open: (TcpListener, TcpStream),
}

impl Scene {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let inode = nix::sys::stat::fstat(client.as_fd()).unwrap().st_ino;
        let socket = Socket {
            cookie: 90,
            local,
            remote,
            inode,
            uid: 0,
            recv_q: 1,
            send_q: 0,
            age: Some(Duration::from_secs(90)),
            at_least: false,
            idle: None,
        };
        let row =
            TableRow { state: "CLOSE-WAIT", recv_q: 1, send_q: 0, local, remote, inode, cookie: 90, cgroup_id: None };
        let mut readings = Readings::default();
        readings.set(Signal::CloseWait, 1.0);
        Self {
            incident: IncidentId("20261122T184329Z-rpc-order-1f3a".into()),
            service: ServiceName::parse("rpc-order.service").unwrap(),
            sockets: vec![Owned { namespace: crate::model::NetNs::default(), socket, direction: Direction::Outbound }],
            table: vec![row],
            holders: BTreeMap::from([(std::process::id(), 1)]),
            names: HashMap::from([(remote, "redis-session".to_string())]),
            history: vec![Sample::moment(at(), readings)],
            commands: Vec::new(),
            _open: (listener, client),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            incident: &self.incident,
            service: &self.service,
            host: "bj1-03",
            at: at(),
            partial: None,
            sockets: &self.sockets,
            table: &self.table,
            holders: &self.holders,
            closed: None,
            names: &self.names,
            history: &self.history,
            unit: None,
            commands: &self.commands,
            deadline: Duration::from_secs(20),
        }
    }
}

fn at() -> Timestamp {
    "2026-11-22T18:43:29Z".parse().unwrap()
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// What lies in a directory, hidden or not.
fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

struct TestVault {
    folder: tempfile::TempDir,
    vault: Vault,
}

fn place() -> TestVault {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::new(folder.path().join("evidence"), ROOMY);
    TestVault { folder, vault }
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test]
async fn a_bundle_holds_what_was_known_and_is_read_back_whole() {
    let TestVault { vault, folder: _folder } = place();
    let mut scene = Scene::new();
    scene.commands = vec![
        argv(&["sh", "-c", "echo password=hunter2; echo fine; exit 3"]),
        argv(&["no-such-program", "--token", "hunter2"]),
    ];
    let bundle = is_send(vault.keep(&scene.request())).await.unwrap();
    assert_eq!(bundle.dir, vault.root.join(&scene.incident.0));

    let read = vault.read(&scene.incident).unwrap();
    assert_eq!(read.manifest, bundle.manifest);
    assert_eq!(read.verify(), []);
    let files: Vec<&str> = read.manifest.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        files,
        [
            "sockets.txt",
            "peers.json",
            "processes.jsonl",
            "holders.json",
            "sockets.jsonl",
            "summary.txt",
            "signals.jsonl",
            "commands/01.txt",
            "commands/02.txt",
        ]
    );
    assert_eq!(read.bytes, read.manifest.files.iter().map(|file| file.bytes).sum::<u64>());
    let missing: Vec<String> = read.manifest.missing.iter().map(|m| format!("{}: {}", m.what, m.why)).collect();
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert_eq!(missing[0], "commands/01.txt: exit status 3");
    assert!(missing[1].starts_with("commands/02.txt: not started: no program `no-such-program`"), "{missing:?}");

    let peers: crate::evidence::peers::Peers = serde_json::from_str(&read.text("peers.json").unwrap()).unwrap();
    assert_eq!((peers.peers[0].count, peers.peers[0].names.as_slice()), (1, ["redis-session".to_string()].as_slice()));
    let socket: serde_json::Value = serde_json::from_str(&read.text("sockets.jsonl").unwrap()).unwrap();
    assert_eq!(socket["pids"], serde_json::json!([std::process::id()]), "the holder of the real socket is found");
    assert_eq!(socket["age_seconds"], 90);
    assert!(read.text("sockets.txt").unwrap().contains("CLOSE-WAIT 1      0"));
    let summary = read.text("summary.txt").unwrap();
    assert!(summary.starts_with("rpc-order.service on bj1-03, 2026-11-22 18:43:29 UTC\n1 sockets in CLOSE_WAIT"));
    assert!(summary.contains("(redis-session), the oldest for 1m30s (since 2026-11-22 18:41:59 UTC)"), "{summary}");
    let first = read.text("commands/01.txt").unwrap();
    assert!(first.contains("exit status 3") && first.ends_with("password=[redacted]\nfine\n"), "{first}");

    for file in files.iter().chain(&["manifest.json"]) {
        let path = read.dir.join(file);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"), "{file}");
    }
    for directory in [&vault.root, &read.dir, &read.dir.join("commands")] {
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{directory:?}");
    }
    assert_eq!(names_in(&vault.root), [scene.incident.0.as_str()], "no draft stays");
}

#[tokio::test]
async fn environment_values_are_never_kept() {
    let TestVault { vault, folder: _folder } = place();
    let mut child = std::process::Command::new("sleep").arg("300").env("ANYTHING", "zq-env-zq").spawn().unwrap();
    let mut scene = Scene::new();
    scene.holders = BTreeMap::from([(child.id(), 1)]);
    let bundle = vault.keep(&scene.request()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let bundle = bundle.unwrap();
    for file in &bundle.manifest.files {
        assert!(!bundle.text(&file.name).unwrap().contains("zq-env-zq"), "{}", file.name);
    }
    assert!(bundle.text("processes.jsonl").unwrap().contains("\"sleep\""));
}

#[tokio::test]
async fn the_biggest_holders_are_read_and_the_rest_is_counted() {
    let TestVault { vault, folder: _folder } = place();
    let mut scene = Scene::new();
    // Numbers that no process has: above PID_MAX_LIMIT (4,194,304).
    scene.holders.extend((0..40u32).map(|n| (5_000_000 + n, 10 + n as usize)));
    let bundle = vault.keep(&scene.request()).await.unwrap();
    let text = bundle.text("processes.jsonl").unwrap();
    assert_eq!(text.lines().count(), 32);
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((first["pid"].as_u64(), first["leaked"].as_u64()), (Some(5_000_039), Some(49)));
    let why = &bundle.manifest.missing.last().unwrap().why;
    // 8 of the made-up processes, with 10 to 17 sockets, and ourselves with 1.
    assert_eq!(why, "9 more processes hold 109 of the sockets and are only counted");
}

#[tokio::test]
async fn of_a_partial_look_the_bundle_says_that_it_is_partial() {
    let (TestVault { vault, folder: _folder }, scene) = (place(), Scene::new());
    let partial = Some("the dump was interrupted 3 times");
    let bundle = vault.keep(&Request { partial, ..scene.request() }).await.unwrap();
    assert!(bundle.text("summary.txt").unwrap().contains("\nPARTIAL: some sockets may be missing: the dump was "));
    let missing = bundle.manifest.missing.iter().filter(|m| m.why.contains("interrupted")).map(|m| m.what.as_str());
    assert_eq!(missing.collect::<Vec<_>>(), ["sockets.jsonl", "peers.json", "summary.txt"]);
}

#[tokio::test]
async fn the_journal_is_kept_or_said_to_be_missing() {
    let TestVault { vault, folder: _folder } = place();
    let scene = Scene::new();
    let bundle = vault.keep(&Request { unit: Some("rpc-order.service"), ..scene.request() }).await.unwrap();
    let kept = bundle.manifest.files.iter().any(|file| file.name == "journal.txt");
    let missing = bundle.manifest.missing.iter().any(|missing| missing.what == "journal.txt");
    assert!(kept || missing, "{:?}", bundle.manifest);
}

#[tokio::test]
async fn a_command_that_hangs_costs_its_share_of_the_time_and_not_the_bundle() {
    let TestVault { vault, folder: _folder } = place();
    let mut scene = Scene::new();
    scene.commands = vec![argv(&["sh", "-c", "echo begun; sleep 300"]), argv(&["echo", "second"])];
    let request = Request { deadline: Duration::from_secs(4), ..scene.request() };
    let bundle = vault.keep(&request).await.unwrap();
    assert_eq!(bundle.manifest.missing[0].why, "killed at its deadline");
    assert!(bundle.text("commands/01.txt").unwrap().ends_with("begun\n"));
    assert!(bundle.text("commands/02.txt").unwrap().ends_with("second\n"));
}

#[tokio::test]
async fn no_time_at_all_is_an_error_and_leaves_nothing() {
    let TestVault { vault, folder: _folder } = place();
    let scene = Scene::new();
    std::fs::create_dir(&vault.root).unwrap();
    // The blocking thread may be through with a step before it is looked at: a later one is late then.
    let error = vault.keep(&Request { deadline: Duration::ZERO, ..scene.request() }).await.unwrap_err();
    assert!(matches!(error, EvidenceError::Deadline { .. }), "{error}");
    for _ in 0..500 {
        if names_in(&vault.root).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("left behind: {:?}", names_in(&vault.root));
}

#[tokio::test]
async fn a_dropped_capture_leaves_nothing() {
    let TestVault { vault, folder: _folder } = place();
    let mut scene = Scene::new();
    scene.commands = vec![argv(&["sleep", "300"])];
    let request = scene.request();
    tokio::select! {
        _ = vault.keep(&request) => panic!("it ended"),
        () = async {
            while !vault.root.join(format!(".draft-{}/signals.jsonl", scene.incident)).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    // The draft may be on its way back from the blocking thread.
    for _ in 0..500 {
        if names_in(&vault.root).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("left behind: {:?}", names_in(&vault.root));
}

#[tokio::test]
async fn a_flipped_byte_a_missing_file_and_a_swapped_one_are_found() {
    let TestVault { vault, folder } = place();
    let scene = Scene::new();
    let bundle = vault.keep(&scene.request()).await.unwrap();
    let path = bundle.dir.join("peers.json");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(bundle.dir.join("summary.txt")).unwrap();
    // The same content, but behind a link.
    let moved = folder.path().join("moved");
    std::fs::rename(bundle.dir.join("sockets.txt"), &moved).unwrap();
    symlink(&moved, bundle.dir.join("sockets.txt")).unwrap();
    std::fs::OpenOptions::new()
        .append(true)
        .open(bundle.dir.join("signals.jsonl"))
        .and_then(|mut file| io::Write::write_all(&mut file, b"{}\n"))
        .unwrap();

    let faults: Vec<String> = vault.read(&scene.incident).unwrap().verify().iter().map(|f| f.to_string()).collect();
    assert_eq!(faults.len(), 4, "{faults:#?}");
    for (fault, says) in faults.iter().zip([
        "sockets.txt: ",
        "peers.json: the content has changed since it was written",
        "summary.txt: ",
        "signals.jsonl: ",
    ]) {
        assert!(fault.starts_with(says), "{fault}");
    }
    assert!(faults[0].contains("symbolic link") && faults[2].contains("No such file"), "{faults:#?}");
}

#[tokio::test]
async fn a_manifest_that_was_tampered_with_leads_nowhere() {
    let TestVault { vault, folder } = place();
    let scene = Scene::new();
    let bundle = vault.keep(&scene.request()).await.unwrap();
    std::fs::write(folder.path().join("outside"), "secret").unwrap();
    let manifest = bundle.dir.join(MANIFEST);
    let text = std::fs::read_to_string(&manifest).unwrap();
    for name in ["../../outside", "/etc/passwd", "commands/../../../outside", "."] {
        std::fs::write(&manifest, text.replace("peers.json", name)).unwrap();
        let bundle = vault.read(&scene.incident).unwrap();
        assert_eq!(bundle.verify().len(), 1, "{name}");
        assert!(bundle.text(name).is_err(), "{name}");
    }
    for (broken, says) in [("{", "not a manifest"), (&text.replace("\"format\": 1", "\"format\": 2"), "format is 2")] {
        std::fs::write(&manifest, broken).unwrap();
        let error = vault.read(&scene.incident).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_link_in_the_bundles_place_is_refused() {
    let TestVault { vault, folder } = place();
    let scene = Scene::new();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::create_dir(&vault.root).unwrap();
    let name = &scene.incident.0;

    symlink(&elsewhere, vault.root.join(name)).unwrap();
    for error in [vault.keep(&scene.request()).await.unwrap_err(), vault.read(&scene.incident).unwrap_err()] {
        assert!(matches!(error, EvidenceError::NotADirectory { .. }), "{error}");
        assert!(error.to_string().contains(name.as_str()), "{error}");
    }
    std::fs::remove_file(vault.root.join(name)).unwrap();

    // In a draft's place: removed, and what it led to is left alone.
    std::fs::write(elsewhere.join("theirs"), "x").unwrap();
    symlink(&elsewhere, vault.root.join(format!(".draft-{name}"))).unwrap();
    vault.keep(&scene.request()).await.unwrap();
    assert_eq!(names_in(&elsewhere), ["theirs"]);

    // In the place of them all.
    std::fs::remove_dir_all(&vault.root).unwrap();
    symlink(&elsewhere, &vault.root).unwrap();
    let error = vault.keep(&scene.request()).await.unwrap_err();
    assert!(matches!(error, EvidenceError::NotADirectory { .. }), "{error}");
    assert!(vault.retain(at(), &BTreeSet::new()).is_err());
    assert_eq!(names_in(&elsewhere), ["theirs"]);
}

#[tokio::test]
async fn what_is_kept_is_never_written_over_and_what_a_killed_agent_left_is() {
    let TestVault { vault, folder: _folder } = place();
    let scene = Scene::new();
    let left = vault.root.join(format!(".draft-{}", scene.incident));
    std::fs::create_dir_all(left.join("commands")).unwrap();
    std::fs::write(left.join("sockets.txt"), "old").unwrap();
    let bundle = vault.keep(&scene.request()).await.unwrap();
    assert_eq!(bundle.verify(), []);
    let error = vault.keep(&scene.request()).await.unwrap_err();
    assert!(matches!(error, EvidenceError::Exists { .. }), "{error}");
    assert_eq!(bundle.verify(), []);
    assert_eq!(names_in(&vault.root), [scene.incident.0.as_str()]);
}

#[tokio::test]
async fn ids_are_one_component_and_nothing_else() {
    let TestVault { vault, folder } = place();
    let mut scene = Scene::new();
    let long = "x".repeat(201);
    for id in ["", ".", "..", "../up", "a/b", "/etc", ".draft-x", "a\0b", "a b", "a\nb", &long] {
        scene.incident = IncidentId(id.into());
        for error in [vault.keep(&scene.request()).await.unwrap_err(), vault.read(&scene.incident).unwrap_err()] {
            assert!(matches!(error, EvidenceError::Id { .. }), "{id:?}: {error}");
        }
    }
    assert_eq!(names_in(folder.path()), [] as [&str; 0]);
}

#[tokio::test]
async fn too_little_free_space_is_said_before_anything_is_written() {
    let TestVault { mut vault, folder: _folder } = place();
    vault.limits.min_free = MinFree::Percent(100.0);
    let error = vault.keep(&Scene::new().request()).await.unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(error.to_string().contains("evidence.min_free requires"), "{error}");
    assert_eq!(names_in(&vault.root), [] as [&str; 0]);
}

/// A real full disk, of every size from one page up until a bundle fits: an error each time, and nothing left.
#[tokio::test]
async fn a_full_disk_is_an_error_and_leaves_no_half_bundle() {
    use nix::mount::{MsFlags, mount, umount};
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting a small filesystem needs root");
        return;
    }
    // This thread alone (and the blocking threads that it starts) gets a mount namespace of its own.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::new();
    scene.table = vec![scene.table[0].clone(); 500];
    scene.commands = vec![argv(&["seq", "5000"])];
    let (mut refused, mut kept) = (0, false);
    for pages in 1..60 {
        let size = format!("size={}k", pages * 4);
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        let vault = Vault::new(folder.path().join("evidence"), ROOMY);
        match vault.keep(&scene.request()).await {
            Ok(bundle) => {
                assert_eq!(bundle.verify(), []);
                kept = true;
            }
            Err(error) => {
                assert!(error.is_no_space(), "{size}: {error}");
                let says = error.to_string();
                assert!(says.contains("No space left on device") && says.contains("evidence.keep"), "{says}");
                assert_eq!(names_in(&vault.root), [] as [&str; 0], "{size}");
                refused += 1;
            }
        }
        umount(folder.path()).unwrap();
        if kept {
            break;
        }
    }
    assert!(kept && refused >= 10, "{refused} sizes were refused, kept: {kept}");
}

#[tokio::test]
async fn retention_removes_the_oldest_and_leaves_what_is_open_or_not_ours() {
    let TestVault { mut vault, folder } = place();
    let mut scene = Scene::new();
    let day = |days: u64| at() - Duration::from_secs(days * 86_400);
    for (id, days) in [("a", 5), ("b", 4), ("c", 3), ("d", 2), ("e", 1)] {
        scene.incident = IncidentId(id.into());
        let request = Request { at: day(days), ..scene.request() };
        vault.keep(&request).await.unwrap();
    }
    // Not bundles: a mount's own directory, a file, a link to somebody else's bundle.
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join(MANIFEST), "{}").unwrap();
    std::fs::create_dir(vault.root.join("lost+found")).unwrap();
    std::fs::create_dir(vault.root.join("no-manifest")).unwrap();
    std::fs::write(vault.root.join("file"), "x").unwrap();
    symlink(&outside, vault.root.join("link")).unwrap();
    // One draft is being written, the other's writer is gone.
    let root = vault.open().unwrap();
    let written = Draft::begin(root, &vault.root, "written").unwrap();
    std::fs::create_dir(vault.root.join(".draft-gone")).unwrap();

    vault.limits.keep = 3;
    let open = BTreeSet::from([IncidentId("a".into())]);
    let removed: Vec<_> = vault
        .retain(at(), &open)
        .unwrap()
        .into_iter()
        .map(|removed| (removed.incident.0, removed.cause, removed.bytes > 0))
        .collect();
    assert_eq!(
        removed,
        [("gone".into(), Cause::Unfinished, false), ("b".into(), Cause::Count, true), ("c".into(), Cause::Count, true)]
    );
    let others = ["file", "link", "lost+found", "no-manifest"];
    assert_eq!(names_in(&vault.root), [&[".draft-written", "a", "d", "e"], others.as_slice()].concat());
    drop(written);

    vault.limits = Limits { max_age: Duration::from_secs(36 * 3_600), ..ROOMY };
    vault.retain(at(), &BTreeSet::new()).unwrap();
    assert_eq!(names_in(&vault.root), [&["e"], others.as_slice()].concat());

    vault.limits = Limits { min_free: MinFree::Bytes(u64::MAX), ..ROOMY };
    vault.retain(at(), &BTreeSet::new()).unwrap();
    assert_eq!(names_in(&vault.root), others);
    assert_eq!(names_in(&outside), [MANIFEST]);
}

#[test]
fn a_vault_that_was_never_written_reads_as_absent() {
    let TestVault { vault, folder: _folder } = place();
    let incident = IncidentId("a".into());
    assert!(matches!(vault.read(&incident), Err(EvidenceError::Absent { path }) if path.ends_with("evidence/a")));
    assert_eq!(vault.retain(at(), &BTreeSet::new()).unwrap(), []);
}
