#!/bin/bash
# Runs as init in the guest of `cargo xtask test --only guest`. What it prints on the serial console is read by the
# host, which is the judge: SYNCED says that a file and its name were synced, HAVE what is there after a restart.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
# The same root serves another step.
grep -q initiator=yes /proc/cmdline && exec /drystone-initiator
exec </dev/ttyS0 >/dev/ttyS0 2>&1
mount -o remount,rw /
dmesg -n 1

# Words of the kernel's command line: files=N (how many to write), then=check|reboot|wait.
files=0 then=check
for word in $(cat /proc/cmdline); do
    case $word in files=*) files=${word#files=} ;; then=*) then=${word#then=} ;; esac
done

mkdir -p /files
boots=$(($(cat /boots 2>/dev/null || echo 0) + 1))
echo $boots >/boots
sync /boots
echo "BOOT $boots"

have() {
    echo 3 >/proc/sys/vm/drop_caches
    for file in /files/*; do
        [ -f "$file" ] && echo "HAVE ${file##*/} $(sha256sum <"$file" | cut -c1-64)"
    done
    echo "CHECKED"
}

have
# A guest that rebooted by itself only checks.
if [ "$then" = reboot ] && [ $boots -gt 1 ]; then
    files=0 then=check
fi
for ((i = 1; i <= files; i++)); do
    name=$boots-$i
    head -c $((RANDOM * 24 + 100)) /dev/urandom >/run/new
    sum=$(sha256sum </run/new | cut -c1-64)
    if cp /run/new /files/$name && sync /files/$name /files; then
        echo "SYNCED $name $sum"
    else
        echo "FAILED $name"
    fi
done
if [ $files -gt 0 ]; then
    have
fi
echo "END $then"
case $then in
reboot) echo b >/proc/sysrq-trigger ;;
check) sync; echo o >/proc/sysrq-trigger ;;
esac
while :; do
    # Unsynced noise until the power is cut.
    head -c 300000 /dev/urandom >/noise
    sleep 0.2
done
