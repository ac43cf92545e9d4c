#!/bin/bash
# Runs as init in the guest of `cargo xtask test --only initiator`: brings up Linux's iSCSI initiator, then does what the
# host asks for on the second serial port, a line of shell at a time, and answers with the output and `#END status`.
# The functions below are the host's vocabulary.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec </dev/null >/dev/ttyS0 2>&1
# Runs the rest until it succeeds, at most so many seconds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ $SECONDS -ge $end ]; then
            echo "not in time: $*"
            return 1
        fi
        sleep 0.2
    done
}

mount -o remount,rw /
mkdir -p /dev/pts /run/lock/iscsi /run/udev
mount -t devpts pts /dev/pts
dmesg -n 4
ip link set lo up
/lib/systemd/systemd-udevd --daemon
for module in virtio_net iscsi_tcp sd_mod sg dm_multipath dm_service_time xfs crc32c_intel nbd; do
    modprobe $module
done
within 10 ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0

iqn=iqn.2026-11.io.drystone

# The disk of a session: vDisk, portal, initiator (empty: any). Prints sda.
disk() {
    local session connection
    for session in /sys/class/iscsi_session/session*; do
        [ "$(cat $session/targetname)" = $iqn:$1 ] || continue
        [ -z "$3" ] || [ "$(cat $session/initiatorname)" = "$3" ] || continue
        connection=/sys/class/iscsi_connection/connection${session##*/session}:0
        [ "$(cat $connection/persistent_address):$(cat $connection/persistent_port)" = "$2" ] || continue
        ls $session/device/target*/*:0/block 2>/dev/null && return
    done
    return 1
}

# Logs in: vDisk, portal, interface.
login() {
    iscsiadm -m node -T $iqn:$1 -p $2 -I ${3:-default} -o new >/dev/null || return
    iscsiadm -m node -T $iqn:$1 -p $2 -I ${3:-default} --login
}

# A setting of a record, before its login: vDisk, portal, name, value.
setting() {
    iscsiadm -m node -T $iqn:$1 -p $2 -o update -n "$3" -v "$4"
}

sectors_are() {
    [ "$(cat /sys/block/$1/size)" = $2 ]
}

# Writes files and notes each one that was synced, until it is told to stop: folder.
writer() {
    local list=/run/synced-${1##*/} i=0
    : >$list
    while [ ! -e /run/stop ]; do
        i=$((i + 1))
        head -c $((RANDOM * 4 + 100)) /dev/urandom >/run/new-${1##*/}
        cp /run/new-${1##*/} $1/$i && sync $1/$i $1 || break
        (cd $1 && sha256sum </run/new-${1##*/} | sed "s/-/$i/" >>$list)
    done
    if [ ! -e /run/stop ]; then
        echo "$1: could not write $i"
    fi >/run/failed-${1##*/}
    echo stopped >>/run/failed-${1##*/}
}

# How many paths multipathd takes for good.
paths() {
    multipathd show paths raw format "%t %T" | grep -c "active ready"
}
paths_are() {
    [ "$(paths)" = $1 ]
}

exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo "#READY" >&3
while IFS= read -r line <&3; do
    said=$( (eval "$line") 2>&1 3<&-)
    status=$?
    [ -n "$said" ] && echo "$said" >&3
    echo "#END $status" >&3
done
