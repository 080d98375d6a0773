#!/bin/bash
# Is MinIO ready to serve? The image has neither curl nor mc, but bash speaks enough HTTP.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/9000
printf 'GET /minio/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 12 _ status _ <&3
[ "$status" = 200 ]
