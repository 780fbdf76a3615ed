#!/usr/bin/env bash
# In CLOSE_WAIT, Recv-Q 0 does not say that the program has seen the end of the connection: the read that took the last data took
# the FIN with it.
#
# Version: gunicorn 23.0.0 from PyPI on Linux 6.18. Seen on 2026-11-30. The kernel counts an unread FIN as one byte, so that a
# socket in CLOSE_WAIT with Recv-Q 1 is mostly read as "the program never looked again", and one with Recv-Q 0 as "the program has
# read the end, and forgot to close". Where data and FIN are there together, one recv() with room to spare returns the data and
# takes the FIN from the queue as well: Recv-Q is 0, although no read has returned 0 bytes yet. Two clients send the same request to
# the same handler, which never looks at its socket again, and leave. The one that left before its request was read stands
# with Recv-Q 0, the one that left afterwards with Recv-Q 1.
#
# Why it matters to who reads `ss` to tell leaks apart: a handler that is stuck and a close that was forgotten look alike. Look at
# where the threads wait as well (/proc/PID/task/*/wchan).
#
# Needs: python3 with venv, ss (iproute2), and some 15 s. Listens on a free port of 127.0.0.1 alone, and ends what it starts. Ends
# with 0 where it is still so.
set -euo pipefail

version=23.0.0

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
server=
end() {
    if [ -n "$server" ]; then
        kill -KILL "$server" $(ps --no-headers -o pid --ppid "$server") 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "gunicorn==$version"

cat >"$work/app.py" <<'PYTHON'
import os
import time


def app(environ, start_response):
    """Busy for a moment, or never back; says when it begins."""
    path = environ["PATH_INFO"]
    open(os.path.join(os.environ["WORK"], "begun" + path.replace("/", "-")), "w").close()
    time.sleep(2 if path == "/busy" else 3600)
    start_response("200 OK", [("Content-Length", "0")])
    return []
PYTHON

cat >"$work/clients.py" <<'PYTHON'
import os
import socket
import subprocess
import sys
import time

work, port = sys.argv[1], int(sys.argv[2])


def until(what, seconds=30):
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            sys.exit("not seen within the deadline")
        time.sleep(0.05)


def begun(name):
    return lambda: os.path.exists(os.path.join(work, f"begun-{name}"))


def ask(path):
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    return client


def recv_q(client):
    """Of the server's end, as ss shows it."""
    of = ["ss", "-tn", "--no-header", "state", "close-wait", f"( dport = :{client.getsockname()[1]} and sport = :{port} )"]
    line = subprocess.run(of, check=True, capture_output=True, text=True).stdout.split()
    return line[0] if line else "not in CLOSE_WAIT"


# Two workers: while each of them is busy, the first client's request and its FIN both come to wait for the next read.
busy = [ask("/busy") for _ in range(2)]
until(begun("busy"))
time.sleep(0.5)
before = ask("/before")
before.shutdown(socket.SHUT_WR)
until(begun("before"))
after = ask("/after")
until(begun("after"))
after.shutdown(socket.SHUT_WR)
until(lambda: recv_q(after) != "not in CLOSE_WAIT")
print("left before its request was read: Recv-Q", recv_q(before))
print("left after it was read:           Recv-Q", recv_q(after))
PYTHON

port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$work"
WORK=$work PYTHONDONTWRITEBYTECODE=1 "$work/venv/bin/python" -m gunicorn --bind "127.0.0.1:$port" --workers 2 --timeout 600 \
    --log-level error app:app &
server=$!
for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done
python3 "$work/clients.py" "$work" "$port" | tee "$work/seen"
printf 'left before its request was read: Recv-Q 0\nleft after it was read:           Recv-Q 1\n' | diff "$work/seen" -
echo "still so: gunicorn $version, Linux $(uname --kernel-release)"
