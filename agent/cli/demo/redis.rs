//! As much of the Redis protocol as the demo needs: PING, one line a command, inline or as clients send it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// As every client library sends it.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const PONG: &[u8] = b"+PONG\r\n";
/// On loopback an answer takes microseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Answers each PING until the other side closes, or has said nothing for `idle`; then closes.
pub fn serve(stream: TcpStream, idle: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(idle))?;
    let mut line = String::new();
    let mut lines = BufReader::new(&stream);
    loop {
        line.clear();
        // Idle for too long is an error of the read, and is how Redis ends such a connection too: by closing it.
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // Of `*1`, `$4`, `PING` only the last is a command.
        if line.trim_end().eq_ignore_ascii_case("PING") {
            (&stream).write_all(PONG)?;
        }
    }
}

/// A connection that was used once: connected, and PING was answered.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(PING)?;
    let mut answer = [0; PONG.len()];
    stream.read_exact(&mut answer)?;
    match answer == *PONG {
        true => Ok(stream),
        false => Err(io::Error::other(format!("{to} did not answer PING with +PONG"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn ping_is_answered_and_an_idle_connection_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0, Duration::from_millis(50)));
        let mut client = connect(at).unwrap();
        // Closed by the server, which said nothing more: the end of file.
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        assert!(server.join().unwrap().is_err(), "it was idle");
    }
}
