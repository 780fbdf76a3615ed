//! Processes of the kernel's, and of a /proc of our own making.

use super::*;
use std::os::unix::fs::symlink;

/// A /proc of our own making, with one process.
fn proc_with(pid: u32, comm: &str, started_ticks: u64) -> (tempfile::TempDir, ProcRoot) {
    let tree = tempfile::tempdir().unwrap();
    let root = ProcRoot(tree.path().into());
    let dir = tree.path().join(pid.to_string());
    std::fs::create_dir_all(dir.join("fd")).unwrap();
    std::fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
    let zeros = "0 ".repeat(17);
    std::fs::write(dir.join("stat"), format!("{pid} (a) b ({comm}) S 1 {zeros}{started_ticks} 0\n")).unwrap();
    std::fs::write(dir.join("limits"), "Limit  Soft Hard Units\nMax open files   1024   524288   files\n").unwrap();
    std::fs::write(dir.join("cgroup"), "9:name=systemd:/x\n0::/system.slice/a.service\n").unwrap();
    symlink("/opt/gate/bin/a-name-of-more-than-15", dir.join("exe")).unwrap();
    symlink("socket:[77]", dir.join("fd/3")).unwrap();
    symlink("pipe:[78]", dir.join("fd/4")).unwrap();
    (tree, root)
}

fn plenty() -> Budget<'static> {
    Budget { processes: 100, descriptors: 1000, until: None }
}

#[test]
fn the_facts_of_a_process_are_read_as_the_kernel_writes_them() {
    let (_tree, root) = proc_with(42, "gate) x", 250);
    let process = root.open(42).unwrap();
    assert_eq!(process.parent(), Ok(1));
    assert_eq!(process.started(), Ok(Duration::from_secs_f64(250.0 / procfs::ticks_per_second() as f64)));
    assert_eq!(process.cgroup().as_deref(), Ok("/system.slice/a.service"));
    assert_eq!(process.descriptor_limit(), Ok(Some(1024)));
    for (name, is) in [("gate) x", true), ("a-name-of-more-than-15", true), ("gate", false), ("bin", false)] {
        assert_eq!(process.is_called(name), Ok(is), "{name}");
    }
    let mut sockets = Vec::new();
    process.sockets(&mut plenty(), |inode| sockets.push(inode)).unwrap();
    assert_eq!(sockets, [77], "a pipe is no socket");
}

#[test]
fn a_spent_budget_says_that_something_was_not_seen() {
    let (_tree, root) = proc_with(42, "gate", 250);
    let mut budget = Budget { descriptors: 1, ..plenty() };
    assert_eq!(root.open(42).unwrap().sockets(&mut budget, |_| {}), Err(Unseen::Hidden));
    assert!(!Budget { processes: 0, ..plenty() }.spend_process());
}

#[test]
fn a_pid_that_has_gone_to_another_is_not_the_process_that_was_seen() {
    let (_tree, root) = proc_with(42, "gate", 250);
    let seen = root.open(42).unwrap().seen().unwrap();
    assert_eq!(root.reopen(seen).map(|p| p.pid), Ok(42));
    let other = ProcessKey { started: seen.started + Duration::from_secs(1), ..seen };
    assert_eq!(root.reopen(other).map(|p| p.pid), Err(Unseen::Ended));
    assert_eq!(root.open(43).map(|p| p.pid), Err(Unseen::Ended));
}

#[test]
fn members_that_have_ended_or_cannot_be_seen_by_pid_are_passed_over() {
    let (tree, root) = proc_with(42, "gate", 250);
    let visited = |pids: &str| {
        std::fs::write(tree.path().join("cgroup.procs"), pids).unwrap();
        let mut seen = Vec::new();
        let complete =
            root.members(tree.path(), &mut HashSet::new(), &mut plenty(), &mut |process, _| seen.push(process.pid));
        (seen, complete)
    };
    assert_eq!(visited("42\n43\n"), (vec![42], true), "43 has ended");
    assert_eq!(visited("42\n0\n"), (vec![42], false), "a process of another pid namespace");
    assert_eq!(visited(""), (vec![], true));
}

#[test]
fn a_pid_that_is_no_longer_listed_once_it_is_held_is_a_stranger() {
    let (_tree, root) = proc_with(42, "gate", 250);
    let mut answers = [vec![42], vec![]].into_iter();
    let mut seen = Vec::new();
    root.listed(&mut || answers.next(), &mut plenty(), &mut |process, _| seen.push(process.pid));
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn a_child_under_another_parent_is_a_stranger() {
    // Each process of this /proc says that its parent is 1.
    let (tree, root) = proc_with(42, "gate", 250);
    let family = |head: u32, child: u32| {
        let task = tree.path().join(format!("{head}/task/{head}"));
        std::fs::create_dir_all(&task).unwrap();
        std::fs::write(task.join("children"), format!("{child} ")).unwrap();
        let mut seen = Vec::new();
        let head = root.open(head).unwrap();
        let complete = root.family(&head, 5, &mut plenty(), &mut |process, _| seen.push(process.pid));
        (seen, complete)
    };
    assert_eq!(family(1, 42), (vec![1, 42], true));
    assert_eq!(family(8, 42), (vec![8], true));
}

#[test]
fn our_own_process_has_as_many_descriptors_as_it_opened() {
    let own = ProcRoot("/proc".into()).open(std::process::id()).unwrap();
    let before = own.open_descriptors().unwrap();
    let _files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    // Other tests of this process may open and close some meanwhile.
    assert!(own.open_descriptors().unwrap() >= before + 40);
    assert!(own.descriptor_limit().unwrap().is_none_or(|limit| limit > 50));
}
