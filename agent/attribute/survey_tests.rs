//! Against real processes, cgroups and namespaces.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::attribute::cgroup::Cgroups;
use crate::attribute::{DescriptorAsk, ServiceMatch};
use crate::clock::SystemClock;
use crate::collect::{Ask, Collector};

const ID: &str = "4f1c2d3e4f5061728394a5b6c7d8e9f00112233445566778899aabbccddeeff0";

fn named(service: &str) -> ServiceMatch {
    let service = ServiceName::parse(service).unwrap();
    ServiceMatch { service, ports: vec![], cgroup: None, process: None, pid_file: None, supervised: false }
}

fn all(matches: Vec<ServiceMatch>) -> Vec<Caution> {
    let snapshot = Collector::new().unwrap().snapshot(&SystemClock, Ask::default()).unwrap();
    Attributor::new(matches).cautions(&snapshot.listeners, snapshot.own)
}

/// Without the sandboxes, which may be others'.
fn survey(matches: Vec<ServiceMatch>) -> Vec<Caution> {
    all(matches).into_iter().filter(|caution| !caution.is_blindness()).collect()
}

/// A process that ends with this.
struct Runs(Child);

impl Runs {
    /// It echoes what it reads. The copy of `cat` is called `name`; it may say that it is called otherwise.
    fn echoing(at: &std::path::Path, called: &str, words: &[&str]) -> Self {
        let mut command = Command::new(at);
        command.arg0(called).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn services_by_port_that_are_one_process_are_said_to_be_and_others_are_not() {
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let by_port = |service: &str, listener: &TcpListener| ServiceMatch {
        ports: vec![listener.local_addr().unwrap().port()],
        ..named(service)
    };
    let cautions = survey(vec![by_port("process:a", &one), by_port("process:b", &other)]);
    let [Caution::OneProcess { services, pid, .. }] = &cautions[..] else { panic!("{cautions:?}") };
    let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    assert_eq!((&names[..], *pid), (&["process:a", "process:b"][..], std::process::id()));
    assert!(cautions[0].to_string().starts_with("process:a and process:b are one process, "), "{}", cautions[0]);
    let of_one =
        ServiceMatch { ports: [&one, &other].map(|l| l.local_addr().unwrap().port()).to_vec(), ..named("process:a") };
    assert_eq!(survey(vec![of_one]), []);
}

/// As a program writes it that is the first one of its container.
#[test]
fn a_pid_file_that_names_the_hosts_own_gives_nothing_and_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let mut leaked = listener.accept().unwrap().0;
    leaked.read_to_end(&mut Vec::new()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("gate.pid");
    let gate = ServiceMatch { pid_file: Some(pid_file.clone()), ..named("process:gate") };
    let counted = || {
        let snapshot = Collector::new().unwrap().snapshot(&SystemClock, Ask::default()).unwrap();
        let census = Attributor::new(vec![gate.clone()]).attribute(snapshot, DescriptorAsk::Skip, &SystemClock);
        census.services[&gate.service].close_wait()
    };
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
    assert_eq!((counted(), survey(vec![gate.clone()])), (1, vec![]));
    std::fs::write(&pid_file, "1\n").unwrap();
    assert_eq!(counted(), 0);
    let expected = Caution::HostsOwn { service: gate.service.clone(), pid_file: pid_file.clone(), pid: 1 };
    assert_eq!(survey(vec![gate.clone()]), [expected]);
}

/// Cgroups as docker names them, and a sandbox as gVisor starts it.
#[test]
fn processes_of_several_containers_and_a_sandbox_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let [called, exe] = [format!("unwait{}", std::process::id()), "exe".into()].map(|name| directory.path().join(name));
    for copy in [&called, &exe] {
        std::fs::copy("/bin/cat", copy).unwrap();
    }
    let name = called.file_name().unwrap().to_str().unwrap();
    let by_name = || ServiceMatch { process: Some(name.into()), ..named("process:gate") };
    let [_outside, within] = [(); 2].map(|()| Runs::echoing(&called, name, &[]));
    assert_eq!(survey(vec![by_name()]), [], "both are outside");

    let _sandbox = Runs::echoing(&exe, "runsc-sandbox", &["boot", "-", ID]);
    let sandbox = Caution::NotTheKernels { container: "container:4f1c2d3e4f50".into(), runtime: "gVisor" };
    assert!(all(vec![]).contains(&sandbox) && sandbox.is_blindness(), "{:?}", all(vec![]));

    let id = ID.replace('4', "5");
    let Some(cgroup) = Cgroups::find().directory(&format!("/docker-{id}.scope")) else { return };
    if std::fs::create_dir(&cgroup).is_err() {
        return eprintln!("not run: {} cannot be made", cgroup.display());
    }
    std::fs::write(cgroup.join("cgroup.procs"), within.0.id().to_string()).unwrap();
    let cautions = survey(vec![by_name()]);
    drop(within);
    std::fs::remove_dir(&cgroup).unwrap();
    let service = by_name().service;
    let places = vec![format!("container:{}", &id[..12]), OUTSIDE.into()];
    assert_eq!(cautions, [Caution::SeveralPlaces { service, name: name.into(), places }]);
}
