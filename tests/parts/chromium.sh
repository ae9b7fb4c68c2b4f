#!/usr/bin/env bash
# Finds the browser for the client tests, and prints its path.
#
#   chromium.sh
#
# An installed browser is used as it is. If there is none and this runs as root on Debian, apt-get installs chromium
# with one font, because pages cannot show text without a font.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

find_browser() {
  command -v chromium || command -v chromium-browser || command -v google-chrome
}

install_browser() {
  export DEBIAN_FRONTEND=noninteractive
  if find_browser >/dev/null; then return; fi
  three_times apt-get -q -o DPkg::Lock::Timeout=300 update >&2 || die "apt-get update failed (its message is above)"
  three_times apt-get -qy -o DPkg::Lock::Timeout=300 install --no-install-recommends chromium fonts-dejavu-core >&2 ||
    die "apt-get could not install chromium (its message is above)"
}

if find_browser; then exit 0; fi
[ "$(id -u)" = 0 ] || die "no chromium on the PATH, and only root can install it: apt-get install chromium fonts-dejavu-core"
need flock apt-get
with_lock chromium install_browser
find_browser || die "chromium is installed and still not on the PATH"
