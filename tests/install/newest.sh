# Debian's newest release, as a root file system beside the machine's own, for `tests/run --releases`. Sourced by tests/run.
# What is built on the machine runs in it as it is: newer libraries know the older programs.

newest_packages=(systemd dbus iproute2 procps util-linux e2fsprogs tmux chromium-headless-shell redis-tools valkey-tools openssl php-cli php-redis busybox-static python3
    etcd-server haproxy nginx prometheus prometheus-alertmanager supervisor runit s6 docker.io docker-cli containerd runc podman conmon netavark
    default-jre-headless libzookeeper-java libslf4j-java libdropwizard-metrics-java libsnappy-java libcommons-cli-java)
newest=$cache/debian-sid

# Kept until it is deleted: `rm -r ~/.cache/unwait-tests/debian-sid` asks for the newest of today.
install_newest() {
    local asked="${newest_packages[*]}"
    [[ -f $newest/packages && $(<"$newest/packages") == "$asked" ]] && return
    install_debian_packages mmdebstrap
    # Nothing is started, and no documentation is kept. What is mounted meanwhile is in a namespace of its own, and goes with
    # it. A mirror may be older than its own date of expiry. Java's packages link to their manual pages, and end where the folder
    # is not there.
    unshare --mount --propagation private mmdebstrap --quiet --mode=root --variant=minbase --include="${asked// /,}" \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Sandbox::User "root"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --essential-hook='mkdir --parents "$1/usr/share/man/man1"' \
        sid "$work/newest" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_archive) sid main"
    echo "$asked" >"$work/newest/packages"
    keep "$work/newest" "$(basename "$newest")"
}

# on_newest COMMAND...: with that root, and with the machine's processes, network and cgroups. The clone, what is built,
# and the cache are where they are on the machine.
on_newest() {
    local place
    for place in alertmanager etcd haproxy nginx docker podman supervisor supervise prometheus zookeeper; do
        local -x "UNWAIT_TEST_${place^^}=/"
    done
    unshare --mount --propagation private bash -euo pipefail -c '
        root=$1 here=$PWD
        mount --bind "$root" "$root"
        for place in /dev /proc /sys; do
            mount --rbind "$place" "$root$place"
        done
        for place in /run /tmp; do
            mount -t tmpfs tmpfs "$root$place"
        done
        for place in "$here" "$2" "$3"; do
            mkdir --parents "$root$place"
            # Without what is mounted below: the cache holds the root itself.
            mount --bind "$place" "$root$place"
        done
        mkdir --parents "$root/machine"
        pivot_root "$root" "$root/machine"
        umount --lazy /machine
        cd "$here"
        exec "${@:4}"
    ' bash "$newest" "$built" "$cache" "$@"
}
