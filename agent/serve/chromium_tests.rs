//! The status page in a browser: Chromium, headless, as `tests/run` installs it. Without scripts all of it is there; with them it
//! is kept up to date, and says where it is not; nothing that the pages do is against their own policy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fixture::{Set, bulletin, set};
use crate::view::bulletin::Bulletin;

/// What Chromium makes of a page, and what it complains of.
struct Seen {
    document: String,
    console: String,
}

/// `lasts`: milliseconds that go by on the page; its timers go by them.
fn visit(address: &str, lasts: u32) -> Seen {
    let home = tempfile::tempdir().unwrap();
    let mut chromium = Command::new("chromium-headless-shell");
    // Nothing that it does reaches beyond loopback; root has no sandbox, and the page is ours.
    chromium.args(["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-proxy-server"]);
    chromium.args(["--enable-logging=stderr", "--dump-dom", &format!("--virtual-time-budget={lasts}")]);
    chromium.arg(format!("--user-data-dir={}", home.path().display()));
    let output = chromium.arg(address).env("HOME", home.path()).output().expect("tests/run installs it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let console = text(&output.stderr).lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    Seen { document: text(&output.stdout), console }
}

/// Stands before a server.
struct Between {
    at: SocketAddr,
    /// How often the first page was asked for.
    asked: Arc<AtomicUsize>,
}

/// `change`: at that question for the first page it shows something else from then on; `ends`: from that one on nobody answers.
/// Chromium shows nothing where scripts are off (`scriptEnabled=false`), so the script alone is not there.
fn between(set: &Set, scripts: bool, change: usize, ends: usize) -> Between {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, to) = (listener.local_addr().unwrap(), set.at);
    let (counted, bulletins) = (Arc::<AtomicUsize>::default(), set.bulletins.clone());
    let between = Between { at, asked: Arc::clone(&counted) };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            if head.starts_with(b"GET / ") {
                let asked = counted.fetch_add(1, Ordering::SeqCst);
                if asked >= ends {
                    continue;
                }
                if asked == change {
                    bulletins.send_replace(Bulletin { host_close_wait: Some(4711.0), ..bulletin() }.into());
                }
            }
            if !scripts && head.windows(4).any(|name| name == b".js ") {
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                continue;
            }
            let mut server = TcpStream::connect(to).unwrap();
            server.write_all(&head).unwrap();
            let mut answer = Vec::new();
            let _ = server.read_to_end(&mut answer);
            // Whoever asked may have gone away.
            let _ = stream.write_all(&answer);
        }
    });
    between
}

#[test]
fn chromium_shows_every_page_without_scripts_and_has_nothing_to_complain_of() {
    let set = set();
    set.begin_incidents(1);
    for (path, says) in [
        ("/", "in breach, held"),
        ("/services/rpc-order.service", "Policy leak"),
        ("/incidents", "i-0000"),
        ("/incidents/i-0000", "What was done"),
        ("/slots", "Slots of the fleet"),
        ("/nowhere", "there is no such page"),
    ] {
        for scripts in [false, true] {
            let before = between(&set, scripts, usize::MAX, usize::MAX);
            let seen = visit(&format!("http://{}{path}", before.at), 2_000);
            assert!(seen.document.contains(says), "{path}: {}", seen.document);
            let is_ours = |line: &str| line.contains("404 (Not Found)") && (path == "/nowhere" || line.contains(".js"));
            let complaints: Vec<&str> = seen.console.lines().filter(|line| !is_ours(line)).collect();
            assert!(complaints.is_empty(), "{path}: {complaints:?}");
        }
    }
}

#[test]
fn chromium_keeps_an_open_page_up_to_date_and_says_where_the_agent_is_gone() {
    let set = set();
    let without = between(&set, false, 1, usize::MAX);
    let still = visit(&format!("http://{}/", without.at), 12_000);
    assert!(still.document.contains("<strong>300</strong> sockets"), "{}", still.document);
    assert_eq!(without.asked.load(Ordering::SeqCst), 1, "nothing is asked again without the script");
    let with = between(&set, true, 1, usize::MAX);
    let live = visit(&format!("http://{}/", with.at), 12_000);
    assert!(live.document.contains("<strong>4711</strong> sockets"), "{}", live.document);
    assert_eq!(live.console, "");

    let ends = between(&set, true, usize::MAX, 2);
    let gone = visit(&format!("http://{}/", ends.at), 60_000);
    assert!(gone.document.contains("Not updated for 30s: the agent does not answer"), "{}", gone.document);
    assert!(gone.document.contains("<strong>4711</strong> sockets"), "what was known stays: {}", gone.document);
}
