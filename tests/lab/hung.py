"""A WSGI application whose handler of /hang never returns, as one that waits for a lock or a peer for ever."""

import time


def app(environ, start_response):
    while environ["PATH_INFO"] == "/hang":
        time.sleep(3600)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
