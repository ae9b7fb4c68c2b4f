#!/usr/bin/env bash
# Starts and stops one real Apache Cassandra node on a loopback address, for tests that need a CQL database.
#
#   cassandra.sh jars                     download the jars and do nothing else
#   cassandra.sh start DATA_DIR PORT      start a node on DATA_DIR and wait until it answers CQL
#   cassandra.sh stop DATA_DIR [KILL]     stop it; KILL: by SIGKILL, as in a crash
#
# The data in DATA_DIR is kept, so a second start is a restart. DATA_DIR/cassandra.pid holds the process id.
# Needs Linux, JDK 17 or 11, and Maven for the first run. Environment, all optional:
#   CARILLON_PARTS              where the jars are kept (default: .parts in the repository)
#   CASSANDRA_SYNC              batch (default) or group: the commit log is synced before a write is answered;
#                               periodic: the database's default, with which kill -9 loses the last writes
#   CASSANDRA_FAST_SCHEMA       1: tables are created without a flush; KILL may then lose them
#   CASSANDRA_STORAGE_PORT      the port between nodes (default: PORT - 10000, or PORT + 10000 below 20000)
#   CASSANDRA_JAVA              the java to run (default: the first of version 17 or 11 that is found)
#   CASSANDRA_HEAP              the size of its heap (default 512M)
#   CASSANDRA_JVM_OPTIONS       additional java flags, separated by spaces
#   CASSANDRA_START_SECONDS     how long to wait for an answer (default 180)
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

version=5.0.9
host=127.0.0.1
library=$parts/cassandra-$version/lib

usage() {
  { echo "usage:"; sed -n '4,6s/^# *\(.*\)/  \1/p' "${BASH_SOURCE[0]}"; } >&2
  exit 2
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# ---- the jars -------------------------------------------------------------------------------------------------

bring_jars() {
  local folder=$1
  cat >"$folder/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>carillon.tests</groupId><artifactId>cassandra-node</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>$version</version>
  </dependency></dependencies>
</project>
POM
  # Strict checksums, so that a truncated jar is not kept.
  three_times mvn --batch-mode --quiet --strict-checksums -Dstyle.color=never --file "$folder/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$folder/lib" </dev/null ||
    die "Maven could not bring Cassandra $version (its message is above)"
  echo "cassandra $version: brought $(find "$folder/lib" -name '*.jar' | wc -l) jars, $(du -sm "$folder/lib" | cut -f1) MiB"
}

jars() {
  [ -e "$parts/cassandra-$version/.complete" ] || need mvn
  bring_once "cassandra-$version" bring_jars
}

# ---- the node's settings --------------------------------------------------------------------------------------

find_java() {
  local candidate
  for candidate in ${CASSANDRA_JAVA:+"$CASSANDRA_JAVA"} java "${JAVA_HOME:-}/bin/java" \
    /usr/lib/jvm/*17*/bin/java /usr/lib/jvm/*11*/bin/java; do
    command -v "$candidate" >/dev/null || continue
    case $("$candidate" -version 2>&1 | head -n 1) in
      *'"17'* | *'"11'*) echo "$candidate" && return ;;
    esac
  done
  die "found no JDK 17 or 11, and Cassandra 5.0 runs on no other: install one or set CASSANDRA_JAVA"
}

sync_settings() {
  case ${CASSANDRA_SYNC:-batch} in
    batch) echo "commitlog_sync: batch" ;;
    group) printf 'commitlog_sync: group\ncommitlog_sync_group_window: 5ms\n' ;;
    periodic) printf 'commitlog_sync: periodic\ncommitlog_sync_period: 10000ms\n' ;;
    *) die "CASSANDRA_SYNC is batch, group or periodic, not '$CASSANDRA_SYNC'" ;;
  esac
}

write_settings() {
  local sync
  sync=$(sync_settings)
  cat >"$data/conf/cassandra.yaml" <<YAML
cluster_name: carillon-tests
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
num_tokens: 1
initial_token: '0'
auto_bootstrap: false
endpoint_snitch: SimpleSnitch
dynamic_snitch: false
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{seeds: "$host:$storage_port"}]
listen_address: $host
storage_port: $storage_port
rpc_address: $host
start_native_transport: true
native_transport_port: $port
native_transport_max_threads: 64
data_file_directories: [$data/data]
commitlog_directory: $data/commitlog
saved_caches_directory: $data/saved_caches
hints_directory: $data/hints
cdc_raw_directory: $data/cdc_raw
$sync
commitlog_total_space: 256MiB
hinted_handoff_enabled: false
auto_snapshot: false
storage_compatibility_mode: NONE
# A test machine may stall for seconds; that is no finding about the code under test.
read_request_timeout: 10000ms
range_request_timeout: 20000ms
write_request_timeout: 10000ms
cas_contention_timeout: 5000ms
# One node among many processes: little memory, few threads.
key_cache_size: 16MiB
row_cache_size: 0MiB
counter_cache_size: 4MiB
file_cache_size: 32MiB
networking_cache_size: 16MiB
memtable_heap_space: 128MiB
memtable_offheap_space: 128MiB
memtable_allocation_type: offheap_objects
memtable_flush_writers: 1
concurrent_reads: 16
concurrent_writes: 32
concurrent_counter_writes: 16
concurrent_compactors: 1
# The batch limits of ScyllaDB, which are wider than Cassandra's.
batch_size_warn_threshold: 128KiB
batch_size_fail_threshold: 1024KiB
YAML
}

write_logging() {
  cat >"$data/conf/logback.xml" <<XML
<configuration>
  <statusListener class="ch.qos.logback.core.status.NopStatusListener"/>
  <appender name="FILE" class="ch.qos.logback.core.rolling.RollingFileAppender">
    <file>$data/logs/system.log</file>
    <rollingPolicy class="ch.qos.logback.core.rolling.FixedWindowRollingPolicy">
      <fileNamePattern>$data/logs/system.log.%i</fileNamePattern><minIndex>1</minIndex><maxIndex>2</maxIndex>
    </rollingPolicy>
    <triggeringPolicy class="ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy">
      <maxFileSize>20MB</maxFileSize>
    </triggeringPolicy>
    <encoder><pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="FILE"/></root>
</configuration>
XML
}

# Sets the array `flags`.
choose_flags() {
  local heap=${CASSANDRA_HEAP:-512M} package extra
  # Only the first JIT tier: the node starts faster, and a test node runs too briefly to gain from the second.
  flags=(-Xms"$heap" -Xmx"$heap" -XX:MaxDirectMemorySize=256M -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xss256k
    -XX:+PerfDisableSharedMem -XX:+ExitOnOutOfMemoryError -ea -da:net.openhft... -Dfile.encoding=UTF-8
    -Djava.net.preferIPv4Stack=true -Djdk.attach.allowAttachSelf=true -Djava.io.tmpdir="$data/tmp"
    -Djna.tmpdir="$data/tmp" -Dio.netty.tryReflectionSetAccessible=true -Dio.netty.eventLoopThreads=4)
  for package in java.base/jdk.internal.misc java.base/java.lang.ref java.rmi/sun.rmi.registry \
    java.rmi/sun.rmi.server java.management.rmi/com.sun.jmx.remote.internal.rmi java.sql/java.sql \
    jdk.unsupported/sun.misc jdk.compiler/com.sun.tools.javac.file jdk.attach/sun.tools.attach; do
    flags+=(--add-exports "$package=ALL-UNNAMED")
  done
  for package in java.base/java.{io,lang,lang.module,lang.reflect,util} java.base/sun.nio.ch \
    java.base/jdk.internal.{loader,math,module,ref,reflect,util.jar} \
    jdk.management/com.sun.management.internal jdk.compiler/com.sun.tools.javac; do
    flags+=(--add-opens "$package=ALL-UNNAMED")
  done
  flags+=("$(mark)" -Dcassandra.config="file://$data/conf/cassandra.yaml" -Dcassandra.logdir="$data/logs"
    -Dlogback.configurationFile="$data/conf/logback.xml" -Dcassandra.triggers_dir="$data/conf/triggers"
    -Dcassandra.libjemalloc=-)
  # A single node need not wait for other nodes.
  flags+=(-Dcassandra.ring_delay_ms=0 -Dcassandra.skip_wait_for_gossip_to_settle=0
    -Dcassandra.shutdown_announce_in_ms=0 -Dcassandra.consistent.rangemovement=false)
  [ "${CASSANDRA_FAST_SCHEMA:-0}" != 1 ] || flags+=(-Dcassandra.test.flush_local_schema_changes=false)
  read -r -a extra <<<"${CASSANDRA_JVM_OPTIONS:-}" || true
  flags+=("${extra[@]}")
}

# ---- the process ----------------------------------------------------------------------------------------------

# The flag that identifies the node of this data folder: the process id alone may have been reused.
mark() { echo "-Dcassandra.storagedir=$data"; }

running_pid() {
  local pid
  pid=$(cat "$data/cassandra.pid" 2>/dev/null) && [ -n "$pid" ] &&
    grep -qzxF -- "$(mark)" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# A killed process loses its command line at once, but frees its ports only when its last thread has ended. After that
# it may stay as a zombie until its parent collects it.
gone() { ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1"/task/*/status; }

listens() { (exec 3<>"/dev/tcp/$host/$1") 2>/dev/null; }

# A round trip in CQL: an OPTIONS frame of protocol version 4, which a ready node answers with SUPPORTED.
answers() {
  # shellcheck disable=SC2016  # the inner shell expands these
  listens "$port" && timeout 3 bash -c '
    exec 3<>"/dev/tcp/$0/$1" && printf "\x04\0\0\0\x05\0\0\0\0" >&3 &&
    [ "$(head -c 5 <&3 | od -An -tx1 | tr -d " \n")" = 8400000006 ]' "$host" "$port" 2>/dev/null
}

show_logs() {
  tail -n 15 "$data/logs/stdout.log" | cut -c 1-300
  # A file older than the process id's belongs to an earlier start.
  [ ! "$data/logs/system.log" -nt "$data/cassandra.pid" ] || tail -n 10 "$data/logs/system.log" | cut -c 1-300
}

give_up() {
  trap - INT TERM HUP
  local started=${!-}
  if [ -n "$started" ]; then
    kill -s KILL "$started" 2>/dev/null || true
    wait "$started" 2>/dev/null || true
  fi
  rm -f "$data/cassandra.pid"
  die "$* (logs: $data/logs)"
}

launch() {
  local java jamm classpath unlocked=() flags
  java=$(find_java)
  jamm=$(find "$library" -name 'jamm-*.jar')
  classpath=$(printf '%s:' "$library"/*.jar)
  mkdir -p "$data"/{conf/triggers,logs,tmp}
  write_settings
  write_logging
  choose_flags
  # As root, Cassandra may lock memory and then locks all of its own: 900 MiB resident instead of 400.
  if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    unlocked=(setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock --)
  fi
  MALLOC_ARENA_MAX=4 setsid "${unlocked[@]}" "$java" "${flags[@]}" -javaagent:"$jamm" -cp "${classpath%:}" \
    org.apache.cassandra.service.CassandraDaemon </dev/null >"$data/logs/stdout.log" 2>&1 8>&- &
  pid=$!
  echo "$pid" >"$data/cassandra.pid"
}

await_answer() {
  local seconds=${CASSANDRA_START_SECONDS:-180} begun_ms
  begun_ms=$(now_ms)
  until answers; do
    kill -0 "$pid" 2>/dev/null || { show_logs >&2; give_up "cassandra ended while it started"; }
    [ $(($(now_ms) - begun_ms)) -lt $((seconds * 1000)) ] ||
      { show_logs >&2; give_up "cassandra did not answer within $seconds s"; }
    sleep 0.2
  done
}

start() {
  local begun_ms pid busy storage_port
  begun_ms=$(now_ms)
  storage_port=$((port >= 20000 ? port - 10000 : port + 10000))
  storage_port=${CASSANDRA_STORAGE_PORT:-$storage_port}
  sync_settings >/dev/null
  mkdir -p "$data"
  exec 8>"$data/.start.lock"
  flock 8
  if pid=$(running_pid); then
    answers || die "process $pid has $data already and does not answer at $host:$port: stop it first"
    echo "cassandra $version is running: pid $pid, CQL at $host:$port"
    return
  fi
  for busy in "$port" "$storage_port"; do
    ! listens "$busy" || die "$host:$busy is in use: choose another port"
  done
  jars
  trap 'give_up interrupted' INT TERM HUP
  launch
  await_answer
  trap - INT TERM HUP
  echo "cassandra $version is ready: pid $pid, CQL at $host:$port, commit log ${CASSANDRA_SYNC:-batch}, after $(($(now_ms) - begun_ms)) ms"
}

stop() {
  local signal=$1 pid begun_ms
  begun_ms=$(now_ms)
  if ! pid=$(running_pid); then
    echo "cassandra is not running on $data"
    rm -f "$data/cassandra.pid"
    return
  fi
  kill -s "$signal" "$pid"
  until gone "$pid"; do
    if [ $(($(now_ms) - begun_ms)) -gt 30000 ]; then
      echo "cassandra $pid did not end within 30 s: killing it" >&2
      kill -s KILL "$pid"
      begun_ms=$(now_ms)
    fi
    sleep 0.1
  done
  rm -f "$data/cassandra.pid"
  echo "cassandra stopped: pid $pid"
}

need flock setsid timeout od
[ -d /proc/self ] || die "needs Linux: processes are told apart by /proc"
# An absolute path without symbolic links, of characters that have no special meaning in YAML or XML.
data=$(realpath -m -- "${2:-.}")
case $data in
  *[!A-Za-z0-9/._+-]*) die "DATA_DIR may hold only A-Z a-z 0-9 / . _ + -, not: $data" ;;
esac
case "$#:${1:-}" in
  1:jars) jars ;;
  3:start)
    port=$3
    case $port in
      '' | *[!0-9]*) die "PORT is a number, not '$port'" ;;
    esac
    start
    ;;
  2:stop | 3:stop)
    case ${3:-TERM} in
      TERM | KILL) stop "${3:-TERM}" ;;
      *) usage ;;
    esac
    ;;
  *) usage ;;
esac
