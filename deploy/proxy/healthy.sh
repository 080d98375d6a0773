#!/bin/bash
# Does the proxy answer? The image has no curl, but bash speaks enough HTTP.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/8404
printf 'GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 12 _ status _ <&3
[ "$status" = 200 ]
