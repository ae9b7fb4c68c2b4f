#!/bin/sh
# Runs a test program for cargo, which calls this as its runner, in the folder of the program's package.
#
#   test-runner.sh simulation|others PROGRAM [ARGUMENT]...
#
# With `simulation`, programs of tests/sim run and all others are skipped, with `others` the reverse. So the two runs
# together have every test once. They share one build, unlike runs that select packages, because those have other
# features of dependencies.
set -eu
selected=$1
shift

case $PWD in
  */tests/sim) kind=simulation ;;
  *) kind=others ;;
esac
case $selected in
  "$kind") ;;
  simulation | others) exit 0 ;;
  *) echo "test-runner.sh: simulation or others, not $selected" >&2 && exit 2 ;;
esac
case $PWD in
  # These tests hardly compute: they wait for processes that they have started.
  */tests) export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}" ;;
esac
exec "$@"
