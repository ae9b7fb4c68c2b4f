# shellcheck shell=bash
# Sourced by the scripts in this folder. Parts are the programs and packages that the tests need. This file defines the
# folder of the parts, and functions that install a part exactly once.

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

# three_times COMMAND...: up to three attempts, because package registries sometimes answer 5xx.
three_times() {
  local attempt
  for attempt in 1 2 3; do
    if "$@"; then return; fi
    [ "$attempt" = 3 ] || sleep $((attempt * 3))
  done
  return 1
}

# with_lock NAME COMMAND...: runs COMMAND while no other process on this machine holds the lock. COMMAND's own child
# processes do not inherit the lock.
with_lock() (
  name=$1
  shift
  mkdir -p "$parts/locks"
  exec 9>"$parts/locks/$name"
  flock 9
  "$@" 9>&-
)

# bring_once FOLDER COMMAND...: fills $parts/FOLDER by running COMMAND $parts/FOLDER, unless an earlier call did. The
# marker `.complete` is written last, so an interrupted download starts over.
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
