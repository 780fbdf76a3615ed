#!/bin/bash
# Holds one lab: makes its cgroup, has it booted in namespaces of its own, and takes all of it away again.
#
# The keeper ends the lab when its standard input closes. The other end of that pipe is held by the
# test alone, so a test that returns, panics or is killed is cleaned up by the same few lines.
#
# Usage: keeper.sh (boot | bare) DIR CGROUP VISIBLE...   (see boot.sh and bare.sh)
set -euo pipefail

kind=$1 dir=$2 cgroup=$3
here=$(dirname "$0")
case $kind in
    boot) namespaces=(--pid --uts --ipc --cgroup) ;;
    bare) namespaces=() ;;
esac
unshare_pid=

take_away() {
    # Killing a namespace's init kills everything in the namespace, and `unshare` returns only after that.
    if [[ -s $dir/init.pid ]]; then
        kill -KILL "$(<"$dir/init.pid")" 2>>"$dir/keeper.log" || true
    elif [[ -n $unshare_pid ]]; then
        kill -KILL "$unshare_pid" 2>>"$dir/keeper.log" || true
    fi
    [[ -z $unshare_pid ]] || wait "$unshare_pid" 2>>"$dir/keeper.log" || true
    while grep -qx 'populated 1' "$cgroup/cgroup.events"; do
        # Without a pid namespace others live on.
        echo 1 >"$cgroup/cgroup.kill"
        sleep 0.01
    done
    find "$cgroup" -depth -type d -exec rmdir {} \;
    rm -rf --one-file-system "$dir"
}
trap take_away EXIT

mkdir "$cgroup" "$cgroup/commands"

# The subshell joins the cgroup before `unshare --cgroup`, which makes it the root that the lab sees.
# With --kill-child the lab's init dies with `unshare`, and with --pdeathsig `unshare` with the keeper.
(
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec setpriv --pdeathsig KILL \
        unshare --kill-child=KILL --fork --mount --net "${namespaces[@]}" --propagation private \
        bash "$here/$kind.sh" "${@:2}"
) </dev/null >"$dir/console.log" 2>&1 &
unshare_pid=$!

# Nothing is ever written to the pipe: this waits for its end.
cat >/dev/null
