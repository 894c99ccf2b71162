#!/usr/bin/env bash
# Builds stand-ins for the official images of the engines and of Python, on a machine with a Docker engine and Debian's
# packages but without a registry. Needs mmdebstrap, and `make setup` done. Takes two to three minutes. `build.sh telemetry`
# adds Prometheus, from Debian, and an OpenTelemetry collector, compiled by Go (1.23 or newer) in some minutes more.
set -euo pipefail
cd "$(dirname "$0")"
python=../../.venv/bin/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if ! docker image inspect solmu-test/debian > /dev/null 2>&1; then
    echo "Making a base image of Debian 13 with Python 3.13 ..."
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,netbase,python3,python3-venv,tzdata \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --aptopt='Acquire::Languages "none"' \
        trixie "$folder/base.tar" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    docker import "$folder/base.tar" solmu-test/debian > /dev/null
    rm "$folder/base.tar"
fi
cp Dockerfile postgres-entrypoint.sh wget "$folder"
"$python" - "$folder" <<'PYTHON'
import asyncio
import shutil
import sys

from deploy.local import engines

for name, engine in (("nats-server", engines.nats(None)), ("envoy", engines.envoy(None))):
    shutil.copy(asyncio.run(engine).program, f"{sys.argv[1]}/{name}")
PYTHON
engines="postgres nats envoy"
if [ "${1:-}" = telemetry ]; then
    echo "Compiling the collector ..."
    cp collector.yaml "$folder"
    (cd "$folder" && CGO_ENABLED=0 go run go.opentelemetry.io/collector/cmd/builder@v0.119.0 --config collector.yaml)
    mv "$folder/built/otelcol" "$folder"
    engines="$engines prometheus collector"
fi
for engine in $engines; do
    echo "Building solmu-test/$engine ..."
    DOCKER_BUILDKIT=1 docker build --quiet --target "$engine" --tag "solmu-test/$engine" "$folder"
done
