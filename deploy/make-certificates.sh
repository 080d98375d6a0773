#!/usr/bin/env bash
# Makes an authority of one's own and certificates that it signed, for deploy/compose/tls.yml, into deploy/secrets/tls (or
# the folder given). FEDAFD_TLS_NAMES adds names or addresses that sites call the machine by: "DNS:fed.example.org,IP:10.0.0.5".
# Safe to repeat: the authority stays, the certificates are made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-deploy/secrets/tls}
command -v openssl >/dev/null || { echo "openssl is needed: apt-get install openssl" >&2; exit 1; }
mkdir -p "$folder" && chmod 0700 "$(dirname "$folder")" "$folder"
key() { [ -s "$1" ] || openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

key "$folder/authority.key"
[ -s "$folder/tls_authority.pem" ] || openssl req -x509 -new -key "$folder/authority.key" -days 3650 -subj "/CN=FedAFD trial authority" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out "$folder/tls_authority.pem"

certificate() { # NAME SUBJECT-ALTERNATIVE-NAMES
  key "$folder/$1.key"
  rm -f "$folder/$1.crt"
  openssl req -new -key "$folder/$1.key" -subj "/CN=FedAFD ${1#tls_}" |
    openssl x509 -req -CA "$folder/tls_authority.pem" -CAkey "$folder/authority.key" -days 365 -out "$folder/$1.crt" \
      -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$2") 2>/dev/null
}
names="DNS:localhost,IP:127.0.0.1${FEDAFD_TLS_NAMES:+,$FEDAFD_TLS_NAMES}"
certificate tls_aggregator "DNS:aggregator,DNS:grpc,$names"
certificate tls_rest "DNS:control-plane,$names"
rm -f "$folder/tls_rest.pem"
cat "$folder/tls_rest.crt" "$folder/tls_rest.key" > "$folder/tls_rest.pem"
# Containers run as users that this machine does not know, so the files are readable; the folder is not.
chmod 0444 "$folder"/tls_*
chmod 0400 "$folder/authority.key"

if [ $# = 0 ]; then
  touch .env
  grep -q '^FEDAFD_TLS=' .env || echo "FEDAFD_TLS=./$folder" >> .env
fi
echo "certificates are in $folder; give tls_authority.pem to the sites"
