#!/usr/bin/env bash
# Breaks Carillon on purpose, one way after another, and fails if the simulation notices nothing: each *.patch here takes
# one mechanism away that nothing acknowledged is lost, doubled or reordered without.
#
#   run.sh [NAME]...     all of them, or those named
#
# Works on a copy of the tree in the target directory, with a copy of what is built already. CARGO_TARGET_DIR says where
# that is (default: target). A patch that does not apply any more is a failure: make it anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Where no scripted run notices, half of the seeds do; one takes a few tenths of a second.
seeds=20
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
work=$target/broken
source=$work/source
patches=$PWD/tests/broken

copy_tree() {
  rm -rf "$work"
  mkdir -p "$source"
  git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents --preserve=timestamps,mode -t "$source"
}

# What has been built is taken over; names of artifacts follow from paths within the workspace.
copy_artifacts() {
  [ -d "$target/debug/deps" ] || return 0
  mkdir -p "$work/target/debug"
  (
    cd "$target/debug"
    cp -a build .fingerprint "$work/target/debug/"
    find deps -maxdepth 1 -type f \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' -o -name '*.d' \) -print0 |
      xargs -0 cp -a --parents -t "$work/target/debug/"
  )
}

# In a folder that git takes for no repository, so that it changes files here and not in the one above.
apply() { (cd "$source" && GIT_CEILING_DIRECTORIES=$work git apply "$@"); }

touch_patched() { sed -n 's,^+++ b/,,p' "$1" | (cd "$source" && xargs touch); }

# judge NAME: 0 if the broken build was caught.
judge() {
  local name=$1 log=$work/$1.log sim=$work/target/debug/sim
  apply "$patches/$name.patch" || { echo "$name: FAILED, the patch does not apply" && return 1; }
  touch_patched "$patches/$name.patch"
  if ! (cd "$source" && CARGO_TARGET_DIR=$work/target cargo build --quiet --locked -p carillon-sim) >"$log" 2>&1; then
    tail -n 20 "$log"
    echo "$name: FAILED, it does not build"
    return 1
  fi
  local status=0
  "$sim" --scenarios >"$log" 2>&1 || status=$?
  [ "$status" != 0 ] || "$sim" --seeds "0..$seeds" >"$log" 2>&1 || status=$?
  # 1: a run failed. Anything else is no judgement.
  if [ "$status" != 1 ]; then
    echo "$name: FAILED, nothing was noticed (exit code $status)"
    return 1
  fi
  echo "$name: caught, $(tail -n 1 "$log")"
}

copy_tree
copy_artifacts
[ $# -gt 0 ] || set -- $(cd "$patches" && ls -- *.patch | sed 's/\.patch$//')
passed=0 failed=0
for name; do
  if judge "$name"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  if apply --reverse "$patches/$name.patch" 2>/dev/null; then touch_patched "$patches/$name.patch"; fi
done
rm -rf "$work"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
