#!/bin/busybox sh
# The guest's only process of its own: mounts, loads modules, runs the tests, says how they ended.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
while read -r module; do
    modprobe "$module" 2>/dev/null || echo "absent: $module"
done </modules
ip link set lo up
echo "kernel: $(uname -r)"
for test in /tests/*; do
    # One is about names alone, and costs a load of the programs.
    RUST_BACKTRACE=0 "$test" --test-threads 1 --show-output \
        --skip an_interface_that_is_not_there_is_named 2>&1
    echo "exit: $(basename "$test") $?"
done
echo "uptime: $(cut -d ' ' -f 1 /proc/uptime)"
echo "over"
reboot -f
