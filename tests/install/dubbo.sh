# Dubbo and a ZooKeeper newer than Debian's, which Maven brings. Sourced by tests/run.

# The jars of each POM in tests/install/dubbo, into $cache by the POM's name, which has the version.
install_dubbo() {
    local pom name
    for pom in tests/install/dubbo/*.xml; do
        name=$(basename "$pom" .xml)
        [[ -d $cache/$name ]] && continue
        install_debian_packages maven openjdk-17-jdk-headless
        mvn --batch-mode --quiet -Dstyle.color=never --file "$pom" "-Dmaven.repo.local=$work/maven" \
            dependency:copy-dependencies "-DoutputDirectory=$work/$name" -DincludeScope=runtime
        keep "$work/$name" "$name"
    done
    # The tests compile what calls and is called.
    install_debian_packages openjdk-17-jdk-headless
}
