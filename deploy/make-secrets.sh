#!/usr/bin/env bash
# Generates what docker-compose.yml mounts as secrets, into deploy/secrets (or the folder given), and names the folder in
# .env. What is there stays; remove the folder and the stack's volumes to begin anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-deploy/secrets}
mkdir -p "$folder"
# Containers run as users that this machine does not know, so the files are readable; the folder is not.
chmod 0700 "$folder"

secret() { # NAME [PREFIX]: a random secret, unless there is one
  [ -s "$folder/$1" ] || printf '%s%s\n' "${2:-}" "$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')" > "$folder/$1.part"
  [ ! -e "$folder/$1.part" ] || mv "$folder/$1.part" "$folder/$1"
}
derived() { # NAME CONTENT: follows from the secrets above
  printf '%s\n' "$2" > "$folder/$1.part" && mv "$folder/$1.part" "$folder/$1"
}
value() { cat "$folder/$1"; }

secret postgres_password
secret redis_password
secret minio_root_user fedafd-root-
secret minio_root_password
secret store_key_control_plane
secret store_key_aggregator
secret store_key_distiller
secret store_key_queries
secret internal_token
secret admin_key fedafd-key.
secret grafana_password
# The operator writes it, for a confidential client of an identity provider (deploy/compose/oidc.yml); empty for a public one.
[ -e "$folder/oidc_client_secret" ] || : > "$folder/oidc_client_secret"
derived database_url "postgresql://fedafd:$(value postgres_password)@postgres:5432/fedafd"
derived redis_url "redis://:$(value redis_password)@redis:6379/0"
derived redis_auth.conf "requirepass $(value redis_password)"
chmod 0444 "$folder"/*

if [ $# = 0 ]; then
  touch .env
  grep -q '^FEDAFD_SECRETS=' .env || echo "FEDAFD_SECRETS=./$folder" >> .env
fi
echo "secrets are in $folder; the first admin's API key is $folder/admin_key"
