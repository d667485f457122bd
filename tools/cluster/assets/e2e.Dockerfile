# The pods of Kubernetes' storage tests, in place of its own images: tools of a shell, and agnhost.
FROM debian:trixie-slim
LABEL dev.reservoir.image=e2e
# The tests expect the shell of busybox: `let` in dash is no command, and a loop that counts with it never ends.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends busybox-static \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
    && ln --symbolic --force busybox /bin/sh
COPY agnhost /agnhost
ENTRYPOINT ["/agnhost"]
CMD ["pause"]
