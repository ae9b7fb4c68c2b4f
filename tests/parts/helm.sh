#!/usr/bin/env bash
# Brings the helm binary that checks the chart, and prints its path.
#
#   helm.sh
#
# Uses the helm on the PATH if there is one, else builds a pinned one with go. CARILLON_PARTS says where parts
# are kept (default: .parts in the repository). Safe to run again, and several times at once.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

version=v3.22.0
folder=$parts/helm-$version

build() {
  if [ -x "$folder/helm" ]; then return; fi
  mkdir -p "$folder"
  echo "building helm $version, once, for a few minutes" >&2
  # Its work lies beside its result, so the binary appears by a rename: whole or not at all.
  GOBIN=$folder GOTMPDIR=$folder GOFLAGS=-trimpath CGO_ENABLED=0 \
    three_times go install -ldflags="-s -w" "helm.sh/helm/v3/cmd/helm@$version" >&2 ||
    die "go could not build helm $version (its message is above)"
}

if command -v helm; then exit 0; fi
if [ ! -x "$folder/helm" ]; then
  need flock go
  with_lock "helm-$version" build
fi
echo "$folder/helm"
