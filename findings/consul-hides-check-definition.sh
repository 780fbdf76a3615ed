#!/usr/bin/env bash
# Consul tells nobody how it checks a service: in each of its answers the definition of a check is empty, and the address that an HTTP
# check asks stands in the text of the last result alone.
#
# Version: Consul 1.8.7 (Debian). Seen on 2026-11-30.
#
# Why it matters to who watches or restarts a service that is registered there: it should ask the same question as the registry
# does, or it calls a service healthy that the registry takes out (a TCP probe passes on one that answers 503). The answers have
# a field for it, `Definition`, with a documented shape, and the agent fills it for none of its own checks. What is left is to read
# the address out of `Output`, in the words of the last result: nothing stands there before the first answer, the text is whatever
# this version writes, and a client that got no connection writes another one.
#
# Needs: apt with a Debian archive among its sources, dpkg, python3, and a user who may make network namespaces (root).
# Everything runs in a namespace and a folder of its own. Ends with 0 where Consul still does so.
set -euo pipefail

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
end() {
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

# Debian 11 has the last Consul that Debian packaged; the archive is the one that this machine uses.
archive=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep --max-count=1 '/debian' || true)
[[ -n $archive ]] || { echo 'no Debian archive among the package sources' >&2; exit 1; }
mkdir --parents "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive bullseye main" >"$work/sources.list"
options=(
    --quiet --quiet
    --option "Dir::Etc::SourceList=$work/sources.list"
    --option Dir::Etc::SourceParts=-
    --option "Dir::State::Lists=$work/lists"
    --option "Dir::Cache=$work/cache"
    --option APT::Sandbox::User=root
)
apt-get "${options[@]}" update
(cd "$work" && apt-get "${options[@]}" download 'consul=1.8.7*')
dpkg --extract "$work"/consul_*.deb "$work/unpacked"
"$work/unpacked/usr/bin/consul" version | head --lines 1

cat >"$work/finding.py" <<'PYTHON'
import http.server, json, subprocess, sys, threading, time, urllib.error, urllib.request

consul, data = sys.argv[1:]


def call(method, path, body=None):
    request = urllib.request.Request("http://127.0.0.1:8500" + path, method=method, data=json.dumps(body).encode() if body else None)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read() or b"null")


def until(what, holds):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            found = holds()
            if found:
                return found
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    sys.exit(f"{what} did not come in time")


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, *_):
        pass


URL = "http://127.0.0.1:9099/healthz"
log = open(data + ".log", "w")
agent = subprocess.Popen([consul, "agent", "-dev", "-bind", "127.0.0.1"], stdout=log, stderr=log)
try:
    until("a leader", lambda: call("GET", "/v1/status/leader"))
    check = {"HTTP": URL, "Interval": "1s", "Timeout": "1s"}
    service = {"Name": "rpc", "ID": "rpc-1", "Address": "127.0.0.1", "Port": 7801, "Check": check}
    until("the registration", lambda: call("PUT", "/v1/agent/service/register", service) is None)

    before = call("GET", "/v1/agent/checks")["service:rpc-1"]
    server = http.server.HTTPServer(("127.0.0.1", 9099), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    passing = lambda: [one for one in call("GET", "/v1/health/checks/rpc") if one["Status"] == "passing"]
    of_the_catalog = until("a passing check", passing)[0]
    of_the_agent = call("GET", "/v1/agent/checks")["service:rpc-1"]
    of_the_health = call("GET", "/v1/health/service/rpc")[0]["Checks"]
    of_the_health = next(one for one in of_the_health if one["CheckID"] == "service:rpc-1")

    for what, found in [
        ("GET /v1/agent/checks, before the first answer", before),
        ("GET /v1/agent/checks", of_the_agent),
        ("GET /v1/health/checks/rpc", of_the_catalog),
        ("GET /v1/health/service/rpc", of_the_health),
    ]:
        print(f"{what}\n    Definition: {json.dumps(found['Definition'])}\n    Output: {found['Output']!r}")
        if found["Definition"] != {}:
            sys.exit("Consul tells the definition of a check now: this finding is over")
    if URL in before["Output"] or URL not in of_the_agent["Output"]:
        sys.exit("the address stands elsewhere now: this finding is over")
    print("The address that is asked stands in the text of the last answer, and nowhere else.")
finally:
    agent.terminate()
    agent.wait()
PYTHON
unshare --net bash -c 'ip link set lo up && exec python3 "$@"' bash "$work/finding.py" "$work/unpacked/usr/bin/consul" "$work/data"
