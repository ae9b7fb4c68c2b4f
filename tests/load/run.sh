#!/bin/sh
# Runs the load scenarios against a running server: AUTH_SECRET=… ./run.sh [http://host:port]. The exit code is 0 only
# if all scenarios passed. AUTH_SECRET is the server's secret, which signs the tokens of the Socket.IO clients.
set -eu
cd "$(dirname "$0")"
seconds_max=90
people=25

missing() {
    echo "load test not run: $1" >&2
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit "$status"
}

# run SCENARIO NAME [OPTION...]
run() {
    scenario=$1 name=$2
    shift 2
    timeout --kill-after=5 "$seconds_max" \
        node_modules/.bin/artillery run "$@" --output "results/$name.json" "$scenario" || status=1
}

status=0
command -v node >/dev/null || missing "node is missing"
[ -x node_modules/.bin/artillery ] || missing "artillery is missing: run PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci in $(pwd)"

base=${1:-ws://127.0.0.1:8000}
base=${base%/}
case $base in
    http://*) base=ws://${base#http://} ;;
    https://*) base=wss://${base#https://} ;;
esac

mkdir -p results
export ARTILLERY_DISABLE_TELEMETRY=true
run chat.yml chat --target "$base"

[ -n "${AUTH_SECRET:-}" ] || missing "set AUTH_SECRET to the server's secret for the Socket.IO clients"
for transport in websocket polling; do
    node tokens.cjs "$people" "load-$transport" >results/tokens.csv
    run socketio.yml "socketio-$transport" --target "http${base#ws}" --environment "$transport"
done
exit "$status"
