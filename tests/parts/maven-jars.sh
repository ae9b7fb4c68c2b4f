#!/usr/bin/env bash
# Downloads the jars that a pom.xml names, with their dependencies, and prints the folder that holds them.
#
#   maven-jars.sh POM
#
# There is one folder for each content of the file, in CARILLON_PARTS (default: .parts in the repository). Needs Maven
# and a JDK. Several calls may run at once.
set -euo pipefail
# shellcheck source=tests/parts/bring-once.sh
source "$(dirname "${BASH_SOURCE[0]}")/bring-once.sh"

bring() {
  local folder=$1
  # Strict checksums, so that a truncated jar is not kept.
  three_times mvn --batch-mode --quiet --strict-checksums -Dstyle.color=never --file "$pom" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$folder/lib" </dev/null ||
    die "Maven could not bring the jars of $pom (its message is above)"
}

[ $# = 1 ] || die "usage: maven-jars.sh POM"
pom=$1
[ -f "$pom" ] || die "no such file: $pom"
need flock sha256sum java javac
fingerprint=$(sha256sum <"$pom" | cut -c 1-12)
[ -e "$parts/jars-$fingerprint/.complete" ] || need mvn
bring_once "jars-$fingerprint" bring
echo "$parts/jars-$fingerprint/lib"
