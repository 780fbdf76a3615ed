//! The host's TCP table as `ss -tan` prints it where its output is not a terminal (iproute2 `misc/ss.c`): every
//! column as wide as its widest cell, port columns glued to their addresses by the colon, an empty `Process` column
//! at the end.

use std::collections::HashSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::model::TableRow;

/// A column's head, whether it is aligned to the right, and what stands between it and the column before.
const COLUMNS: [(&str, bool, &str); 8] = [
    ("State", false, ""),
    ("Recv-Q", false, " "),
    ("Send-Q", false, " "),
    ("Local Address:", true, " "),
    ("Port", false, ""),
    ("Peer Address:", true, " "),
    ("Port", false, ""),
    ("Process", false, ""),
];

/// The table in the order given. Rows past `max_bytes` are left out; how many is the second value.
pub(super) fn render(rows: &[TableRow], max_bytes: usize) -> (String, usize) {
    let v4_wildcards: HashSet<u16> = rows
        .iter()
        .filter(|row| row.state == "LISTEN" && row.local.is_ipv4() && row.local.ip().is_unspecified())
        .map(|row| row.local.port())
        .collect();
    let cells = |row: &TableRow| -> [String; 8] {
        let v6_only = is_v6_only(row, &v4_wildcards);
        let (recv_q, send_q) = (row.recv_q.to_string(), row.send_q.to_string());
        let [local, peer] = [row.local, row.remote].map(|at| format!("{}:", address(at, v6_only)));
        [row.state.into(), recv_q, send_q, local, port(row.local), peer, port(row.remote), String::new()]
    };

    let mut widths = COLUMNS.map(|(head, ..)| head.len());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell.len());
        }
    }
    let between: usize = COLUMNS.iter().map(|(.., delimiter)| delimiter.len()).sum();
    let line_bytes = widths.iter().sum::<usize>() + between + 1;
    let shown = rows.len().min((max_bytes / line_bytes).saturating_sub(1));

    let mut text = String::with_capacity(line_bytes * (shown + 1));
    let mut line = |cells: [&str; 8]| {
        for ((cell, (_, right, delimiter)), width) in cells.iter().zip(COLUMNS).zip(widths) {
            let written = match right {
                true => write!(text, "{delimiter}{cell:>width$}"),
                false => write!(text, "{delimiter}{cell:<width$}"),
            };
            written.expect("writing to a string cannot fail");
        }
        text.push('\n');
    };
    line(COLUMNS.map(|(head, ..)| head));
    for row in &rows[..shown] {
        let cells = cells(row);
        line(std::array::from_fn(|column| cells[column].as_str()));
    }
    (text, rows.len() - shown)
}

/// ss tells `[::]` (IPv6 only) from `*` (both families) by INET_DIAG_SKV6ONLY, which a row does not carry. It follows
/// from the addresses: a socket bound to one IPv6 address is IPv6 only (`__inet6_bind`), and so is the IPv6 wildcard
/// of a port whose IPv4 wildcard is another socket's.
fn is_v6_only(row: &TableRow, v4_wildcards: &HashSet<u16>) -> bool {
    let IpAddr::V6(local) = row.local.ip() else { return false };
    match local.is_unspecified() {
        true => row.state == "LISTEN" && v4_wildcards.contains(&row.local.port()),
        false => local.to_ipv4_mapped().is_none(),
    }
}

fn address(at: SocketAddr, v6_only: bool) -> String {
    match at.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) if ip.is_unspecified() && !v6_only => "*".into(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn port(at: SocketAddr) -> String {
    match at.port() {
        0 => "*".into(),
        port => port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &'static str, queues: (u32, u32), local: &str, remote: &str) -> TableRow {
        let (recv_q, send_q) = queues;
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        TableRow { state, recv_q, send_q, local, remote, inode: 0, cookie: 0, cgroup_id: None }
    }

    /// Taken from `ss -tan | cat` of iproute2 6.1.0, in a network namespace with these sockets.
    #[test]
    fn the_table_is_what_ss_printed_to_the_byte() {
        let rows = [
            row("LISTEN", (0, 128), "0.0.0.0:2200", "0.0.0.0:0"),
            row("ESTAB", (0, 0), "127.0.0.1:40001", "127.0.0.1:6379"),
            row("LISTEN", (0, 511), "[::]:6379", "[::]:0"),
            row("LISTEN", (0, 128), "[::]:2200", "[::]:0"),
            row("LISTEN", (0, 128), "[::1]:7801", "[::]:0"),
            row("FIN-WAIT-2", (0, 0), "[::1]:7801", "[::1]:40001"),
            row("CLOSE-WAIT", (124, 0), "[::1]:40001", "[::1]:7801"),
            row("ESTAB", (0, 0), "[::ffff:127.0.0.1]:6379", "[::ffff:127.0.0.1]:40001"),
        ];
        let printed = concat!(
            "State      Recv-Q Send-Q      Local Address:Port        Peer Address:Port Process\n",
            "LISTEN     0      128               0.0.0.0:2200             0.0.0.0:*           \n",
            "ESTAB      0      0               127.0.0.1:40001          127.0.0.1:6379        \n",
            "LISTEN     0      511                     *:6379                   *:*           \n",
            "LISTEN     0      128                  [::]:2200                [::]:*           \n",
            "LISTEN     0      128                 [::1]:7801                [::]:*           \n",
            "FIN-WAIT-2 0      0                   [::1]:7801               [::1]:40001       \n",
            "CLOSE-WAIT 124    0                   [::1]:40001              [::1]:7801        \n",
            "ESTAB      0      0      [::ffff:127.0.0.1]:6379  [::ffff:127.0.0.1]:40001       \n",
        );
        assert_eq!(render(&rows, 4096), (printed.into(), 0));
    }

    #[test]
    fn a_table_beyond_its_bound_says_how_many_rows_are_left_out() {
        let rows = vec![row("ESTAB", (0, 0), "10.0.0.1:40000", "10.0.0.2:6379"); 100];
        let (text, left_out) = render(&rows, 1000);
        assert!(text.len() <= 1000);
        assert_eq!(text.lines().count() - 1 + left_out, 100);
        assert!(left_out > 0 && left_out < 100, "{left_out}");
    }

    /// The same sockets, as the real ss prints them and as we do, from what /proc says of them.
    #[test]
    fn real_sockets_are_printed_as_ss_prints_them() {
        use std::net::{TcpListener, TcpStream};

        let mut open: Vec<(TcpListener, TcpStream, TcpStream)> = Vec::new();
        for bind in ["127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let to: SocketAddr = match bind {
                "[::1]:0" => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
                _ => SocketAddr::from(([127, 0, 0, 1], port)),
            };
            let client = TcpStream::connect(to).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            // One half-closed: CLOSE-WAIT on one side, FIN-WAIT-2 on the other, with data unread.
            std::io::Write::write_all(&mut &accepted, b"unread").unwrap();
            accepted.shutdown(std::net::Shutdown::Write).unwrap();
            open.push((listener, client, accepted));
        }
        // Both ends: another test's sockets may share one port with ours.
        let mut ports: HashSet<String> = HashSet::from(["*".into(), "0".into()]);
        for (listener, client, _) in &open {
            ports.extend([listener.local_addr(), client.local_addr()].map(|at| at.unwrap().port().to_string()));
        }
        let fields = |text: &str| -> Vec<Vec<String>> {
            let ours = |end: &String| end.rsplit_once(':').is_some_and(|(_, port)| ports.contains(port));
            let mut lines: Vec<Vec<String>> = text.lines().skip(1).map(words).collect();
            lines.retain(|fields| fields[3..5].iter().all(ours));
            lines.sort();
            lines
        };
        let ours = || -> String {
            let rows = procfs::net::tcp().unwrap().into_iter().chain(procfs::net::tcp6().unwrap()).map(from_proc);
            render(&rows.collect::<Vec<_>>(), 1 << 20).0
        };
        // States go on by themselves (FIN-WAIT-1 until the ACK): compare where nothing moved while ss looked.
        let (printed, ss) = loop {
            let before = ours();
            let ss = std::process::Command::new("ss").arg("-tan").output().expect("ss (Debian: iproute2) is needed");
            if fields(&before) == fields(&ours()) {
                break (before, String::from_utf8(ss.stdout).unwrap());
            }
        };
        assert_eq!(fields(&printed).len(), 12, "{printed}");
        assert_eq!(fields(&printed), fields(&ss));
        // iproute2 6.1 names a column of processes that it does not print; 7.3 does not.
        let head = |text: &String| text.lines().next().unwrap().replace("Process", "").replace(' ', "");
        let heads = [&printed, &ss].map(head);
        assert_eq!(heads[0], heads[1]);
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    fn from_proc(entry: procfs::net::TcpNetEntry) -> TableRow {
        use procfs::net::TcpState;
        let state = match entry.state {
            TcpState::Established => "ESTAB",
            TcpState::CloseWait => "CLOSE-WAIT",
            TcpState::FinWait2 => "FIN-WAIT-2",
            TcpState::FinWait1 => "FIN-WAIT-1",
            TcpState::Listen => "LISTEN",
            TcpState::TimeWait => "TIME-WAIT",
            _ => "OTHER",
        };
        // A listener's Send-Q is its backlog in sock_diag, which /proc does not tell: std asks for 128.
        let send_q = if state == "LISTEN" { 128 } else { entry.tx_queue };
        TableRow {
            state,
            recv_q: entry.rx_queue,
            send_q,
            local: entry.local_address,
            remote: entry.remote_address,
            inode: entry.inode,
            cookie: 0,
            cgroup_id: None,
        }
    }
}
