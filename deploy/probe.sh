#!/bin/bash
# Checks that the carillon process in this container is ready: `probe PORT`. The slim image has bash, but no curl.
set -euo pipefail
port=${1:?usage: probe PORT}
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
IFS=' ' read -r -t 3 _ status _ <&3
[[ $status == 200 ]]
