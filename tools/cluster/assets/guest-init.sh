#!/bin/sh
# The guest's only service: runs /work/run, from the second virtio disk, and says on the console how that ended.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /work
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
exec </dev/null >/dev/hvc0 2>&1
modprobe -a loop dm-mod quota_v2
mount /dev/vdb /work
echo "guest: Linux $(uname -r) on $(nproc) processors"
/work/run
echo "guest: exit $?"
sync
exec busybox poweroff -f
