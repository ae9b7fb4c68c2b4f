#!/usr/bin/env bash
# Creates a Python environment with the packages of a requirements file, and prints the path of its python.
#
#   python.sh REQUIREMENTS
#
# There is one environment for each content of the file, in CARILLON_PARTS (default: .parts in the repository).
# Needs python3 with venv. Several calls may run at once.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

bring() {
  local folder=$1
  python3 -m venv "$folder" ||
    die "python3 cannot make an environment: install venv (Debian: apt-get install python3-venv)"
  three_times "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" ||
    die "pip could not install $requirements (its message is above)"
}

[ $# = 1 ] || die "usage: python.sh REQUIREMENTS"
requirements=$1
[ -f "$requirements" ] || die "no such file: $requirements"
need flock python3 sha256sum
fingerprint=$({ python3 --version; cat "$requirements"; } | sha256sum | cut -c 1-12)
bring_once "python-$fingerprint" bring
echo "$parts/python-$fingerprint/bin/python"
