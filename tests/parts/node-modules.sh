#!/usr/bin/env bash
# Installs the npm packages of a folder exactly as in its package-lock.json, once for each content of that file.
#
#   node-modules.sh FOLDER
#
# Prints the folder that holds them. Needs node and npm. Several calls may run at once.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

install_packages() {
  if [ "$(cat "$marker" 2>/dev/null)" = "$fingerprint" ]; then return; fi
  cd "$folder"
  # Do not download browsers, because the tests use the system's. Do not send artillery's telemetry.
  PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 PUPPETEER_SKIP_DOWNLOAD=1 ARTILLERY_DISABLE_TELEMETRY=true \
    three_times npm ci --no-audit --no-fund --prefer-offline --loglevel=error >&2 ||
    die "npm could not install the packages of $folder (its message is above)"
  echo "$fingerprint" >"$marker"
}

[ $# = 1 ] || die "usage: node-modules.sh FOLDER"
need flock node npm sha256sum
folder=$(cd "$1" && pwd -P) || die "no such folder: $1"
[ -f "$folder/package-lock.json" ] || die "$folder has no package-lock.json: run npm install there once and commit it"
marker=$folder/node_modules/.installed
fingerprint=$({ node --version; cat "$folder/package-lock.json"; } | sha256sum | cut -c 1-12)
with_lock "node-modules-$(echo "$folder" | sha256sum | cut -c 1-12)" install_packages
echo "$folder/node_modules"
