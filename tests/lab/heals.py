"""A service that leaks and heals by itself: COUNT connections whose peer has closed, until the file `heal` stands in DIRECTORY.

heals.py DIRECTORY COUNT
"""

import pathlib
import socket
import sys
import time

directory, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
held = []
for _ in range(count):
    ours = socket.create_connection(listener.getsockname())
    peer, _ = listener.accept()
    peer.close()
    held.append(ours)
while not (directory / "heal").exists():
    time.sleep(0.1)
for ours in held:
    ours.close()
while True:
    time.sleep(60)
