"""A service with one fault, and no other.

usage: faults.py FAULT PORT [PEER]      PEER: the port of a server that closes idle connections
"""
import os
import socket
import sys
import threading
import time

FOREVER = 1e6
fault, port = sys.argv[1], int(sys.argv[2])


def listening(backlog=64):
    server = socket.create_server(("127.0.0.1", port), backlog=backlog)
    return server


def pool(count):
    """Connections to Redis that were used once."""
    taken = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
        connection.sendall(b"PING\r\n")
        connection.recv(16)
        taken.append(connection)
    return taken


def idle_pool():
    kept = pool(24)
    time.sleep(FOREVER)
    kept.clear()


def too_many_workers():
    for _ in range(12):
        if os.fork() == 0:
            idle_pool_of_a_worker()
    time.sleep(FOREVER)


def idle_pool_of_a_worker():
    kept = pool(2)
    time.sleep(FOREVER)
    kept.clear()


def close_path_forgotten():
    """It reads the end of each connection, and keeps it."""
    forgotten, server = [], listening()
    while True:
        connection, _ = server.accept()
        while connection.recv(4096):
            pass
        forgotten.append(connection)


def handlers_stuck():
    def handle(connection):
        connection.recv(4096)
        time.sleep(FOREVER)
        connection.close()

    server = listening()
    while True:
        connection, _ = server.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def accept_queue_not_served():
    server = listening()
    time.sleep(FOREVER)
    server.close()


def descriptors_handed_on():
    """Two helpers inherit what is open when they begin; the service itself closes as it should."""
    server, taken = listening(), []
    while len(taken) < 12:
        taken.append(server.accept()[0])
    for _ in range(2):
        if os.fork() == 0:
            server.close()
            time.sleep(FOREVER)
    for connection in taken:
        while connection.recv(4096):
            pass
        connection.close()
    time.sleep(FOREVER)


def keepalive_hides_it():
    kept = pool(24)
    for connection in kept:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    time.sleep(FOREVER)
    kept.clear()


globals()[fault]()
