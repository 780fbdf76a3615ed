#!/usr/bin/env bash
# Eureka takes a change by anybody for a heartbeat: a status override, its removal and a change of metadata each renew the
# lease of an instance that sends no heartbeat itself.
#
# Version: the Eureka server of Spring Cloud 5.0.0 (Spring Boot 4.0.0). Seen on 2026-11-30. After the override
# `lastRenewalTimestamp` lies some 90 s ahead: once renewed, it is the renewal plus the lease's duration.
#
# Why it matters to who drains a server: an instance that was killed stays in the list until its lease ends, 90 s after its
# last heartbeat by default. A tool that sets it OUT_OF_SERVICE, or takes that back, begins the 90 s anew, and whoever judges
# by `lastRenewalTimestamp` sees a living instance. A tool that repeats its override to hold a drain keeps a dead instance
# for ever. The time of the last heartbeat must be read before the first change.
#
# Needs: Maven, a JDK of 17 or later, python3. Listens on a free port of 127.0.0.1 alone, and ends what it starts. Ends with
# 0 where Eureka still does so.
set -euo pipefail

version=5.0.0 boot=4.0.0

work=$(mktemp --directory --tmpdir="$HOME" finding.XXXXXX)
pids=()
end() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm --recursive --force "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>eureka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencyManagement>
    <dependencies>
      <dependency>
        <groupId>org.springframework.boot</groupId>
        <artifactId>spring-boot-dependencies</artifactId>
        <version>$boot</version>
        <type>pom</type>
        <scope>import</scope>
      </dependency>
    </dependencies>
  </dependencyManagement>
  <dependencies>
    <dependency>
      <groupId>org.springframework.cloud</groupId>
      <artifactId>spring-cloud-starter-netflix-eureka-server</artifactId>
      <version>$version</version>
    </dependency>
  </dependencies>
</project>
POM
cat >"$work/Server.java" <<'JAVA'
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;

@EnableAutoConfiguration
@EnableEurekaServer
public class Server {
    public static void main(String[] arguments) {
        SpringApplication.run(Server.class, arguments);
    }
}
JAVA
mvn --batch-mode --quiet -Dstyle.color=never --file "$work/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$work/jars" \
    -DincludeScope=runtime
javac -cp "$work/jars/*" -d "$work/classes" "$work/Server.java"
echo "Eureka server of Spring Cloud $version: $(basename "$work"/jars/spring-cloud-netflix-eureka-server-*.jar)"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
java -Xmx384m "-Djava.io.tmpdir=$work" -cp "$work/classes:$work/jars/*" Server --server.address=127.0.0.1 \
    "--server.port=$port" --eureka.client.register-with-eureka=false --eureka.client.fetch-registry=false \
    >"$work/log" 2>&1 &
pids+=($!)

python3 - "http://127.0.0.1:$port/eureka/apps" <<'PYTHON' || { tail "$work/log" >&2; exit 1; }
import json, sys, time, urllib.error, urllib.request

apps = sys.argv[1]
instance = {
    "instanceId": "one", "app": "SHOP", "hostName": "127.0.0.1", "ipAddr": "127.0.0.1", "vipAddress": "shop",
    "status": "UP", "port": {"$": 1, "@enabled": "true"},
    "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90},
    "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
}

def ask(method, path, body=None):
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(apps + path, data, headers, method=method), timeout=10) as answer:
        return answer.read()

def renewed():
    """When the lease was renewed last, in milliseconds of the server's clock."""
    return json.loads(ask("GET", "/SHOP/one"))["instance"]["leaseInfo"]["lastRenewalTimestamp"]

deadline = time.monotonic() + 300
while True:
    try:
        ask("GET", "")
        break
    except OSError:
        if time.monotonic() > deadline:
            sys.exit("it did not start in time")
        time.sleep(0.5)

ask("POST", "/SHOP", {"instance": instance})
last = renewed()
# It sends no heartbeat from here on.
changed = []
for what, method, path in [
    ("read", "GET", "/SHOP/one"),
    ("metadata changed", "PUT", "/SHOP/one/metadata?release=2"),
    ("status overridden", "PUT", "/SHOP/one/status?value=OUT_OF_SERVICE"),
    ("override taken away", "DELETE", "/SHOP/one/status?value=UP"),
]:
    time.sleep(2)
    ask(method, path)
    now = renewed()
    print(f"{what:20} lastRenewalTimestamp {now - last:+5} ms")
    changed.append(now > last)
    last = now

if changed == [False, True, True, True]:
    print("still so: whatever is changed renews the lease")
else:
    sys.exit("this has changed")
PYTHON
