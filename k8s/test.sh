#!/usr/bin/env bash
# Checks the chart and the container files without a cluster or a container engine.
#
#   k8s/test.sh
#
# The last line is the count, as in `12 passed, 0 failed`. HELM may name the helm to use. Missing programs and packages
# are installed once, in the folder CARILLON_PARTS (default: .parts in the repository). If one cannot be installed, the
# reason is shown and its checks are skipped; with CI set this is a failure.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=$here/../tests/parts

missing() {
  if [ -n "${CI-}" ]; then
    printf 'FAILED  %s\n0 passed, 1 failed\n' "$1"
    exit 1
  fi
  printf 'skipped %s\n' "$1"
}

if ! python=$(nice -n 10 "$parts/python.sh" "$here/requirements.txt"); then
  missing "the checks of k8s/ and deploy/: their Python packages are missing"
  echo "0 passed, 0 failed"
  exit 0
fi
if [ -n "${HELM-}" ]; then
  helm=$(command -v "$HELM") || missing "the checks of the chart: HELM is '$HELM', which is no program"
else
  helm=$(nice -n 10 "$parts/helm.sh") || missing "the checks of the chart: helm is missing"
fi

exec env PYTHONDONTWRITEBYTECODE=1 HELM="$helm" "$python" "$here/checks"
