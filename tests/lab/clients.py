"""Clients of gate.php that go on until they are ended.

usage: clients.py (request | session) PORT SOURCE=PER_SECOND...

Of each source address, so often a second: a connection for a request, which is open for a third of a second; or a line over
a connection that is kept for as long as it lasts. A request that fails, and a connection that ends, is followed by the next.
"""
import socket
import sys
import threading
import time

OPEN = 0.3


def connect(source, port):
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def request(source, port):
    with connect(source, port) as gate:
        time.sleep(OPEN)
        gate.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while gate.recv(4096):
            pass


def requests(source, port, every):
    def one():
        try:
            request(source, port)
        except OSError:
            pass

    due = time.monotonic()
    while True:
        threading.Thread(target=one, daemon=True).start()
        due = max(due + every, time.monotonic())
        time.sleep(max(0, due - time.monotonic()))


def sessions(source, port, every):
    while True:
        try:
            with connect(source, port) as gate:
                while True:
                    gate.sendall(b"a line of 32 bytes that goes back\n"[-32:])
                    if not gate.recv(4096):
                        break
                    time.sleep(every)
        except OSError:
            time.sleep(every)


kind, port, *sources = sys.argv[1:]
for source, per_second in (words.split("=") for words in sources):
    each = requests if kind == "request" else sessions
    threading.Thread(target=each, args=(source, int(port), 1 / float(per_second)), daemon=True).start()
threading.Event().wait()
