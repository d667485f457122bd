# Reservoir: one binary for the controller, which runs as the image's user, and for the agent, which runs as root.
# tools/cluster, where no image can be pulled, makes the two base images from Debian packages under the same names.
ARG RUST=1.95
# The profile of Cargo.toml: release is what is shipped; image links in a fraction of the time, for tests and the demo.
ARG PROFILE=release

# The program's dependencies, built before its own sources: this layer changes with Cargo.lock only.
FROM rust:${RUST}-slim-trixie AS dependencies
ARG PROFILE
WORKDIR /build
# Line tables for every dependency would make the image twice as large and the build slower.
ENV CARGO_PROFILE_RELEASE_DEBUG=none
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto/ proto/
COPY tests/simulation/Cargo.toml tests/simulation/
COPY tools/cluster/Cargo.toml tools/cluster/
# Stand-ins for the sources. The other members of the workspace are not built, yet cargo wants to see them.
RUN mkdir -p src tools/cluster/src benches/node \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tools/cluster/src/lib.rs tests/simulation/simulation.rs tests/host_faults.rs benches/api.rs benches/node/main.rs \
    && cargo build --profile=${PROFILE} --locked --package reservoir --bin reservoir

FROM dependencies AS build
ARG PROFILE
LABEL dev.reservoir.image=build
COPY src/ src/
# cargo goes by the time of change, and the stand-ins are younger than the sources.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --profile=${PROFILE} --locked --package reservoir --bin reservoir \
    && cp target/${PROFILE}/reservoir reservoir

# Programs that make, check and grow the file systems of volumes, and logical volumes.
FROM debian:trixie-slim AS tools
RUN apt-get update \
    && apt-get install --yes --no-install-recommends e2fsprogs lvm2 xfsprogs \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin

# The programs with the libraries that they load, and nothing else: there is no shell, and no package manager.
FROM tools AS files
LABEL dev.reservoir.image=files
COPY --from=build /build/reservoir /usr/local/bin/reservoir
RUN mkdir /files \
    && for program in debugfs e2fsck e2image lvm mkfs.ext4 mkfs.xfs reservoir resize2fs; do \
         path=$(command -v $program) \
         && libraries=$(ldd $path | grep --only-matching '/[^ ]*') \
         && cp --dereference --parents --target-directory=/files $path $libraries || exit 1; \
       done \
    && cp --parents --target-directory=/files /etc/mke2fs.conf

FROM scratch
LABEL dev.reservoir.image=product
COPY --from=files /files/ /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/reservoir"]
