# One image per process: --target control-plane, aggregator, distiller or agent. See docs/deploy-compose.md.
#
# Build arguments, all optional:
#   TORCH_INDEX_URL   the index that torch and torchvision alone come from; empty: pip's default, whose builds have CUDA
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_TRUSTED_HOST   as pip reads them
#   PYTHON_IMAGE   the image that all of them start from; for a release with its digest: NAME@sha256:...
#   VERSION, REVISION   for the labels
# PIP_FIND_LINKS=/wheels finds the wheels in deploy/wheels.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM $PYTHON_IMAGE AS base
# Volumes take over the owner of the folder that they are first mounted on.
RUN groupadd --gid 10001 fedafd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fedafd --shell /usr/sbin/nologin fedafd \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/fedafd /run/fedafd
ENV HOME=/var/lib/fedafd PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
STOPSIGNAL SIGTERM
ARG TORCH_INDEX_URL PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST

FROM scratch AS recipe
COPY locks /locks
COPY constraints.txt deploy/install-requirements.sh /
COPY deploy/wheels /wheels

# The package alone: a change of code makes this wheel and one small layer in each image, nothing else.
FROM base AS package
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked --mount=from=recipe,source=/wheels,target=/wheels \
    HOME=/root python -m pip wheel --quiet --no-deps --wheel-dir /wheel .

FROM base AS services
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=recipe,target=/build --mount=from=recipe,source=/wheels,target=/wheels \
    HOME=/root /build/install-requirements.sh services

# torch's layer depends on nothing but its own lock and pins, so that it is hardly ever made again.
FROM base AS torch-pins
COPY constraints.txt locks/torch.lock /
RUN grep -E '^torch(vision)?==' /constraints.txt > /torch.txt

# What agent and distiller share. What torch requires stands in their locks. An index of one's own has builds of other hashes,
# and its torchvision with its torch; pip's default has torchvision in the locks of agent and distiller.
FROM base AS learning
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=torch-pins,target=/pins --mount=from=recipe,source=/wheels,target=/wheels \
    export HOME=/root install="python -m pip install --quiet --no-deps" \
 && if [ -n "$TORCH_INDEX_URL" ]; then $install --index-url "$TORCH_INDEX_URL" --requirement /pins/torch.txt; \
    else $install --require-hashes --requirement /pins/torch.lock; fi
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=recipe,target=/build --mount=from=recipe,source=/wheels,target=/wheels \
    HOME=/root /build/install-requirements.sh agent

FROM learning AS distilling
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=recipe,target=/build --mount=from=recipe,source=/wheels,target=/wheels \
    HOME=/root /build/install-requirements.sh distiller

FROM services AS service
RUN --mount=from=package,source=/wheel,target=/wheel python -m pip install --quiet --no-index --no-deps --no-cache-dir /wheel/*.whl
USER 10001:10001
WORKDIR /var/lib/fedafd

FROM service AS control-plane
ENV FEDAFD_CONTROL_PLANE_HOST=0.0.0.0 FEDAFD_CONTROL_PLANE_PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=30s --start-period=180s --start-interval=3s --retries=3 \
    CMD ["fedafd", "health", "--timeout", "20", "http://127.0.0.1:8080/readyz"]
CMD ["fedafd", "control-plane"]
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="FedAFD control plane" \
      org.opencontainers.image.description="REST API and command line of a FedAFD federation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION

FROM service AS aggregator
ENV FEDAFD_AGGREGATOR_LISTEN=0.0.0.0:7443 FEDAFD_AGGREGATOR_METRICS_LISTEN=0.0.0.0:9090 \
    FEDAFD_AGGREGATOR_HEALTH_LISTEN=127.0.0.1:7445
EXPOSE 7443 9090
HEALTHCHECK --interval=15s --timeout=30s --start-period=180s --start-interval=3s --retries=3 \
    CMD ["fedafd", "health", "--timeout", "20", "grpc://127.0.0.1:7445"]
CMD ["fedafd", "aggregator"]
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="FedAFD aggregator" \
      org.opencontainers.image.description="gRPC service of a FedAFD federation: agents, rounds, uploads" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION

FROM distilling AS distiller
RUN --mount=from=package,source=/wheel,target=/wheel python -m pip install --quiet --no-index --no-deps --no-cache-dir /wheel/*.whl
RUN install -d -o 10001 -g 10001 -m 0700 /var/cache/fedafd
USER 10001:10001
WORKDIR /var/lib/fedafd
ENV FEDAFD_DISTILLER_CACHE_DIR=/var/cache/fedafd FEDAFD_DISTILLER_METRICS_LISTEN=0.0.0.0:9090
EXPOSE 9090
HEALTHCHECK --interval=15s --timeout=30s --start-period=180s --start-interval=3s --retries=3 \
    CMD ["fedafd", "health", "--timeout", "20", "http://127.0.0.1:9090/metrics"]
CMD ["fedafd", "distiller"]
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="FedAFD distiller" \
      org.opencontainers.image.description="GPU worker of a FedAFD federation: trains and distils the global model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION

FROM learning AS agent
RUN --mount=from=package,source=/wheel,target=/wheel python -m pip install --quiet --no-index --no-deps --no-cache-dir /wheel/*.whl
USER 10001:10001
WORKDIR /var/lib/fedafd
# An agent opens no port: its metrics are for this check, inside the container.
ENV FEDAFD_AGENT_CONFIG=/etc/fedafd/agent.yaml FEDAFD_AGENT_STATE_DIR=/var/lib/fedafd/state FEDAFD_AGENT_METRICS_PORT=9090
HEALTHCHECK --interval=15s --timeout=30s --start-period=180s --start-interval=3s --retries=3 \
    CMD ["fedafd", "health", "--timeout", "20", "http://127.0.0.1:9090/metrics"]
CMD ["fedafd", "agent", "run", "--config", "/etc/fedafd/agent.yaml"]
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="FedAFD agent" \
      org.opencontainers.image.description="A site's agent of a FedAFD federation: trains beside private data" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION
