#!/usr/bin/env bash
# Where two applications provide one interface, Dubbo's consumers heed the tag rule of one of the two at most.
#
# Version: Dubbo 3.3.6 on ZooKeeper 3.9.5, with their defaults. Seen on 2026-11-30.
#
# Why it matters to who drains a server: a tag rule is named by an application, and takes the addresses that it tags away from
# consumers that ask for no tag. While an interface moves from one application to another, both provide it for a time, and
# a provider of the second is tagged in vain, without a word of it anywhere: the rule stands in the registry as it should,
# and the calls go on. Which application's rule is heeded is nothing that a drain can choose: it is that of the provider that
# comes first in the consumer's list at the time, and sometimes neither is. A rule of the interface (`condition-router`) does not depend on it.
#
# Needs: Maven, a JDK of 17, iproute2, and a user who may make network namespaces (root). Everything runs in one of its own.
# Ends with 0 where Dubbo still does so.
set -euo pipefail

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
end() {
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

# copied NAME DEPENDENCY...: their jars into $work/NAME. A dependency is GROUP:ARTIFACT:VERSION, without what it logs by.
copied() {
    local name=$1 dependency group artifact version
    shift
    mkdir "$work/$name"
    {
        echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>finding</groupId>'
        echo "<artifactId>$name</artifactId><version>1</version><packaging>pom</packaging><dependencies>"
        for dependency in "$@"; do
            IFS=: read -r group artifact version <<<"$dependency"
            echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version>"
            echo '<exclusions><exclusion><groupId>ch.qos.logback</groupId><artifactId>*</artifactId></exclusion></exclusions>'
            echo '</dependency>'
        done
        echo '</dependencies></project>'
    } >"$work/$name/pom.xml"
    mvn --batch-mode --quiet -Dstyle.color=never --file "$work/$name/pom.xml" dependency:copy-dependencies \
        "-DoutputDirectory=$work/$name" -DincludeScope=runtime
}

copied dubbo org.apache.dubbo:dubbo:3.3.6 org.apache.curator:curator-x-discovery:5.9.0 \
    org.apache.zookeeper:zookeeper:3.9.5
copied zookeeper org.apache.zookeeper:zookeeper:3.9.5 io.dropwizard.metrics:metrics-core:4.1.12.1 \
    org.xerial.snappy:snappy-java:1.1.10.5

cat >"$work/Finding.java" <<'JAVA'
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;

/** `provide APPLICATION IP`, or `consume`. */
public class Finding {
    public interface Greeter {
        String who();
    }

    static final String SERVER = "127.0.0.1:2181";
    static final String[][] PROVIDERS = {{"one", "10.77.0.1"}, {"two", "10.77.0.2"}};

    public static void main(String[] args) throws Exception {
        ApplicationConfig application = new ApplicationConfig(args.length > 1 ? args[1] : "till");
        application.setQosEnable(false);
        DubboBootstrap bootstrap = DubboBootstrap.getInstance()
                .application(application)
                .registry(new RegistryConfig("zookeeper://" + SERVER));
        if (args[0].equals("provide")) {
            ProtocolConfig protocol = new ProtocolConfig("dubbo", 20880);
            protocol.setHost(args[2]);
            ServiceConfig<Greeter> service = new ServiceConfig<>();
            service.setInterface(Greeter.class);
            service.setRef(() -> args[1]);
            // In milliseconds: for minutes after its start a provider would be asked little.
            service.setWarmup(1);
            bootstrap.protocol(protocol).service(service).start();
            new CountDownLatch(1).await();
        }
        ReferenceConfig<Greeter> reference = new ReferenceConfig<>();
        reference.setInterface(Greeter.class);
        reference.setCheck(false);
        reference.setRetries(0);
        bootstrap.reference(reference).start();
        Greeter greeter = reference.get();

        long deadline = System.currentTimeMillis() + 120_000;
        Map<String, Integer> before = answers(greeter);
        while (!before.keySet().equals(new TreeMap<>(Map.of("one", 1, "two", 1)).keySet())) {
            if (System.currentTimeMillis() > deadline) {
                System.out.println("the two were not found in time: " + before);
                System.exit(1);
            }
            before = answers(greeter);
        }
        System.out.println("without a rule answer:                          " + before);

        ZooKeeper zookeeper = new ZooKeeper(SERVER, 30_000, event -> { });
        for (String[] provider : PROVIDERS) {
            write(zookeeper, "/dubbo/config/dubbo/" + provider[0] + ".tag-router", String.join("\n",
                    "force: false", "enabled: true", "runtime: true", "key: " + provider[0],
                    "tags:", "  - name: out", "    addresses: ['" + provider[1] + ":20880']", ""));
        }
        // Where one rule alone is written, the last call to who is tagged comes 0.2 s later.
        Thread.sleep(10_000);
        Map<String, Integer> after = answers(greeter);
        System.out.println("both tagged, each by its application's rule:    " + after);
        // Where both rules were heeded, nobody would be left.
        boolean someAnswer = before.keySet().containsAll(after.keySet());
        System.out.println(someAnswer ? "still so: in vain were tagged " + after.keySet() : "this has changed");
        System.exit(someAnswer ? 0 : 1);
    }

    /** Who answers 200 calls, and how often. */
    static Map<String, Integer> answers(Greeter greeter) throws InterruptedException {
        Map<String, Integer> answers = new TreeMap<>();
        for (int i = 0; i < 200; i++) {
            String who;
            try {
                who = greeter.who();
            } catch (Exception error) {
                who = "nobody";
            }
            answers.merge(who, 1, Integer::sum);
            Thread.sleep(5);
        }
        return answers;
    }

    static void write(ZooKeeper zookeeper, String path, String text) throws Exception {
        for (int at = path.indexOf('/', 1); at > 0; at = path.indexOf('/', at + 1)) {
            if (zookeeper.exists(path.substring(0, at), false) == null) {
                zookeeper.create(path.substring(0, at), null, ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            }
        }
        zookeeper.create(path, text.getBytes(), ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
    }
}
JAVA
javac -cp "$work/dubbo/*" -d "$work/classes" "$work/Finding.java"
printf 'dataDir=%s\nclientPortAddress=127.0.0.1\nclientPort=2181\nadmin.enableServer=false\n' "$work/data" >"$work/zoo.cfg"

# Dubbo takes no loopback address for its own, and where two share an address its rules mislead. All that is started ends
# with the first process of the namespace.
export work
unshare --net --pid --fork --kill-child bash -euo pipefail -c '
    ip link set lo up
    ip link add near type veth peer name far
    for address in 10.77.0.1 10.77.0.2 10.77.0.3; do
        ip address add "$address/24" dev near
    done
    ip link set near up
    ip link set far up
    small=(-Xmx96m -XX:+UseSerialGC -XX:TieredStopAtLevel=1)
    dubbo() {
        DUBBO_IP_TO_REGISTRY=$1 java "${small[@]}" -cp "$work/classes:$work/dubbo/*" Finding "${@:2}" 2>>"$work/log"
    }
    cd "$work"
    java "${small[@]}" -cp "zookeeper/*" org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg >>log 2>&1 &
    deadline=$((SECONDS + 60))
    until (: </dev/tcp/127.0.0.1/2181) 2>/dev/null; do
        ((SECONDS < deadline)) || { echo "ZooKeeper did not start in time"; exit 1; }
        sleep 0.2
    done
    dubbo 10.77.0.1 provide one 10.77.0.1 >>log &
    dubbo 10.77.0.2 provide two 10.77.0.2 >>log &
    dubbo 10.77.0.3 consume
' || { tail -n 5 "$work/log" >&2; exit 1; }
