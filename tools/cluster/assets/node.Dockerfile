# A kind node: the steps of kind's own images/base/Dockerfile and node build, on a base made of Debian packages
# and with programs built from source. `context` has kind's files and the programs where they belong.
ARG BASE
FROM ${BASE}

COPY rootfs/ /

RUN chmod 0755 /usr/local/bin/* /kind/bin/* \
    && find /lib/systemd/system/sysinit.target.wants/ -name systemd-tmpfiles-setup.service -delete \
    && rm -f /lib/systemd/system/multi-user.target.wants/* \
    && rm -f /etc/systemd/system/*.wants/* \
    && rm -f /lib/systemd/system/local-fs.target.wants/* \
    && rm -f /lib/systemd/system/sockets.target.wants/*udev* \
    && rm -f /lib/systemd/system/sockets.target.wants/*initctl* \
    && rm -f /lib/systemd/system/basic.target.wants/* \
    && echo "ReadKMsg=no" >> /etc/systemd/journald.conf \
    && ln -sf /usr/lib/systemd/systemd /sbin/init \
    && systemctl enable kubelet.service containerd.service undo-mount-hacks.service pod-routes.service \
    && systemctl mask systemd-binfmt.service \
    && mkdir -p /etc/kubernetes/manifests /var/lib/reservoir

ARG PAUSE
ARG RESTRICT_OOM_SCORE
RUN sed -i \
        -e "s|sandbox_image = .*|sandbox_image = \"${PAUSE}\"|" \
        -e "s|restrict_oom_score_adj = .*|restrict_oom_score_adj = ${RESTRICT_OOM_SCORE}|" \
        /etc/containerd/config.toml \
    && ctr oci spec \
        | jq '.hooks.createContainer[.hooks.createContainer | length] |= . + {"path": "/kind/bin/mount-product-files.sh"} | del(.process.rlimits)' \
        > /etc/containerd/cri-base.json

# systemd's mark of a container, and the signal that ends systemd.
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT [ "/usr/local/bin/entrypoint", "/sbin/init" ]
