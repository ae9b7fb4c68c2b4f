#!/bin/sh
# Installs and runs all client tests: first in Node, then in Python. Without a part its tests are skipped visibly; in CI
# this fails.
set -eu
cd "$(dirname "$0")"
node_seconds_max=600
python_seconds_max=300
status=0

missing() {
    echo "client tests not run: $1" >&2
    if [ -n "${CI:-}" ]; then status=1; fi
}

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    missing "node and npm are missing"
else
    if ! cmp -s package-lock.json node_modules/.carillon-installed; then
        PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund
        cp package-lock.json node_modules/.carillon-installed
    fi
    timeout --kill-after=10 "$node_seconds_max" npm test || status=1
fi

if ! command -v python3 >/dev/null; then
    missing "python3 is missing"
else
    environment=${PYTHON_ENVIRONMENT:-../../target/python-clients}
    if ! cmp -s requirements.txt "$environment/installed"; then
        python3 -m venv "$environment"
        "$environment/bin/pip" install --quiet --requirement requirements.txt
        cp requirements.txt "$environment/installed"
    fi
    if [ -z "${CARILLON_TEST_JAVA_CLIENT:-}" ] && jars=$(../parts/maven-jars.sh java/pom.xml); then
        export CARILLON_TEST_JAVA_CLIENT="$jars"
    fi
    PYTHONDONTWRITEBYTECODE=1 timeout --kill-after=10 "$python_seconds_max" \
        "$environment/bin/python" -m pytest -q -rs -p no:cacheprovider . || status=1
fi
exit $status
