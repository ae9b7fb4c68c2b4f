# shellcheck shell=bash
# Sourced by the scripts beside it: where the parts of the tests are kept, and how one is brought exactly once.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
parts=${CARILLON_PARTS:-$repository/.parts}

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

need() {
  local command
  for command; do
    command -v "$command" >/dev/null || die "$command is not installed: install it and try again"
  done
}

# Registries answer 5xx now and then.
three_times() {
  local attempt
  for attempt in 1 2 3; do
    if "$@"; then return; fi
    [ "$attempt" = 3 ] || sleep $((attempt * 3))
  done
  return 1
}

# with_lock NAME COMMAND...: one at a time on this machine. What COMMAND starts does not inherit the lock.
with_lock() (
  name=$1
  shift
  mkdir -p "$parts/locks"
  exec 9>"$parts/locks/$name"
  flock 9
  "$@" 9>&-
)

# bring_once FOLDER COMMAND...: fills $parts/FOLDER by COMMAND $parts/FOLDER, unless an earlier call did. The
# marker is written last, so a download cut off half-way is begun anew.
bring_once() {
  [ -e "$parts/$1/.complete" ] || with_lock "$1" fill "$@"
}

fill() {
  local folder=$parts/$1
  shift
  [ ! -e "$folder/.complete" ] || return 0
  rm -rf "$folder"
  mkdir -p "$folder"
  "$@" "$folder" >&2
  touch "$folder/.complete"
}
