#!/usr/bin/env bash
# Builds the named programs, pinned, from the Go module proxy into .tools/bin; those that are there stay.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A MODULES=(
  [minio]=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
  [buf]=github.com/bufbuild/buf/cmd/buf@v1.75.0
  [helm]=helm.sh/helm/v3/cmd/helm@v3.22.0
  [kubeconform]=github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
  [promtool]=github.com/prometheus/prometheus/cmd/promtool@v0.316.0
  [prometheus]=github.com/prometheus/prometheus/cmd/prometheus@v0.316.0
  [grpcurl]=github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
)
# Of Prometheus's service discoveries only the one that deploy/compose/prometheus.yml uses: the others bring every cloud's SDK.
tags=remove_all_sd,enable_dns_sd
for name in "$@"; do
  module=${MODULES[$name]:-}
  [ -n "$module" ] || { echo "unknown program: $name; known: ${!MODULES[*]}" >&2; exit 2; }
  [ -x ".tools/bin/$name" ] && continue
  command -v go >/dev/null || { echo "$name is built with Go, which is not installed: install Go 1.26 or newer (go.dev/doc/install)" >&2; exit 1; }
  echo "building $name (minutes, the first time)"
  GOBIN="$PWD/.tools/bin" go install -ldflags '-s -w' -tags "$tags" "$module"
done
