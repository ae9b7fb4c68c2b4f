#!/bin/sh
# Runs the load scenario against a running server: ./run.sh [ws://host:port]. Exit code 0 only if everything was answered.
set -eu
cd "$(dirname "$0")"
seconds_max=90

missing() {
    echo "load test not run: $1" >&2
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit 0
}
command -v node >/dev/null || missing "node is missing"
[ -x node_modules/.bin/artillery ] || missing "artillery is missing: run PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci in $(pwd)"

base=${1:-ws://127.0.0.1:8000}
case $base in
    http://*) base=ws://${base#http://} ;;
    https://*) base=wss://${base#https://} ;;
esac

mkdir -p results
export ARTILLERY_DISABLE_TELEMETRY=true
exec timeout --kill-after=5 "$seconds_max" \
    node_modules/.bin/artillery run --target "${base%/}" --output results/chat.json chat.yml
