//! Against the real kernel: a process in a cgroup of its own that leaks, and whose it is found to be.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use super::*;
use crate::clock::SystemClock;
use crate::collect::{Ask, Collector};

/// `sleep` in a cgroup named as a unit's; it holds `outbound` sockets that the peer closed, and a listener with
/// one inbound socket that the peer closed.
struct Unit {
    child: Child,
    /// In the v2 tree, and in systemd's hierarchy where the host is a hybrid one.
    cgroups: Vec<PathBuf>,
    service: ServiceName,
    listens_on: SocketAddr,
    _peer: TcpListener,
}

impl Unit {
    /// `None` where cgroups cannot be made (not root, or no cgroup v2).
    fn leaking(stem: &str, outbound: usize) -> Option<Self> {
        let cgroups = Cgroups::find();
        cgroups.directory("/")?;
        let unit = format!("unwait-test-{stem}-{}.service", std::process::id());
        let cgroups: Vec<PathBuf> = cgroups.directories("/").map(|root| root.join(&unit).join("workers")).collect();
        for cgroup in &cgroups {
            if let Err(error) = std::fs::create_dir_all(cgroup) {
                eprintln!("not run: {} cannot be made: {error}", cgroup.display());
                return None;
            }
        }
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer_address = peer.local_addr().unwrap();
        let (tell, told) = nix::unistd::pipe().map(|(read, write)| (write, read)).unwrap();
        let procs: Vec<PathBuf> = cgroups.iter().map(|cgroup| cgroup.join("cgroup.procs")).collect();
        let mut command = Command::new("sleep");
        command.arg("600");
        let tell_raw = tell.as_raw_fd();
        let become_the_unit = move || -> std::io::Result<()> {
            procs.iter().try_for_each(|procs| std::fs::write(procs, "0"))?; // 0 is the writer
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (accepted, _) = listener.accept()?;
            drop(client);
            let mut kept = vec![listener.as_raw_fd(), accepted.as_raw_fd()];
            let port = listener.local_addr()?.port();
            std::mem::forget((listener, accepted));
            for _ in 0..outbound {
                let stream = TcpStream::connect(peer_address)?;
                kept.push(stream.as_raw_fd());
                std::mem::forget(stream);
            }
            for fd in kept {
                // SAFETY: a flag of a descriptor that is open, in the child alone.
                if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            // SAFETY: two bytes that live, to a pipe that the parent reads.
            unsafe { libc::write(tell_raw, port.to_ne_bytes().as_ptr().cast(), 2) };
            Ok(())
        };
        // SAFETY: the closure makes sockets and system calls only; glibc keeps malloc usable after fork.
        unsafe { command.pre_exec(become_the_unit) };
        let child = command.spawn().unwrap();
        for _ in 0..outbound {
            drop(peer.accept().unwrap());
        }
        let mut port = [0; 2];
        assert_eq!(nix::unistd::read(&told, &mut port), Ok(2));
        let listens_on = SocketAddr::from(([127, 0, 0, 1], u16::from_ne_bytes(port)));
        let service = ServiceName::parse(&unit).unwrap();
        Some(Self { child, cgroups, service, listens_on, _peer: peer })
    }

    fn census(&self, attributor: &mut Attributor, ask: DescriptorAsk) -> Census {
        let mut collector = Collector::new().unwrap();
        collector.tell_apart([self.listens_on.port()]);
        let snapshot = collector.snapshot(&SystemClock, Ask { established: true, ..Ask::default() }).unwrap();
        attributor.attribute(snapshot, ask, &SystemClock)
    }

    fn named(&self, name: &str) -> ServiceMatch {
        let service = ServiceName::parse(name).unwrap();
        ServiceMatch { service, ports: vec![], cgroup: None, process: None, pid_file: None, supervised: false }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for cgroup in &self.cgroups {
            let _ = std::fs::remove_dir(cgroup);
            let _ = cgroup.parent().map(std::fs::remove_dir);
        }
    }
}

fn directions(census: &Census, service: &ServiceName) -> (usize, usize) {
    census.services.get(service).map_or((0, 0), |held| (held.inbound.len(), held.outbound.len()))
}

#[test]
fn a_units_sockets_are_found_by_its_cgroup_with_and_without_file_handles() {
    let before = SystemClock.monotonic();
    let Some(unit) = Unit::leaking("cgroup", 3) else { return };
    let mut privileged = Attributor::new(vec![]);
    let census = unit.census(&mut privileged, DescriptorAsk::Count);
    assert_eq!(directions(&census, &unit.service), (1, 3));
    let service = &census.services[&unit.service];
    assert_eq!(service.established, Some(0));
    let descriptors = service.descriptors.unwrap();
    assert!((5..).contains(&descriptors.used), "{descriptors:?}");
    // It may still have been loading its libraries.
    let counted = || {
        let census = unit.census(&mut Attributor::new(vec![]), DescriptorAsk::Count);
        census.services[&unit.service].descriptors.unwrap().used
    };
    let is_open = || std::fs::read_dir(format!("/proc/{}/fd", unit.child.id())).unwrap().count() as u64;
    let deadline = SystemClock.monotonic() + Duration::from_secs(10);
    while counted() != is_open() {
        assert!(SystemClock.monotonic() < deadline, "{} in {} hierarchies", counted(), unit.cgroups.len());
    }
    assert!(descriptors.worst_ratio > 0.0, "{descriptors:?}");
    // The kernel tells it in hundredths of a second, of the clock that samples are taken by.
    let began = before.saturating_sub(Duration::from_millis(10))..=SystemClock.monotonic();
    assert!(began.contains(&descriptors.oldest), "{:?} in {began:?}", descriptors.oldest);

    let mut walking = Attributor { cgroups: Cgroups::without_handles(), ..Attributor::new(vec![]) };
    let census = unit.census(&mut walking, DescriptorAsk::Skip);
    assert_eq!(directions(&census, &unit.service), (1, 3));
    assert_eq!(census.services[&unit.service].descriptors, None);

    let held = &census.services[&unit.service];
    let holders = walking.holders(&unit.service, held, &SystemClock, Duration::from_secs(5));
    assert_eq!(holders, [(unit.child.id(), 4)].into());
    assert_eq!(walking.holders(&unit.service, held, &SystemClock, Duration::ZERO), [].into());
    assert_eq!(walking.confirm(&unit.service, held, &SystemClock, Duration::from_secs(5)), 0);
    assert_eq!(walking.confirm(&unit.service, held, &SystemClock, Duration::ZERO), 0, "nothing is known after no look");
}

/// The path stands in the v2 tree and in systemd's, and both list the process.
#[test]
fn on_a_hybrid_host_each_process_is_counted_once() {
    let trees = tempfile::tempdir().unwrap();
    let [v2, of_systemd] = ["unified", "systemd"].map(|tree| trees.path().join(tree));
    let piped = std::process::Stdio::piped;
    let mut echoes = Command::new("/bin/cat").stdin(piped()).stdout(piped()).spawn().unwrap();
    // Once it answers it has loaded its libraries.
    std::io::Write::write_all(echoes.stdin.as_mut().unwrap(), b"x").unwrap();
    std::io::Read::read_exact(echoes.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let service = ServiceName::parse("a.service").unwrap();
    let counted = |listing: [bool; 2]| {
        for (tree, lists) in [&v2, &of_systemd].into_iter().zip(listing) {
            std::fs::create_dir_all(tree.join("a.service")).unwrap();
            let listed = if lists { format!("{}\n", echoes.id()) } else { String::new() };
            std::fs::write(tree.join("a.service/cgroup.procs"), listed).unwrap();
        }
        let id = std::fs::metadata(v2.join("a.service")).unwrap().ino();
        let held = ServiceCensus { cgroups: [id].into(), ..ServiceCensus::default() };
        let mut attributor = Attributor { cgroups: Cgroups::hybrid(&v2, &of_systemd), ..Attributor::new(vec![]) };
        attributor.descriptors(&service, &held, &mut Budget::of_a_tick()).map(|counted| counted.used)
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", echoes.id())).unwrap().count() as u64;
    // A container's processes, where its runtime drives v1, stand in systemd's alone.
    let counts = [[true, true], [true, false], [false, true], [false, false]].map(counted);
    echoes.kill().unwrap();
    echoes.wait().unwrap();
    assert_eq!(counts, [Some(open), Some(open), Some(open), None]);
}

/// A name is looked for in the cgroups that leak, and among all processes where none is told.
#[test]
fn a_process_is_found_by_its_name_where_no_cgroup_is_told() {
    // A name that no other process has.
    let called = format!("unwait{}", std::process::id());
    std::fs::write("/proc/self/comm", &called).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = || (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap().0);
    let [(_, inbound), (outbound, _), (another, _)] = [pair(), pair(), pair()];
    for held in [&inbound, &outbound, &another] {
        std::io::copy(&mut &*held, &mut std::io::sink()).unwrap(); // the end of file has come
    }
    let mut snapshot = Collector::new().unwrap().snapshot(&SystemClock, Ask::default()).unwrap();
    snapshot.groups.iter_mut().for_each(|group| group.cgroup_id = None);
    snapshot.listeners.iter_mut().for_each(|listener| listener.cgroup_id = None);
    let service = ServiceName::parse("process:legacy").unwrap();
    let by_name = ServiceMatch {
        service: service.clone(),
        ports: vec![],
        cgroup: None,
        process: Some(called),
        pid_file: None,
        supervised: false,
    };
    let mut attributor = Attributor::new(vec![by_name]);
    let census = attributor.attribute(snapshot.clone(), DescriptorAsk::Skip, &SystemClock);
    assert_eq!(directions(&census, &service), (1, 2));
    // Where not all of them could be looked at, nothing is guessed of the rest.
    attributor.proc = ProcRoot("/nonexistent".into());
    let census = attributor.attribute(snapshot, DescriptorAsk::Skip, &SystemClock);
    assert_eq!(directions(&census, &service), (0, 0));
    assert!(census.unattributed[&NoOwner::HolderUnseen] >= 3, "{:?}", census.unattributed);
}

/// With a budget for one process a look, as a host with thousands of them has it for some.
#[test]
fn each_service_gets_its_turn_to_have_its_descriptors_counted() {
    let units: Vec<Unit> = ["turn-a", "turn-b", "turn-c"].iter().filter_map(|stem| Unit::leaking(stem, 1)).collect();
    let Some(first) = units.first() else { return };
    let mut attributor = Attributor::new(vec![]);
    let mut census = first.census(&mut attributor, DescriptorAsk::Skip);
    census.services.retain(|name, _| units.iter().any(|unit| unit.service == *name));
    let mut counted = BTreeSet::new();
    for _ in 0..units.len() {
        let mut budget = Budget { processes: 1, descriptors: usize::MAX, until: None };
        attributor.count_descriptors(&mut census.services, &mut budget);
        counted.extend(
            census.services.iter().filter(|(_, held)| held.descriptors.is_some()).map(|(name, _)| name.clone()),
        );
    }
    assert_eq!(counted, units.iter().map(|unit| unit.service.clone()).collect());
}

/// As /proc shows the sockets of a network namespace that may not be entered.
#[test]
fn where_no_cgroup_is_told_the_holders_tell_whose_a_socket_is_and_its_direction() {
    let Some(unit) = Unit::leaking("untold", 2) else { return };
    let mut snapshot = Collector::new().unwrap().snapshot(&SystemClock, Ask::default()).unwrap();
    snapshot.groups.iter_mut().for_each(|group| group.cgroup_id = None);
    snapshot.listeners.iter_mut().for_each(|listener| listener.cgroup_id = None);
    let mut attributor = Attributor::new(vec![]);
    attributor.search_within(Duration::from_secs(5));
    let census = attributor.attribute(snapshot, DescriptorAsk::Skip, &SystemClock);
    assert_eq!(directions(&census, &unit.service), (1, 2));
}

#[test]
fn every_way_to_the_table_gives_the_same_census() {
    let Some(unit) = Unit::leaking("ways", 3) else { return };
    for mut collector in Collector::one_for_each_way().unwrap() {
        let mut attributor = Attributor::new(vec![]);
        // /proc tells no cgroup: there the holders are searched for.
        attributor.search_within(Duration::from_secs(20));
        let snapshot = collector.snapshot(&SystemClock, Ask::default()).unwrap();
        let source = snapshot.source;
        let census = attributor.attribute(snapshot, DescriptorAsk::Count, &SystemClock);
        assert_eq!(directions(&census, &unit.service), (1, 3), "{source}");
        let held = &census.services[&unit.service];
        assert_eq!(held.listening.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [unit.listens_on], "{source}");
        assert!(held.descriptors.is_some(), "{source}");
        let holders = attributor.holders(&unit.service, held, &SystemClock, Duration::from_secs(5));
        assert_eq!(holders, [(unit.child.id(), 4)].into(), "{source}");
    }
}

#[test]
fn a_service_by_port_has_what_came_in_and_what_the_listeners_holder_opened() {
    let Some(unit) = Unit::leaking("port", 2) else { return };
    let legacy = ServiceMatch { ports: vec![unit.listens_on.port()], ..unit.named("process:legacy") };
    let mut attributor = Attributor::new(vec![legacy.clone()]);
    let census = unit.census(&mut attributor, DescriptorAsk::Count);
    assert_eq!(directions(&census, &legacy.service), (1, 2));
    assert_eq!(directions(&census, &unit.service), (0, 0), "one socket has one owner");
    assert!(census.services[&legacy.service].descriptors.is_some());
}

#[test]
fn a_service_by_name_by_pid_file_by_its_supervisor_or_by_cgroup_has_what_its_processes_hold() {
    let Some(unit) = Unit::leaking("name", 2) else { return };
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("gate.pid");
    std::fs::write(&pid_file, format!("{}\n", unit.child.id())).unwrap();
    let glob = |text: &str| Some(globset::Glob::new(text).unwrap().compile_matcher());
    for (what, found) in [
        // Other tests' units sleep as well: this one is told apart by what it holds.
        ("name", ServiceMatch { process: Some("sleep".into()), ..unit.named("process:gate") }),
        ("pid file", ServiceMatch { pid_file: Some(pid_file.clone()), ..unit.named("process:gate") }),
        ("supervisor", ServiceMatch { supervised: true, ..unit.named("program:gate") }),
        ("cgroup", ServiceMatch { cgroup: glob(&format!("/{}", unit.service)), ..unit.named("process:gate") }),
    ] {
        let mut attributor = Attributor::new(vec![found.clone()]);
        attributor.supervised([(found.service.clone(), unit.child.id())].into_iter().filter(|_| found.supervised));
        let census = unit.census(&mut attributor, DescriptorAsk::Count);
        let gate = &census.services[&found.service];
        let ours = |owned: &&Owned| owned.socket.remote == unit._peer.local_addr().unwrap();
        let detail = Collector::new().unwrap().detail(&SystemClock).unwrap();
        let (_, owned) = attributor.owned(detail, &found.service, &SystemClock);
        assert_eq!(owned.iter().filter(ours).count(), 2, "by {what}");
        assert_eq!(directions(&census, &unit.service), (0, 0), "by {what}");
        assert!(gate.descriptors.is_some(), "by {what}");
        let holders = attributor.holders(&found.service, gate, &SystemClock, Duration::from_secs(5));
        assert_eq!(holders.get(&unit.child.id()), Some(&3), "by {what}");
    }
    // The same file, written long before the process began, names somebody else's pid.
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1);
    std::fs::File::open(&pid_file).unwrap().set_modified(old).unwrap();
    let found = ServiceMatch { pid_file: Some(pid_file), ..unit.named("process:gate") };
    let census = unit.census(&mut Attributor::new(vec![found.clone()]), DescriptorAsk::Skip);
    assert_eq!(directions(&census, &found.service), (0, 0));
    // What a supervisor told counts where the service is said to be supervised, and for as long as nothing newer is.
    let program = ServiceMatch { supervised: true, ..unit.named("program:gate") };
    let mut attributor = Attributor::new(vec![program.clone()]);
    attributor.supervised([(program.service.clone(), unit.child.id())]);
    attributor.supervised([]);
    assert_eq!(directions(&unit.census(&mut attributor, DescriptorAsk::Skip), &program.service), (1, 2));
    let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    attributor.supervised([(program.service.clone(), other.id())]);
    let census = unit.census(&mut attributor, DescriptorAsk::Skip);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(directions(&census, &program.service), (0, 0));
    assert_eq!(directions(&census, &unit.service), (1, 2));
}

/// Runs `look` in a thread of its own that has another user's rights, and no capability.
pub(super) fn as_nobody<T: Send>(look: impl FnOnce() -> T + Send) -> T {
    let drop_rights = || {
        // SAFETY: the bare system call changes this thread's credentials alone, where libc's would change all.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
        look()
    };
    std::thread::scope(|scope| scope.spawn(drop_rights).join().unwrap())
}

#[test]
fn without_rights_a_unit_is_still_found_and_a_hidden_holder_is_said_to_be_unseen() {
    let Some(unit) = Unit::leaking("nobody", 2) else { return };
    let by_unit = as_nobody(|| unit.census(&mut Attributor::new(vec![]), DescriptorAsk::Count));
    assert_eq!(directions(&by_unit, &unit.service), (1, 2));
    let descriptors = by_unit.services[&unit.service].descriptors;
    assert!(descriptors.is_none_or(|found| found.used >= 4), "told by Linux 6.2 and later: {descriptors:?}");

    let sleep = ServiceMatch { process: Some("sleep".into()), ..unit.named("process:gate") };
    let census = as_nobody(|| unit.census(&mut Attributor::new(vec![sleep.clone()]), DescriptorAsk::Count));
    assert_eq!((directions(&census, &sleep.service), directions(&census, &unit.service)), ((0, 0), (0, 0)));
    assert!(census.unattributed[&NoOwner::HolderUnseen] >= 3, "{:?}", census.unattributed);
}

#[test]
fn descriptors_that_were_never_closed_are_counted_also_where_nothing_is_in_close_wait() {
    let dir = tempfile::tempdir().unwrap();
    // 15 bytes are what the kernel keeps of a name.
    let name = format!("quiet{}", std::process::id());
    let program = dir.path().join(&name);
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut child = Command::new(&program).arg("600").spawn().unwrap();
    let pid_file = dir.path().join("pid");
    std::fs::write(&pid_file, child.id().to_string()).unwrap();
    let by = |service: &str| ServiceMatch {
        service: ServiceName::parse(service).unwrap(),
        ports: vec![],
        cgroup: None,
        process: None,
        pid_file: None,
        supervised: false,
    };
    let matches = vec![
        ServiceMatch { process: Some(name), ..by("process:by-name") },
        ServiceMatch { pid_file: Some(pid_file), ..by("process:by-pid-file") },
    ];
    let mut attributor = Attributor::new(matches.clone());
    let mut collector = Collector::new().unwrap();
    let mut nothing_leaks = || {
        let mut snapshot = collector.snapshot(&SystemClock, Ask::default()).unwrap();
        snapshot.groups.clear();
        snapshot
    };
    let counted = |attributor: &mut Attributor, mut census: Census| {
        let mut of = |found: &ServiceMatch| {
            let held = census.services.get_mut(&found.service).unwrap();
            attributor.count_closed(&found.service, held, &closed::Listed::default());
            held.closed
        };
        matches.iter().map(&mut of).collect::<Vec<_>>()
    };
    let census = attributor.attribute(nothing_leaks(), DescriptorAsk::Skip, &SystemClock);
    assert_eq!(counted(&mut attributor, census), [None; 2]);
    let census = attributor.attribute_quiet_too(nothing_leaks(), DescriptorAsk::Skip, &SystemClock);
    assert_eq!(counted(&mut attributor, census), [Some(0); 2]);
    let census = attributor.attribute(nothing_leaks(), DescriptorAsk::Skip, &SystemClock);
    assert_eq!(counted(&mut attributor, census), [Some(0); 2], "until the next such search");
    child.kill().unwrap();
    child.wait().unwrap();
}
