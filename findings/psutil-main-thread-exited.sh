#!/usr/bin/env bash
# psutil finds no holder for the sockets of a process whose main thread has exited.
#
# Version: psutil 7.1.3 on Linux 6.18, x86-64. Seen on 2026-11-30. Other threads may outlive the main one (exit(2) as a bare
# system call, pthread_exit(3) in main): the process lives, and serves. Its main thread is a zombie without a table of
# descriptors: /proc/PID/fd is empty, and /proc/PID/task/TID/fd of any other thread shows them all. psutil reads the former
# alone: `net_connections()` has the listening socket with pid None, the process' `num_fds()` is 0, its status `zombie`.
#
# Why it matters to who restarts by "which process holds the leaked sockets": nobody seems to, while the process serves and
# leaks. A look must fall back to the descriptors of a thread that lives.
#
# Needs: python3 with venv. Listens on a free port of 127.0.0.1 alone, and ends what it starts. Ends with 0 where psutil still
# does so.
set -euo pipefail

version=7.1.3

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
trap 'rm --recursive --force "$work"' EXIT
trap 'exit 1' INT TERM

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "psutil==$version"

cat >"$work/serve.py" <<'PYTHON'
import ctypes
import socket
import threading


def serve():
    while True:
        client, _ = listener.accept()
        client.sendall(b"here")
        client.close()


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=serve).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2) of x86-64: this thread alone
PYTHON

cat >"$work/look.py" <<'PYTHON'
import os
import socket
import subprocess
import sys
import time

import psutil

server = subprocess.Popen([sys.executable, sys.argv[1]], stdout=subprocess.PIPE, text=True)
try:
    port = int(server.stdout.readline())
    process = psutil.Process(server.pid)
    deadline = time.monotonic() + 30
    while process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the main thread does not exit"
        time.sleep(0.01)
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    answer = client.recv(16).decode()
    connections = psutil.net_connections("tcp")
    holders = [one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
    own = len(os.listdir(f"/proc/{server.pid}/fd"))
    tasks = f"/proc/{server.pid}/task"
    threads = max(len(os.listdir(f"{tasks}/{tid}/fd")) for tid in os.listdir(tasks))
    print(f"psutil {psutil.__version__}: the server answers {answer!r}; pids of its listening socket: {holders}")
    print(f"num_fds(): {process.num_fds()}; entries of /proc/PID/fd: {own}; of another thread's: {threads}")
    assert answer == "here" and holders == [None] and process.num_fds() == 0 and own == 0 and threads > 3
finally:
    server.kill()
    server.wait()
PYTHON

"$work/venv/bin/python" "$work/look.py" "$work/serve.py"
