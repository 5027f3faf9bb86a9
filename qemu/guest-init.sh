#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# The guest's first process: sets the guest up, loads the modules, runs one command, powers off.
#
# Called by the kernel as `guest-init.sh RUN_DIR init=...`: virtme-ng's own init follows "--" on the kernel's command
# line and so becomes an argument. RUN_DIR/set-up holds what differs from guest to guest, RUN_DIR/job the command.
# Everything is done by one static busybox: each dynamic program costs 0.1-0.3 s over 9p under emulation, and starting
# busybox 10 ms; what stands without $bb here, its shell does in a fork of itself.
# shellcheck shell=sh

run_dir=$1
qemu=${0%/*}
bb=/bin/busybox

say() { # on the console and, once the port is open, to the host
	echo "guest-init: $*" >/dev/kmsg
	[ -z "$ctl" ] || echo "fail $*" >&3
}

die() {
	say "$*"
	$bb poweroff -f
	exit 1
}

# must WHAT COMMAND...: a step without which tests would mean something else
must() {
	what=$1
	shift
	message=$("$@" 2>&1) || die "$what: ${message:-$* failed}"
}

# try COMMAND...: a step that some kernels are built without
try() { "$@" 2>/dev/null; }

put() { # put VALUE FILE
	{ echo "$1" >"$2"; } 2>&1
}

# -- file systems -----------------------------------------------------------------------------------------------
ctl=
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
[ -c /dev/kmsg ] || $bb mount -t devtmpfs devtmpfs /dev

# The ports are named by the host after the driver has bound them; a slow host may still be at it.
port() {
	tries=0
	while [ $tries -lt 500 ]; do
		for entry in /sys/class/virtio-ports/*; do
			[ -r "$entry/name" ] || continue
			read -r name <"$entry/name"
			if [ "$name" = "$1" ]; then
				echo "/dev/${entry##*/}"
				return
			fi
		done
		tries=$((tries + 1))
		$bb usleep 10000
	done
	return 1
}
ctl=$(port dmirror.ctl) || { ctl=; die "no virtio port named dmirror.ctl"; }
exec 3>"$ctl"

# The host's root is read-only. What stands under the folders that get a tmpfs is brought back by a bind from /mnt.
mkdir -p /dev/shm /dev/pts
must "mounts of $qemu/fstab" $bb mount -a -T "$qemu/fstab"
try $bb mount -a -T "/mnt$qemu/fstab.optional"
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
	[ -e "/dev/${link%%:*}" ] || ln -s "${link#*:}" "/dev/${link%%:*}"
done

keep() { # keep PATH: visible in the guest even if a tmpfs now covers it
	[ -e "$1" ] || [ ! -e "/mnt$1" ] && return
	if [ -d "/mnt$1" ]; then
		mkdir -p "$1"
	else
		mkdir -p "${1%/*}" && : >"$1"
	fi
	must "$1" $bb mount --bind "/mnt$1" "$1"
}

share() { # share PATH: the one folder of the host that the guest may write to
	mkdir -p "$1" 2>/dev/null
	must "shared folder $1" $bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 dmirror.run "$1"
}

# A disk image of the Python installation, laid over the same paths: an import over 9p costs ten times as much.
overlay_python() { # overlay_python PATH...: paths that the image holds
	mkdir -p /run/python
	if ! try $bb mount -t squashfs -o ro /dev/vda /run/python; then
		echo "guest-init: no squashfs in this kernel, Python comes over 9p" >/dev/kmsg
		return
	fi
	for path; do
		must "$path" $bb mount --bind "/run/python$path" "$path"
	done
}

module() { # module PATH PARAMETERS...
	must "insmod $1" $bb insmod "$@"
	# For gdb on the host; without KALLSYMS there are none. They have to be read in one go.
	name=${1##*/}
	(cd "/sys/module/${name%.ko}/sections" 2>/dev/null && $bb grep "" .[a-z]* >"$run_dir/sections-${name%.ko}" 2>/dev/null)
}

kernel_text() { # kernel_text FILE: where the kernel stands, for gdb on the host
	$bb grep -m 1 ' _text$' /proc/kallsyms >"$run_dir/$1"
}

# beside FIFO FUNCTION: runs it while the interpreter starts, which reads that until its end before it needs what is done
# here. The FIFO goes before its last writer does: who opens it has an end of file to come, who is late finds none.
beside() {
	must "$1" mkfifo "$1"
	exec 4<>"$1"
	{
		"$2"
		rm "$1"
	} &
	exec 4>&-
}

# says_where SECONDS: when the command has had so long, the console gets the tasks that cannot be interrupted and what
# each processor does. 9 lets both reach it, 6 is the guest's own.
says_where() {
	{
		$bb sleep "$1"
		for key in 9 w l 6; do
			put $key /proc/sysrq-trigger
		done
	} >/dev/null 3>&- &
}

# -- kernel settings --------------------------------------------------------------------------------------------
if [ -e /sys/fs/cgroup/cgroup.subtree_control ]; then
	put +memory /sys/fs/cgroup/cgroup.subtree_control >/dev/null
	mkdir /sys/fs/cgroup/dmirror-tests # the command's; what is charged to it is the tests' own
fi
for setting in kernel/hung_task_timeout_secs:20 kernel/hung_task_all_cpu_backtrace:1 kernel/sysrq:1 kernel/kptr_restrict:0; do
	file=/proc/sys/${setting%%:*}
	[ ! -w "$file" ] || put "${setting#*:}" "$file" >/dev/null
done
# Left to itself it puts together what a test has split or filled page by page; tests that want it wake it.
file=/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
[ ! -w $file ] || put 4294967295 $file >/dev/null
put guest /proc/sys/kernel/hostname >/dev/null
# A socket of a family that the kernel was built without has it look for a module, three times.
[ ! -d /proc/sys/net/ipv4 ] || $bb ip link set lo up

stdio=
# shellcheck source=/dev/null
. "/mnt$run_dir/set-up"
try $bb umount -l /mnt

# -- the command ------------------------------------------------------------------------------------------------
echo up >&3
if [ "$stdio" = ports ]; then
	in=$(port dmirror.in) || die "no virtio port named dmirror.in"
	out=$(port dmirror.out) || die "no virtio port named dmirror.out"
	err=$(port dmirror.err) || die "no virtio port named dmirror.err"
	$bb setsid $bb sh "$run_dir/job" <"$in" >"$out" 2>"$err" 3>&-
else
	# The console becomes the command's controlling terminal, so that Ctrl-C and job control work.
	$bb setsid -c $bb sh "$run_dir/job" <>/dev/ttyS0 >&0 2>&0 3>&-
fi
echo "exit $?" >&3
$bb poweroff -f
# Power-off is asynchronous to this process, and a first process that ends is a panic.
while :; do $bb sleep 1; done
