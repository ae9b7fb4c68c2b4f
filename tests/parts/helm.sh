#!/usr/bin/env bash
# Provides the helm binary for the checks of the chart, and prints its path.
#
#   helm.sh
#
# Uses the helm on the PATH if there is one. Otherwise it builds a pinned version with go, in the folder CARILLON_PARTS
# (default: .parts in the repository). Several calls may run at once.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

version=v3.22.0
folder=$parts/helm-$version

build() {
  if [ -x "$folder/helm" ]; then return; fi
  mkdir -p "$folder"
  echo "building helm $version, once, for a few minutes" >&2
  # The temporary folder is on the same file system as the result, so the complete binary appears by a rename.
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
