#!/bin/bash
# Boot this machine's own systemd as process 1 of namespaces of its own, over this machine's files, which stay as they are.
# Usage, as root: machine.sh prepare|boot SRV. SRV becomes /srv/killable there; SRV/console.log gets what systemd says.
# `prepare` runs SRV/prepare.sh in it, with the network of this machine, and boots nothing.
set -euo pipefail
what=$1 srv=$2
if [[ ${IN_NAMESPACES:-} != yes ]]; then
  : > "$srv/console.log"
  export IN_NAMESPACES=yes
  if [[ $what == prepare ]]; then
    exec unshare --mount "$BASH" "$0" prepare "$srv"
  fi
  exec unshare --mount --pid --fork --kill-child --ipc --uts --net --cgroup "$BASH" "$0" boot "$srv"
fi

base=/run
mount --make-rprivate /
mount -t tmpfs tmpfs $base
mkdir $base/upper $base/work $base/root
mount -t overlay overlay -o lowerdir=/,upperdir=$base/upper,workdir=$base/work $base/root
cd $base/root
mkdir -p srv/killable
mount --bind "$srv" srv/killable
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
getent -s files passwd killable > /dev/null || echo 'killable:x:987:987::/srv/killable:/usr/sbin/nologin' >> etc/passwd
getent -s files group killable > /dev/null || echo 'killable:x:987:' >> etc/group
if [[ $what == prepare ]]; then
  exec chroot . /bin/bash /srv/killable/prepare.sh
fi

mount -t tmpfs tmpfs run
touch dev/console
mount --bind "$srv/console.log" dev/console
mount -t cgroup2 cgroup2 sys/fs/cgroup
# Nothing of this machine's own is started there.
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.service etc/fstab
ln -sf /usr/lib/systemd/system/basic.target etc/systemd/system/default.target
cp "$srv"/*.service etc/systemd/system/
: > etc/machine-id
ip link set lo up || true
exec chroot . /usr/bin/env -i container=killable PATH=/usr/bin:/usr/sbin:/bin:/sbin \
  /lib/systemd/systemd --system --log-target=console --show-status=1
