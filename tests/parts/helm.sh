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

bring() {
  local folder=$1
  GOBIN=$folder GOFLAGS=-trimpath GOTOOLCHAIN=auto CGO_ENABLED=0 \
    three_times go install -ldflags="-s -w" "helm.sh/helm/v3/cmd/helm@$version" ||
    die "go could not build helm $version (its message is above)"
  "$folder/helm" version --short
}

if command -v helm; then exit 0; fi
need flock go
bring_once "helm-$version" bring
echo "$parts/helm-$version/helm"
