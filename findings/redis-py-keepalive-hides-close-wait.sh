#!/usr/bin/env bash
# A connection that the server has closed leaves CLOSE_WAIT by itself under redis-py 8.1, and its descriptor stays open.
#
# Version: redis (redis-py) 8.1.0 from PyPI on Linux 6.18. Seen on 2026-11-30. Since 8.x a client that was told nothing about
# keepalive sets SO_KEEPALIVE on each connection, with TCP_KEEPIDLE of 30 s. A pooled connection that the server closed as idle
# stands in CLOSE_WAIT; once the kernel of the peer has forgotten it (tcp_fin_timeout, 60 s), a probe meets a reset, and the socket goes
# out of the kernel's tables: `ss` and /proc/net/tcp do not show it any more, in any state. The application has not called close(): the
# descriptor stays, and points at a socket that no table lists. With `socket_keepalive=False` the same connection stays in
# CLOSE_WAIT for good.
#
# Why it matters to who watches leaks by counting CLOSE_WAIT: the count falls to zero while the process runs towards its limit of
# descriptors. A watch must look at descriptors as well.
#
# Needs: python3 with venv, and some 70 s. Listens on a free port of 127.0.0.1 alone, and ends what it starts. Ends with 0 where
# redis-py still does so.
set -euo pipefail

version=8.1.0

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
trap 'rm --recursive --force "$work"' EXIT
trap 'exit 1' INT TERM

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "redis==$version"

cat >"$work/server.py" <<'PYTHON'
# Answers each of two clients once, and closes on both, as a server does that has a timeout for idle clients.
import socket

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for client in [listener.accept()[0] for _ in range(2)]:
    client.recv(4096)
    client.sendall(b"+PONG\r\n")
    client.close()
PYTHON

cat >"$work/look.py" <<'PYTHON'
import os
import socket
import subprocess
import sys
import threading
import time

import redis


def state_of(inode):
    for line in open("/proc/net/tcp").readlines()[1:]:
        fields = line.split()
        if fields[9] == inode:
            return {"01": "ESTABLISHED", "08": "CLOSE_WAIT"}.get(fields[3], fields[3])
    return "not listed"


def until(expected, look, seconds):
    deadline = time.monotonic() + seconds
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"{seen} where {expected} was expected"
        time.sleep(0.2)


server = subprocess.Popen([sys.executable, sys.argv[1]], stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline())
plain = dict(host="127.0.0.1", port=port, protocol=2, driver_info=None)
clients = [redis.Redis(**plain), redis.Redis(**plain, socket_keepalive=False)]
connections = [client.connection_pool.get_connection() for client in clients]
for connection in connections:
    connection.send_command("PING")
for connection in connections:
    assert connection.read_response() in (b"PONG", "PONG")
server.wait(timeout=30)

sockets = [connection._sock for connection in connections]
inodes = [os.readlink(f"/proc/self/fd/{one.fileno()}")[8:-1] for one in sockets]
keepalive = [one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for one in sockets]
idle = sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
until(["CLOSE_WAIT"] * 2, lambda: [state_of(inode) for inode in inodes], 10)
began = time.monotonic()
until("not listed", lambda: state_of(inodes[0]), idle + 60)
took = time.monotonic() - began
still = [os.readlink(f"/proc/self/fd/{one.fileno()}")[8:-1] == inode for one, inode in zip(sockets, inodes)]
print(f"redis {redis.__version__}: SO_KEEPALIVE {keepalive}, TCP_KEEPIDLE {idle} s")
print(f"by default: out of CLOSE_WAIT after {took:.0f} s, listed nowhere; its descriptor is open: {still[0]}")
print(f"without keepalive: {state_of(inodes[1])}; its descriptor is open: {still[1]}")
assert keepalive == [1, 0] and still == [True, True] and state_of(inodes[1]) == "CLOSE_WAIT"
PYTHON

"$work/venv/bin/python" "$work/look.py" "$work/server.py"
