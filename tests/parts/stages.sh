# shellcheck shell=bash
# Sourced by ./test. It runs stages, some of them beside others, and installs the parts (programs and packages that the
# tests need) at the same time. Each has its own log, process group and time limit. It shows the progress of the stage
# that it waits for, the summary of each stage when that has ended, and a table at the end.
#
# The caller sets `logs` and `scratch` (absolute folders) and `strict` (1: a missing part is a failure).
: "${logs:?}" "${scratch:?}" "${strict:?}"

rows=()
failures=0
skips=0
declare -A running                                            # the leaders of process groups that may still be running
declare -A stage_leader stage_begun stage_limit stage_summary # by the stage's name
declare -A part_leader part_begun part_value                  # by the part's name

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

# record NAME passed|failed|skipped|ready SECONDS NOTE
record() {
  local note=${4:+ ($4)}
  rows+=("$(printf '%-16s %-8s %5s  %s' "$1" "$2" "$3" "${4-}")")
  say "$1: $2${3:+ after $3 s}$note"
  case $2 in
    failed) failures=$((failures + 1)) ;;
    skipped) skips=$((skips + 1)) ;;
  esac
}

# spawn NAME OUTPUT COMMAND...: runs COMMAND in the background as the leader of a new process group, so that all its
# child processes can be stopped. Its stderr goes to NAME's log and its stdout to OUTPUT. The time of its end, in
# seconds since the start of the run, goes to a file. Sets `leader`.
spawn() {
  local name=$1 output=$2
  shift 2
  : >"$logs/$name.log"
  : >"$output"
  set -m
  (
    status=0
    "$@" </dev/null >>"$output" 2>>"$logs/$name.log" || status=$?
    echo "$SECONDS" >"$scratch/$name.ended"
    exit "$status"
  ) &
  leader=$!
  set +m
  running[$leader]=1
}

# seconds_of NAME BEGUN: how long it ran until its end, or, if it was stopped, until now.
seconds_of() { echo $(($(cat "$scratch/$1.ended" 2>/dev/null || echo "$SECONDS") - $2)); }

group_lives() { kill -0 -- "-$1" 2>/dev/null; }

# stop_groups LEADER...: sends SIGTERM to every process of these groups, and SIGKILL after five seconds.
stop_groups() {
  local leader deadline=$((SECONDS + 5))
  for leader; do kill -s TERM -- "-$leader" 2>/dev/null || true; done
  for leader; do
    while group_lives "$leader" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    kill -s KILL -- "-$leader" 2>/dev/null || true
  done
}

# last_line FILE: the last line, without colours and indentation, at most 90 characters.
last_line() { tail -n 1 "$1" 2>/dev/null | sed 's/\x1b\[[0-9;]*m//g; s/^[[:space:]]*//' | cut -c 1-90; }

# count_tests LOG: the sum of the tests that the runners report in a log: cargo, pytest, the chart's checks, and node.
# A Rust test whose part is missing prints SKIPPED and returns, and cargo counts it as passed.
count_tests() {
  awk '
    function before(word) { return match($0, "[0-9]+ " word) ? substr($0, RSTART) + 0 : 0 }
    /^test result:|^=+ .* in [0-9.]+s|^[0-9]+ passed/ {
      seen = 1; passed += before("passed"); failed += before("failed") + before("error")
      skipped += before("ignored") + before("skipped")
    }
    /^SKIPPED [^[]/ { passed -= 1; skipped += 1 }
    /^ℹ pass / { seen = 1; passed += $3 }
    /^ℹ fail / { failed += $3 }
    /^ℹ skipped / { skipped += $3 }
    END { if (seen) printf "%d passed, %d failed, %d skipped", passed, failed, skipped }' "$1"
}

# follow NAME LEADER BEGUN LIMIT: waits for the leader, shows progress every ten seconds, and stops the group after
# LIMIT seconds. Returns the leader's status, or 124 after the limit.
follow() {
  local name=$1 leader=$2 begun=$3 limit=$4 next=$((SECONDS + 10)) status=0
  # The process id of a stage that ended long ago may belong to another process by now.
  while [ ! -e "$scratch/$name.ended" ] && kill -0 "$leader" 2>/dev/null; do
    if [ $((SECONDS - begun)) -gt "$limit" ]; then
      echo "no end after $limit s: stopped" >>"$logs/$name.log"
      stop_groups "$leader"
      status=124
      break
    fi
    if [ "$SECONDS" -ge "$next" ]; then
      say "$name: $((SECONDS - begun)) s, $(last_line "$logs/$name.log")"
      next=$((SECONDS + 10))
    fi
    sleep 0.2
  done
  wait "$leader" 2>/dev/null || status=$((status == 124 ? 124 : $?))
  unset "running[$leader]"
  return "$status"
}

show_failure() {
  local log=$logs/$1.log
  if grep -q '^failures:$' "$log"; then
    # Cargo continues after a failure, so its report may be far above the end of the log.
    echo "---- failures in $log"
    sed -n '/^failures:$/,/^test result:/p' "$log" | tail -n 200
  fi
  echo "---- last lines of $log"
  tail -n 80 "$log"
  echo "----"
}

# ---- stages ---------------------------------------------------------------------------------------------------

# begin_stage NAME LIMIT_SECONDS SUMMARY COMMAND...: starts a stage, which runs beside everything else until it is
# finished. SUMMARY is the pattern of the log lines to show at its end.
begin_stage() {
  local name=$1 leader
  stage_begun[$name]=$SECONDS stage_limit[$name]=$2 stage_summary[$name]=$3
  shift 3
  say "$name: started"
  spawn "$name" "$logs/$name.log" "$@"
  stage_leader[$name]=$leader
}

# finish_stage NAME: waits for the end of a stage that has begun, if it has, and records its result.
finish_stage() {
  local name=$1 leader=${stage_leader[$1]-} took status=0
  [ -n "$leader" ] || return 0
  follow "$name" "$leader" "${stage_begun[$name]}" "${stage_limit[$name]}" || status=$?
  unset "stage_leader[$name]"
  if group_lives "$leader"; then
    say "$name: left processes behind, stopping them"
    stop_groups "$leader"
  fi
  took=$(seconds_of "$name" "${stage_begun[$name]}")
  grep -E "${stage_summary[$name]}" "$logs/$name.log" | sed 's/^/         /' || true
  if [ "$status" = 0 ]; then
    record "$name" passed "$took" "$(count_tests "$logs/$name.log")"
  else
    show_failure "$name"
    record "$name" failed "$took" "$(verdict "$name" "$status" "${stage_limit[$name]}")"
    return 1
  fi
}

# stage NAME LIMIT_SECONDS SUMMARY COMMAND...: begins a stage and finishes it.
stage() {
  begin_stage "$@"
  finish_stage "$1"
}

verdict() {
  local counts
  counts=$(count_tests "$logs/$1.log")
  case $2 in
    124) echo "no end after $3 s${counts:+: $counts}" ;;
    *) echo "exit code $2${counts:+: $counts}" ;;
  esac
}

skip() { record "$1" skipped "" "$2"; }

# ---- parts ----------------------------------------------------------------------------------------------------

# begin_part NAME COMMAND...: installs a part in the background. The last line that COMMAND prints is the part's value.
begin_part() {
  local name=$1 leader
  shift
  part_begun[$name]=$SECONDS
  spawn "$name" "$scratch/$name.value" "$@"
  part_leader[$name]=$leader
}

# finish_part NAME LIMIT_SECONDS: waits for the part. Then part_value[NAME] is its value; it is unset if the part is
# missing.
finish_part() {
  local name=$1 limit=$2 status=0 took
  [ -n "${part_leader[$name]-}" ] || return 0
  follow "$name" "${part_leader[$name]}" "${part_begun[$name]}" "$limit" || status=$?
  unset "part_leader[$name]"
  took=$(seconds_of "$name" "${part_begun[$name]}")
  if [ "$status" = 0 ]; then
    part_value[$name]=$(tail -n 1 "$scratch/$name.value")
    record "$name" ready "$took" "${part_value[$name]#"$PWD"/}"
  elif [ "$strict" = 1 ]; then
    show_failure "$name"
    record "$name" failed "$took" "$(last_line "$logs/$name.log")"
  else
    record "$name" skipped "$took" "$(last_line "$logs/$name.log")"
  fi
}

# ---- the end --------------------------------------------------------------------------------------------------

table() {
  [ ${#rows[@]} -gt 0 ] || return 0
  printf '\n%-16s %-8s %5s\n' stage result s
  printf '%s\n' "${rows[@]}"
  say "$failures failed, $skips skipped (logs: $logs)"
}

# stop_everything: stops all process groups at the end of the run.
stop_everything() { stop_groups "${!running[@]}"; }
