//! Against the real kernel: processes in cgroups of their own that are handed sockets, pass them on, and end.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::super::cgroup::Cgroups;
use super::super::tests::as_nobody;
use super::super::unit::place;
use super::*;
use crate::clock::{ManualClock, SystemClock};
use crate::collect::Collector;

const LONG: Duration = Duration::from_secs(60);

/// Time that passes by being asked for: 1 ms each time.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1_000) + Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn standing() -> ManualClock {
    ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())
}

/// A cgroup that a test makes and takes away again; `None` where none can be made (not root, or no cgroup v2).
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(path: &str) -> Option<Self> {
        let at = Cgroups::find().directory(path)?;
        match std::fs::create_dir_all(&at) {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("not run: {} cannot be made: {error}", at.display());
                None
            }
        }
    }

    fn unit(stem: &str) -> Option<(Self, Whose)> {
        let unit = format!("unwait-test-{stem}-{}.service", std::process::id());
        Some((Self::make(&format!("/{unit}"))?, service(&unit)))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn service(name: &str) -> Whose {
    Whose::Service(ServiceName::parse(name).unwrap())
}

/// This very program, started once more in a cgroup: it does as it is told by [`act`].
struct Actor {
    child: Child,
    channel: OwnedFd,
}

impl Actor {
    fn start(cgroup: &Cgroup) -> Self {
        let (channel, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let procs = cgroup.0.join("cgroup.procs");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "attribute::holders::tests::actor", "--nocapture"]);
        command.env("UNWAIT_TEST_ACTOR", "1").stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // SAFETY: one file is written between fork and exec; glibc keeps malloc usable after fork.
        unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) }; // 0 is the writer
        let actor = Self { child: command.spawn().unwrap(), channel };
        assert_eq!(receive(&actor.channel).unwrap().0, b"here");
        actor
    }

    /// Tells it something, and waits until it is done; what it gives back.
    fn told(&self, what: &[u8], given: Option<&OwnedFd>) -> Option<OwnedFd> {
        send(&self.channel, what, given.map(AsRawFd::as_raw_fd));
        let mut back = None;
        loop {
            match receive(&self.channel).unwrap() {
                (answer, given) if answer == b"back" => back = given,
                (answer, _) => {
                    assert_eq!(answer, b"done");
                    return back;
                }
            }
        }
    }

    fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: the actor's part, played only by a program that [`Actor::start`] started.
#[test]
fn actor() {
    if std::env::var_os("UNWAIT_TEST_ACTOR").is_none() {
        return;
    }
    // SAFETY: standard input is the channel, and nothing else here reads or closes it.
    let channel = unsafe { OwnedFd::from_raw_fd(0) };
    let mut kept = Vec::new();
    send(&channel, b"here", None);
    while let Some((order, given)) = receive(&channel).filter(|(order, _)| !order.is_empty()) {
        match order.as_slice() {
            b"keep" => kept.extend(given),
            b"give back" => {
                let back = kept.pop().unwrap();
                send(&channel, b"back", Some(back.as_raw_fd()));
                drop(back); // before it says that it is done: it holds it no more
            }
            b"copy" => kept.extend((0..700).map(|_| kept[0].try_clone().unwrap()).collect::<Vec<_>>()),
            port => {
                let port = std::str::from_utf8(port).unwrap().parse().unwrap();
                kept.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap().into());
            }
        }
        send(&channel, b"done", None);
    }
}

fn send(channel: &OwnedFd, bytes: &[u8], descriptor: Option<RawFd>) {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 3]; // CMSG_SPACE of one descriptor
    // SAFETY: the message's parts are those above, live for the call, and its control part has room for a header and
    // one descriptor.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        if let Some(descriptor) = descriptor {
            (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), 24);
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(head).cast::<RawFd>().write_unaligned(descriptor);
        }
        assert_eq!(libc::sendmsg(channel.as_raw_fd(), &raw const message, 0), bytes.len() as isize);
    }
}

fn receive(channel: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; 64];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 3];
    // SAFETY: as above; a descriptor that arrives is ours alone.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), 24);
        let length = libc::recvmsg(channel.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
        bytes.truncate(usize::try_from(length).ok()?);
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        let given =
            (!head.is_null()).then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(head).cast::<RawFd>().read_unaligned()));
        Some((bytes, given))
    }
}

/// A socket whose peer has closed, and its inode.
fn leaked() -> (OwnedFd, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let inode = nix::sys::stat::fstat(&stream).unwrap().st_ino;
    (stream.into(), inode)
}

fn holders() -> Holders {
    Holders::new(ProcRoot("/proc".into()))
}

/// What is said of a socket that no process holds: where this machine hides a process even from us, no more than that.
fn held_by_none(holders: &Holders) -> Whose {
    Whose::Nobody(if holders.progress().hidden > 0 { NoOwner::HolderUnseen } else { NoOwner::NoHolder })
}

/// The owner after a look with all the time that it takes.
fn whose(holders: &mut Holders, clock: &dyn Clock, inode: u64) -> Whose {
    holders.find(&HashSet::from([inode]), clock, LONG);
    holders.owners(&place).remove(&inode).unwrap()
}

#[test]
fn a_descriptor_that_was_passed_on_is_its_new_holders() {
    let (Some((from, giver)), Some((to, taker))) = (Cgroup::unit("giver"), Cgroup::unit("taker")) else { return };
    let (socket, inode) = leaked();
    let (first, second) = (Actor::start(&from), Actor::start(&to));
    first.told(b"keep", Some(&socket));
    drop(socket);
    let (mut holders, clock) = (holders(), standing());
    assert_eq!(whose(&mut holders, &clock, inode), giver);
    let found = holders.holders(inode);
    assert_eq!(found, [first.child.id()]);
    assert_eq!(whose(&mut holders, &clock, inode), giver, "checked, and still so");

    second.told(b"keep", first.told(b"give back", None).as_ref());
    assert_eq!(whose(&mut holders, &clock, inode), giver, "checked a moment ago");
    clock.advance(CHECK_AGAIN_AFTER);
    assert_eq!(whose(&mut holders, &clock, inode), taker);
    second.end();
    clock.advance(CHECK_AGAIN_AFTER);
    assert_eq!(whose(&mut holders, &clock, inode), held_by_none(&holders));
}

#[test]
fn a_socket_of_two_services_is_shared_and_many_holders_of_one_service_are_normal() {
    let (Some((a, is_a)), Some((b, Whose::Service(is_b)))) = (Cgroup::unit("one"), Cgroup::unit("other")) else {
        return;
    };
    let below = Cgroup::make(&format!("/{}/worker", a.0.file_name().unwrap().to_str().unwrap())).unwrap();
    let (socket, inode) = leaked();
    let actors = [Actor::start(&a), Actor::start(&a), Actor::start(&below)];
    actors.iter().for_each(|actor| _ = actor.told(b"keep", Some(&socket)));
    let (mut holders, clock) = (holders(), standing());
    let third = Actor::start(&b);
    third.told(b"keep", Some(&socket));
    drop(socket);
    let Whose::Service(is_a_too) = is_a.clone() else { unreachable!() };
    let both = Whose::Shared(BTreeSet::from([is_a_too, is_b]));
    assert_eq!(whose(&mut holders, &clock, inode), both);
    assert_eq!(Owner::from(both), Owner::Nobody(NoOwner::Shared));
    third.end();
    clock.advance(CHECK_AGAIN_AFTER);
    assert_eq!(whose(&mut holders, &clock, inode), is_a);
    assert_eq!(holders.holders(inode).len(), 2, "one for each cgroup");
}

#[test]
fn where_the_sockets_of_no_service_are_is_told_by_their_cgroup_or_by_who_holds_them() {
    use crate::attribute::{Attributor, DescriptorAsk};
    use crate::model::census::{Stray, StrayAt};
    let path = format!("/unwait-test-session-{}.scope", std::process::id());
    let Some(session) = Cgroup::make(&path) else { return };
    let actor = Actor::start(&session);
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    actor.told(peer.local_addr().unwrap().port().to_string().as_bytes(), None);
    drop(peer.accept().unwrap());
    let mut attributor = Attributor::new(vec![]);
    let snapshot = Collector::new().unwrap().snapshot(&SystemClock, Default::default()).unwrap();
    let census = attributor.attribute(snapshot, DescriptorAsk::Skip, &SystemClock);
    let strays = attributor.strays(&census.of_no_service);
    let here = Stray { sockets: 1, at: StrayAt::Cgroup { cgroup: path.clone() } };
    assert!(strays.contains(&here), "{strays:?}");
    assert_eq!(here.to_string(), format!("1 in the cgroup {path}"));

    // As where no cgroup is told.
    let (socket, inode) = leaked();
    actor.told(b"keep", Some(&socket));
    drop(socket);
    let mut holders = holders();
    holders.find(&HashSet::from([inode]), &standing(), LONG);
    let nowhere = |_: &str| Err(NoOwner::NotAService);
    let found: Vec<_> = holders.of_no_service(&nowhere, |_| true).iter().map(|(s, n)| (s.pid, *n)).collect();
    assert_eq!(found, [(actor.child.id(), 1)]);
    assert_eq!(holders.of_no_service(&nowhere, |of| of != inode), [], "a listener does not count");
    assert_eq!(holders.of_no_service(&place, |_| true).len(), 1);
}

#[test]
fn what_the_configuration_says_to_be_a_services_is_no_stray() {
    use crate::attribute::{Attributor, DescriptorAsk, ServiceMatch};
    use crate::model::census::StrayAt;
    let Some(session) = Cgroup::make(&format!("/unwait-test-claimed-{}.scope", std::process::id())) else { return };
    let actors = [Actor::start(&session), Actor::start(&session)];
    actors.iter().for_each(|actor| _ = actor.told(b"keep", Some(&leaked().0)));
    let [claimed, other] = actors.each_ref().map(|actor| actor.child.id());
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("gate.pid");
    std::fs::write(&pid_file, claimed.to_string()).unwrap();
    let service = ServiceName::parse("process:gate").unwrap();
    let gate = ServiceMatch {
        service,
        ports: vec![],
        cgroup: None,
        process: None,
        pid_file: Some(pid_file),
        supervised: false,
    };
    let mut attributor = Attributor::new(vec![gate.clone()]);
    attributor.search_within(LONG);
    let mut snapshot = Collector::new().unwrap().snapshot(&SystemClock, Default::default()).unwrap();
    snapshot.groups.iter_mut().for_each(|group| group.cgroup_id = None);
    let census = attributor.attribute(snapshot, DescriptorAsk::Skip, &SystemClock);
    assert_eq!(census.services[&gate.service].close_wait(), 1);
    let strays = attributor.strays(&census.of_no_service);
    let is_at = |of: u32| strays.iter().any(|stray| matches!(stray.at, StrayAt::Process { pid, .. } if pid == of));
    assert!(is_at(other) && !is_at(claimed), "{claimed} is the service's, {other} is nobody's: {strays:?}");
}

#[test]
fn a_descriptor_under_way_is_held_by_none_until_it_arrives() {
    let Some((cgroup, taker)) = Cgroup::unit("late") else { return };
    let (socket, inode) = leaked();
    let (sender, receiver) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    send(&sender, b"x", Some(socket.as_raw_fd()));
    drop(socket);
    let (mut holders, clock) = (holders(), standing());
    assert_eq!(whose(&mut holders, &clock, inode), held_by_none(&holders));
    let actor = Actor::start(&cgroup);
    actor.told(b"keep", receive(&receiver).unwrap().1.as_ref());
    assert_eq!(whose(&mut holders, &clock, inode), held_by_none(&holders), "no pass is due");
    clock.advance(PASS_AGAIN_AFTER);
    assert_eq!(whose(&mut holders, &clock, inode), taker);
}

#[test]
fn a_socket_of_a_removed_cgroup_is_its_holders() {
    let (Some((old, _)), Some((new, moved_to))) = (Cgroup::unit("old"), Cgroup::unit("new")) else { return };
    let actor = Actor::start(&old);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = listener.local_addr().unwrap();
    actor.told(remote.port().to_string().as_bytes(), None);
    drop(listener.accept().unwrap());
    std::fs::write(new.0.join("cgroup.procs"), actor.child.id().to_string()).unwrap();
    std::fs::remove_dir(&old.0).unwrap();

    let detail = Collector::new().unwrap().detail(&SystemClock).unwrap();
    let (group, leaked) = detail.sockets.iter().find(|(_, socket)| socket.remote == remote).unwrap();
    let cgroup = detail.snapshot.groups[*group].cgroup_id.unwrap();
    assert_eq!(Cgroups::find().path(cgroup), None, "its own cgroup is gone");
    assert_eq!(whose(&mut holders(), &standing(), leaked.inode), moved_to);
}

#[test]
fn a_look_that_is_too_short_is_gone_on_with_until_all_is_covered() {
    let Some((cgroup, owner)) = Cgroup::unit("busy") else { return };
    let ((socket, inode), (other, _)) = (leaked(), leaked());
    let actor = Actor::start(&cgroup);
    actor.told(b"keep", Some(&other));
    actor.told(b"copy", None);
    actor.told(b"keep", Some(&socket)); // behind 700 others
    drop(socket);
    let (mut holders, clock, wanted) = (holders(), Ticking::default(), HashSet::from([inode]));
    // 3 ms: two processes, or 511 descriptors, since the clock is asked for each process and each 256 descriptors.
    let mut look = || holders.find(&wanted, &clock, Duration::from_millis(3));
    let first = look();
    assert_eq!((first.not_looked_at, first.of), (1, None));
    assert!((1..10).contains(&first.looked_at), "{first:?}");
    let looks = (2..2_000).find(|_| look().not_looked_at == 0).expect("covered after some looks");
    assert!(looks > 3, "the budget was no bound: {looks} looks");
    assert_eq!(holders.owners(&place)[&inode], owner);
    assert_eq!(holders.find(&wanted, &clock, Duration::ZERO).not_looked_at, 0, "what was found is kept");
    holders.find(&HashSet::new(), &clock, LONG);
    assert!(holders.sockets.is_empty() && holders.pass.pids.is_none(), "nothing is wanted, nothing stays open");
}

#[test]
fn before_a_whole_pass_it_is_said_that_it_was_not_looked_at() {
    let (_socket, inode) = leaked();
    let mut holders = holders();
    holders.find(&HashSet::from([inode, 0]), &Ticking::default(), Duration::ZERO);
    assert_eq!(holders.owners(&place), [(inode, Whose::Nobody(NoOwner::NotLookedAt))].into());
}

#[test]
fn a_holder_that_ends_in_the_middle_of_its_descriptors_holds_nothing() {
    let Some((cgroup, _)) = Cgroup::unit("ends") else { return };
    let (socket, inode) = leaked();
    let actor = Actor::start(&cgroup);
    actor.told(b"keep", Some(&socket));
    actor.told(b"copy", None);
    drop(socket);
    let (mut holders, clock, wanted) = (holders(), Ticking::default(), HashSet::from([inode]));
    let is_reading = |holders: &Holders| {
        holders.pass.under_way.as_ref().is_some_and(|reading| reading.process.pid == actor.child.id() && reading.known)
    };
    let mut looks = 0;
    while !is_reading(&holders) {
        looks += 1;
        assert!(looks < 100_000, "never stopped among the actor's 700 descriptors");
        // 3 ms: the clock is asked at its begin, for a process, and after 256 descriptors.
        holders.find(&wanted, &clock, Duration::from_millis(if looks % 2 == 0 { 3 } else { 4 }));
        if holders.pass.done > 0 {
            holders = self::holders();
        }
    }
    actor.end();
    assert_eq!(whose(&mut holders, &standing(), inode), held_by_none(&holders));
}

#[test]
fn a_recycled_pid_is_another_holder_also_of_the_same_socket_under_the_same_number() {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    let (Some((a, was)), Some((b, is))) = (Cgroup::unit("former"), Cgroup::unit("recycled")) else { return };
    if !Path::new(LAST_PID).exists() {
        return eprintln!("not run: this kernel has no {LAST_PID}");
    }
    let (socket, inode) = leaked();
    let former = Actor::start(&a);
    former.told(b"keep", Some(&socket));
    let (mut holders, clock) = (holders(), standing());
    assert_eq!(whose(&mut holders, &clock, inode), was);
    let pid = former.child.id();
    former.end();
    // The same pid again, in another cgroup; others may fork meanwhile.
    let again = (0..1_000).find_map(|_| {
        std::fs::File::create(LAST_PID).and_then(|mut file| write!(file, "{}", pid - 1)).ok()?;
        Some(Actor::start(&b)).filter(|actor| actor.child.id() == pid)
    });
    let again = again.expect("the pid came back within 1000 attempts");
    again.told(b"keep", Some(&socket));
    drop(socket);
    clock.advance(CHECK_AGAIN_AFTER);
    assert_eq!(whose(&mut holders, &clock, inode), is);
    assert_eq!(holders.holders(inode), [pid]);
    let now = holders.proc.open(pid).unwrap().seen().unwrap();
    assert_eq!(holders.processes[&pid].seen, now, "not the one that has ended");
}

#[test]
fn that_no_process_holds_it_is_said_only_where_all_processes_were_seen() {
    let tree = tempfile::tempdir().unwrap();
    let at = |path: &str| tree.path().join(path);
    for pid in ["1", "7"] {
        std::fs::create_dir_all(at(pid).join("fd")).unwrap();
        std::fs::write(at(pid).join("stat"), format!("{pid} (a) S 1 {}250 0\n", "0 ".repeat(17))).unwrap();
        std::fs::write(at(pid).join("cgroup"), "1:name=systemd:/system.slice/a.service\n0::/\n").unwrap();
    }
    std::os::unix::fs::symlink("socket:[77]", at("7/fd/3")).unwrap();
    std::fs::create_dir_all(at("self/ns")).unwrap();
    std::os::unix::fs::symlink("/proc/self/ns/pid", at("self/ns/pid")).unwrap();
    let look = || {
        let mut holders = Holders::new(ProcRoot(tree.path().into()));
        let progress = holders.find(&HashSet::from([77, 78]), &standing(), LONG);
        (holders.owners(&place), progress.hidden)
    };
    let expected = |why, hidden| ([(77, service("a.service")), (78, Whose::Nobody(why))].into(), hidden);
    if ProcRoot("/proc".into()).is_the_hosts() {
        assert_eq!(look(), expected(NoOwner::NoHolder, 0));
    }
    // As hidepid does.
    std::fs::rename(at("1"), at("not-1")).unwrap();
    assert_eq!(look(), expected(NoOwner::HolderUnseen, 1));
    std::fs::rename(at("not-1"), at("1")).unwrap();
    // A pid namespace of our own.
    std::fs::remove_file(at("self/ns/pid")).unwrap();
    std::os::unix::fs::symlink("/proc/self/ns/net", at("self/ns/pid")).unwrap();
    assert_eq!(look(), expected(NoOwner::HolderUnseen, 1));
}

#[test]
fn without_rights_a_hidden_holder_is_said_to_be_unseen() {
    let Some((cgroup, _)) = Cgroup::unit("hidden") else { return };
    let (socket, inode) = leaked();
    let actor = Actor::start(&cgroup);
    actor.told(b"keep", Some(&socket));
    drop(socket);
    let (progress, owners) = as_nobody(|| {
        let mut holders = holders();
        let progress = holders.find(&HashSet::from([inode]), &standing(), LONG);
        (progress, holders.owners(&place))
    });
    assert!(progress.hidden > 0, "{progress:?}");
    assert_eq!(owners[&inode], Whose::Nobody(NoOwner::HolderUnseen));
}
