# This machine's Rust toolchain on Debian, in place of Rust's own image.
FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
ENV CARGO_HOME=/usr/local/cargo
# The machine's certificates and cargo settings too, if it has any of its own: crates come the way they come here.
COPY machine/ /
COPY bin/ /usr/local/bin/
COPY lib/ /usr/local/lib/
RUN cargo --version && rustc --version
