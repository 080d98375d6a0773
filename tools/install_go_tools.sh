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
  [traefik]=github.com/traefik/traefik/v3@v3.6.12
)
# Of Prometheus's service discoveries only the one that deploy/compose/prometheus.yml uses: the others bring every cloud's SDK.
tags=remove_all_sd,enable_dns_sd
GATEWAY_API=sigs.k8s.io/gateway-api@v1.4.0   # what this Traefik is built with; its CRDs go into .tools/share

source_of() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

# `go install` refuses a module that replaces others, so this one is built as what it is: a program's own source.
# Without cgo, since the cluster test puts it into an image that holds nothing else.
build_traefik() {
  local crds
  CGO_ENABLED=0 go build -C "$(source_of "$1")" -trimpath \
    -ldflags "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=${1#*@v}" -o "$PWD/.tools/bin/traefik" ./cmd/traefik
  crds=$(source_of "$GATEWAY_API")/config/crd/standard
  mkdir -p .tools/share/gateway-api
  install -m 644 "$crds"/*.yaml .tools/share/gateway-api/
}

for name in "$@"; do
  module=${MODULES[$name]:-}
  [ -n "$module" ] || { echo "unknown program: $name; known: ${!MODULES[*]}" >&2; exit 2; }
  [ -x ".tools/bin/$name" ] && continue
  command -v go >/dev/null || { echo "$name is built with Go, which is not installed: install Go 1.26 or newer (go.dev/doc/install)" >&2; exit 1; }
  echo "building $name (minutes, the first time)"
  case "$name" in
    traefik) build_traefik "$module" ;;
    *) GOBIN="$PWD/.tools/bin" go install -ldflags '-s -w' -tags "$tags" "$module" ;;
  esac
done
