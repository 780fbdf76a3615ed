"""Leaks connections whose peers have closed, and holds them in a place of its own.

usage: holds.py PORT COUNT WHERE

WHERE: here      in its own descriptors
       fdstore   and in systemd's fd store, which hands them to the next lifetime; that one leaks no more
       shared    and in a helper's, in a scope of its own
       helper    in the helper's alone
       ring      in an io_uring's registered files, without a descriptor
       thread    in the descriptors of a process whose main thread has exited
"""
import array
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time

port, count, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
EXIT, IO_URING_SETUP, IO_URING_REGISTER = 60, 425, 427  # x86-64
REGISTER_FILES = 2


def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


def leak():
    listener = socket.create_server(("127.0.0.1", port), backlog=count)
    kept = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        kept.append(listener.accept()[0])
        client.close()
    return listener, kept


def store(kept):
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.connect(os.environ["NOTIFY_SOCKET"])
    for leaked in kept:
        fds = array.array("i", [leaked.fileno()])
        manager.sendmsg([b"FDSTORE=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def share(kept):
    unit = f"--unit=helper-{port}"
    fds = [leaked.fileno() for leaked in kept]
    subprocess.Popen(["systemd-run", "--scope", "--quiet", unit, "sleep", "infinity"], pass_fds=fds)
    # It holds them before we let go of them: it was forked with them.


def register(kept):
    parameters = (ctypes.c_char * 120)()
    ring = call(IO_URING_SETUP, 4, ctypes.byref(parameters))
    fds = (ctypes.c_int * count)(*[leaked.fileno() for leaked in kept])
    call(IO_URING_REGISTER, ring, REGISTER_FILES, ctypes.byref(fds), count)
    return ring


if where == "fdstore" and os.environ.get("LISTEN_FDS"):
    print("was handed", os.environ["LISTEN_FDS"], flush=True)
    time.sleep(1e6)
listener, kept = leak()
match where:
    case "fdstore":
        store(kept)
    case "shared" | "helper":
        share(kept)
    case "ring":
        register(kept)
if where in ("helper", "ring"):
    for leaked in kept:
        leaked.close()
print("leaks", flush=True)
if where == "thread":
    threading.Thread(target=time.sleep, args=(1e6,)).start()
    call(EXIT, 0)
time.sleep(1e6)
