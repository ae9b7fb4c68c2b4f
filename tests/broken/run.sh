#!/usr/bin/env bash
# Breaks Carillon on purpose, in one way after another, and fails if the simulation does not notice. Each *.patch here
# removes one mechanism. Without that mechanism an acknowledged message can be lost, doubled or reordered.
#
#   run.sh [NAME]...     applies these patches, or all of them
#
# Works on a copy of the tree in the target directory, with a copy of the artifacts that are built already.
# CARGO_TARGET_DIR is the target directory (default: target). A patch that does not apply any more is a failure and must
# be made anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# If no scripted run notices a broken build, about half of the seeds do. A seed takes a few tenths of a second.
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

# Existing artifacts can be used for the copy, because their names depend only on paths within the workspace.
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

# The names of all patches. Those of proto are the last, because the build after such a patch builds every crate again.
all_patches() {
  cd "$patches"
  { grep -L '^+++ b/proto/' -- *.patch; grep -l '^+++ b/proto/' -- *.patch; } | sed 's/\.patch$//'
}

# The ceiling keeps git from finding the repository above, so that it changes the copy and not the original.
apply() { (cd "$source" && GIT_CEILING_DIRECTORIES=$work git apply "$@"); }

touch_patched() { sed -n 's,^+++ b/,,p' "$1" | (cd "$source" && xargs touch); }

# Builds the simulator. The selection of the whole workspace and of a test gives dependencies the same features as in
# the build of all tests, so that cargo builds no dependency again. The simulator is not optimized here: it is built for
# each patch, and few runs follow.
build() {
  (cd "$source" && CARGO_TARGET_DIR=$work/target cargo build --quiet --locked --workspace --bin sim --test seeds \
    --config 'profile.dev.package.carillon-sim.opt-level=0')
}

# judge NAME: returns 0 if the simulation catches the build with this patch.
judge() {
  local name=$1 log=$work/$1.log sim=$work/target/debug/sim
  apply "$patches/$name.patch" || { echo "$name: FAILED, the patch does not apply" && return 1; }
  touch_patched "$patches/$name.patch"
  if ! build >"$log" 2>&1; then
    tail -n 20 "$log"
    echo "$name: FAILED, it does not build"
    return 1
  fi
  local status=0
  "$sim" --scenarios >"$log" 2>&1 || status=$?
  [ "$status" != 0 ] || "$sim" --seeds "0..$seeds" >"$log" 2>&1 || status=$?
  # 1: a run failed, so the build is caught. 0: all runs passed. Any other status: nothing was judged.
  if [ "$status" != 1 ]; then
    echo "$name: FAILED, nothing was noticed (exit code $status)"
    return 1
  fi
  echo "$name: caught, $(tail -n 1 "$log")"
}

copy_tree
copy_artifacts
[ $# -gt 0 ] || set -- $(all_patches)
passed=0 failed=0
for name; do
  if judge "$name"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  if apply --reverse "$patches/$name.patch" 2>/dev/null; then touch_patched "$patches/$name.patch"; fi
done
rm -rf "$work"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
