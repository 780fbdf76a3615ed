# What the tests need that Maven brings. Sourced by tests/run.

# The newest release, which the tests speak with by default.
install_eureka() {
    eureka_server 5.0.0 4.0.0
}

# The oldest; UNWAIT_TEST_EUREKA names its folder to the tests.
install_eureka_oldest() {
    eureka_server 4.3.0 3.5.0
}

# eureka_server VERSION BOOT: the server of Spring Cloud's starter in that version, with the Spring Boot that it was made
# for, into $cache/eureka-VERSION: jars/, and classes/ with the one class that starts it.
eureka_server() {
    local name=eureka-$1 at=$work/eureka-$1 sources=tests/install/eureka
    [[ -d $cache/$name ]] && return
    install_debian_packages maven openjdk-17-jdk-headless
    mvn --batch-mode --quiet -Dstyle.color=never --file "$sources/pom.xml" "-Deureka.version=$1" "-Dboot.version=$2" \
        "-Dmaven.repo.local=$work/maven" dependency:copy-dependencies "-DoutputDirectory=$at/jars" -DincludeScope=runtime
    javac -cp "$at/jars/*" -d "$at/classes" "$sources/EurekaServer.java"
    keep "$at" "$name"
}
