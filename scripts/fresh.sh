#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Tries HEAD as a new user would: sh scripts/fresh.sh SUITE [COMMAND], such as trixie or sid.
#
# Makes a root of that suite of Debian, clones HEAD into it and runs COMMAND there, or else the README's two commands.
# That is done as root and, in another fresh root, as a user with sudo; AS=root or AS=user does one of the two.
# What is mounted is mounted in a namespace of its own, so it is gone with the last process there, and nothing that is
# removed here can reach it. Exit status: 0 all passed, 1 a command failed, 2 could not run.
set -eu
export LC_ALL=C

refuse() {
	echo "fresh: $*" >&2
	exit 2
}

# enter ROOT USER COMMAND: its exit status
enter() {
	# The shell that is the first process there has the dead to bury, so it does not become the command.
	# shellcheck disable=SC2016 # that shell's own
	setpriv --pdeathsig KILL -- unshare --mount --pid --fork --kill-child sh -euc '
		mount --bind "$1" "$1"
		mount -t proc proc "$1/proc"
		mount --rbind /sys "$1/sys"
		mount --rbind /dev "$1/dev"
		status=0
		chroot "$1" runuser -l "$2" -c "$3" || status=$?
		exit $status
	' sh "$@" </dev/null &
	inside=$!
	status=0
	wait "$inside" || status=$?
	inside=
	return "$status"
}

# shellcheck disable=SC2317 # a trap reaches it
clean_up() {
	if [ -n "$inside" ]; then
		# The first process dies with unshare, and is not gone before all others of the namespace are.
		first=$(cat "/proc/$inside/task/$inside/children" 2>/dev/null || true)
		kill -KILL "$inside" 2>/dev/null || true
		first=${first%% *}
		tail --pid="${first:-$inside}" --follow /dev/null
	fi
	rm -rf --one-file-system "$work"
}

# What a process there is to know of the network here: the proxies, pip's index, whom to trust.
profile() {
	for name in index-url proxy trusted-host; do
		variable=PIP_$(echo "$name" | tr a-z- A-Z_)
		printenv "$variable" >/dev/null || {
			value=$(python3 -m pip config get "global.$name" 2>/dev/null) && export "$variable=$value"
		} || true
	done
	export PIP_CERT=/etc/ssl/certs/ca-certificates.crt
	export -p | grep -E '^export (https?_proxy|no_proxy|PIP_(INDEX_URL|PROXY|TRUSTED_HOST|CERT))=' || true
}

# unpack USER: a fresh root with a clone in that user's home
unpack() {
	mkdir "$work/root"
	tar -C "$work/root" -xf "$work/root.tar"
	cp -L /etc/resolv.conf "$work/root/etc/resolv.conf"
	echo "127.0.0.1 localhost $(uname -n)" >"$work/root/etc/hosts"
	mkdir -p "$work/root/usr/local/share/ca-certificates"
	find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$work/root/usr/local/share/ca-certificates" \;
	chroot "$work/root" update-ca-certificates >/dev/null 2>&1
	profile >"$work/root/etc/profile.d/fresh.sh"
	home=/root
	if [ "$1" != root ]; then
		chroot "$work/root" useradd --create-home --shell /bin/bash "$1"
		echo "$1 ALL=(ALL) NOPASSWD: ALL" >"$work/root/etc/sudoers.d/$1"
		home=/home/$1
	fi
	git clone --quiet --no-hardlinks . "$work/root$home/dmirror"
	chroot "$work/root" chown -R "$1:" "$home/dmirror"
}

# try USER COMMAND: adds a line to the account
try() {
	echo "fresh: $suite, $1: $2" >&2
	began=$(date +%s)
	status=0
	enter "$work/root" "$1" "cd dmirror && { $2
}" || status=$?
	took=$(($(date +%s) - began))
	echo "$suite, $1: $((took / 60)) min $((took % 60)) s, status $status: $2" >>"$work/account"
	[ "$status" = 0 ] || failed=1
}

[ $# = 1 ] || [ $# = 2 ] || refuse "type: sh scripts/fresh.sh SUITE [COMMAND], such as: sh scripts/fresh.sh trixie make"
suite=$1
case ${AS-root user} in
'root user' | root | user) users=${AS-root user} ;;
*) refuse "AS=$AS is neither root nor user" ;;
esac
[ "$(id -u)" = 0 ] || refuse "a root is made and entered by root: sudo sh scripts/fresh.sh $suite"
for package in mmdebstrap git; do
	command -v "$package" >/dev/null || refuse "no $package here, type: apt-get install --no-install-recommends $package"
done
cd "$(dirname "$0")/.."
# shellcheck disable=SC2016 # apt's own
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' | sed -n 's/^Debian //p' | head -n 1)
[ -n "$mirror" ] || refuse "apt is not set up with a Debian archive, or has not read it yet: apt-get update"

inside=
failed=0
work=$(mktemp -d "${TMPDIR:-/var/tmp}/dmirror-fresh.XXXXXX")
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A mirror that stands still is for ever past its date.
apt-config dump Acquire | grep -iE '::(proxy|check-valid-until|check-date)' >"$work/apt.conf" || true
echo "fresh: making a root of $suite" >&2
mmdebstrap --variant=minbase --include=ca-certificates,git,make,sudo --aptopt="$work/apt.conf" \
	"$suite" "$work/root.tar" "$mirror" >"$work/log" 2>&1 || refuse "no root of $suite: $(grep -m 1 '^E:' "$work/log")"
for user in $users; do
	unpack "$user"
	if [ $# = 2 ]; then
		try "$user" "$2"
	else
		try "$user" make
		try "$user" 'make test'
	fi
	rm -rf --one-file-system "$work/root"
done
cat "$work/account"
exit "$failed"
