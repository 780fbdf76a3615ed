# What the tests need of Debian. Sourced by tests/run.

# What is installed on the machine. redis-tools holds the server's program, without the service that redis-server would
# set up. The other lines are what Docker's containers run, what its programs and HAProxy are linked with, and what
# supervisor and ZooKeeper run in. chromium-headless-shell looks at the status page: Chromium without its windows and their
# libraries.
debian_packages=(systemd dbus iproute2 procps util-linux e2fsprogs redis-tools openssl php-cli php-redis
    busybox-static libdevmapper1.02.1 libseccomp2 python3 python3-pkg-resources liblua5.3-0 libopentracing-c-wrapper0
    openjdk-17-jre-headless chromium-headless-shell)

install_debian_packages() {
    local package missing=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]} == 0)) && return
    apt-get update --quiet || fail "could not read the package lists; missing: ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends "${missing[@]}" ||
        fail "could not install the Debian packages: ${missing[*]}"
}

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>&1) == installed ]]
}

# What would set up and start a server for the whole machine if it were installed: a name, and the packages that are
# unpacked into $cache/NAME. podman runs Docker's runc. ZooKeeper is the program alone, with the jars that a server of its
# own and its client need.
debian_servers=(
    'alertmanager prometheus-alertmanager'
    'etcd etcd-server'
    'haproxy haproxy'
    'nginx nginx'
    'prometheus prometheus'
    'supervisor supervisor'
    'supervise runit s6 libs6-2.11 libskarnet2.13 libexecline2.9'
    'docker docker.io containerd runc'
    'podman podman conmon golang-github-containers-common libgpgme11 libassuan0 libsubid4'
    'zookeeper libzookeeper-java libslf4j-java libdropwizard-metrics-java libsnappy-java libcommons-cli-java'
)

# $cache/NAME/packages says which versions are there; new ones of the machine's release are unpacked anew.
unpack_debian_servers() {
    local server name packages package versions wanted
    # By the words, which no package's name breaks.
    versions=$(versions_of ${debian_servers[*]#* })
    for server in "${debian_servers[@]}"; do
        read -r name packages <<<"$server"
        wanted=$(for package in $packages; do grep "^$package " <<<"$versions"; done)
        [[ -f $cache/$name/packages && $(<"$cache/$name/packages") == "$wanted" ]] && continue

        mkdir "$work/$name"
        (cd "$work/$name" && apt-get --quiet --option APT::Sandbox::User=root download $packages)
        for package in "$work/$name"/*.deb; do
            dpkg --extract "$package" "$work/$name/unpacked"
        done
        echo "$wanted" >"$work/$name/unpacked/packages"
        keep "$work/$name/unpacked" "$name"
    done
}

# A line for each package: its name, and its version in the machine's release.
versions_of() {
    list_versions "$@" 2>/dev/null || { apt-get update --quiet >&2 && list_versions "$@"; }
}

list_versions() {
    apt-cache show --no-all-versions "$@" | awk '$1 == "Package:" { name = $2 } $1 == "Version:" { print name, $2 }'
}

# Consul left Debian after bullseye: a source list of its own, derived from the machine's, is read into a directory of
# its own.
install_consul() {
    [[ -d $cache/consul-1.8.7 ]] && return
    local at=$work/consul archive
    archive=$(debian_archive)
    [[ -n $archive ]] || { apt-get update --quiet && archive=$(debian_archive); }
    [[ -n $archive ]] || fail 'could not install Consul: no Debian archive among the package sources'

    local options=(
        --quiet
        --option "Dir::Etc::SourceList=$at/sources.list"
        --option Dir::Etc::SourceParts=-
        --option "Dir::State::Lists=$at/lists"
        --option "Dir::Cache=$at/cache"
        --option Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        --option Acquire::Languages=none
        # The directory is root's alone.
        --option APT::Sandbox::User=root
    )
    mkdir --parents "$at/lists/partial" "$at/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive bullseye main" >"$at/sources.list"
    apt-get "${options[@]}" update
    (cd "$at" && apt-get "${options[@]}" download 'consul=1.8.7*')
    dpkg --extract "$at"/consul_*.deb "$at/unpacked"
    keep "$at/unpacked" consul-1.8.7
}

debian_archive() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | awk 'NR == 1'
}
