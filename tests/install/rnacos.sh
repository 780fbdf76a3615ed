# r-nacos, a server with the API of Nacos, which no package has: cargo builds it. Sourced by tests/run, for --releases alone.

rnacos_version=0.8.8

# It is only to run: 15 minutes of CPU so, more with what its author asks of the compiler.
install_rnacos() {
    local name=rnacos-$rnacos_version
    [[ -x $cache/$name/bin/rnacos ]] && return
    env --unset RUSTC_WORKSPACE_WRAPPER CARGO_TARGET_DIR="$work/rnacos-target" CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked --root "$work/$name" "rnacos@$rnacos_version" ||
        fail "could not build r-nacos $rnacos_version"
    keep "$work/$name" "$name"
}
