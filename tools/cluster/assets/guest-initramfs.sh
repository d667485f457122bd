#!/bin/busybox sh
# The first program of the guest's kernel: finds the root file system on the first virtio disk.
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module.ko"
done
/bin/busybox mount -t devtmpfs dev /dev
until [ -b /dev/vda ]; do /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /sbin/guest-init
