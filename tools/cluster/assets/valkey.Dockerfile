# A small database for the tour's StatefulSet.
FROM debian:trixie-slim
LABEL dev.reservoir.image=valkey
RUN apt-get update \
    && apt-get install --yes --no-install-recommends valkey-server valkey-tools \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
