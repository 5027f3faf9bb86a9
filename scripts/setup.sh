#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Makes a machine ready: system packages, then .venv with everything that requirements.lock pins.
# Does nothing when that has been done. Exit status 2: not ready, said in one line with the mend.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C

stamp=.venv/.dmirror-stamp
wanted="$PWD $(cat pyproject.toml requirements.lock scripts/packages.txt | sha256sum)"

ready() {
	[ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]
}

refuse() {
	echo "dmirror: $*" >&2
	exit 2
}

# What installs packages here: the name of its column in packages.txt. Nothing where there is none of them.
find_manager() {
	for name in apt-get dnf pacman zypper; do
		if command -v "$name" >/dev/null; then
			echo "$name"
			return
		fi
	done
}

is_installed() {
	case $manager in
	apt-get) [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
	pacman) pacman -T "$1" >/dev/null 2>&1 ;;
	dnf | zypper) rpm --quiet --query --whatprovides "$1" 2>/dev/null ;;
	*) [ "$command" = - ] ;; # there is no way to ask for a header's package: the build will say
	esac
}

# The packages of packages.txt that are not installed and whose command is not found either.
missing_packages() {
	while read -r apt dnf pacman zypper command _; do
		case $apt in '' | '#'*) continue ;; esac
		case $manager in
		dnf) package=$dnf ;;
		pacman) package=$pacman ;;
		zypper) package=$zypper ;;
		*) package=$apt ;;
		esac
		[ "$package" != - ] || continue
		if [ "$command" != - ] && PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null; then
			continue
		fi
		is_installed "$package" && continue
		printf ' %s' "$package"
	done <scripts/packages.txt
}

# The command that installs packages and asks nothing, less their names.
installer() {
	case $manager in
	apt-get) echo 'apt-get install -y --no-install-recommends' ;;
	dnf) echo 'dnf install -y --setopt=install_weak_deps=False' ;;
	pacman) echo 'pacman -S --needed --noconfirm' ;;
	zypper) echo 'zypper --non-interactive install --no-recommends' ;;
	esac
}

# to_type SUDO PACKAGES: a line to copy
to_type() {
	[ "$manager" != apt-get ] || printf '%s' "${1}apt-get update && "
	echo "$1$(installer)$2"
}

install_packages() {
	if [ "$(id -u)" = 0 ]; then
		sudo=
	elif sudo -n true 2>/dev/null; then
		sudo='sudo -n'
	else
		refuse "packages are missing, type: $(to_type 'sudo ' "$1")"
	fi
	log=$(mktemp)
	echo "dmirror: installing$1" >&2
	# apt alone does not look by itself for what is new.
	# shellcheck disable=SC2046,SC2086 # lists of words, and no words
	if ! {
		{ [ "$manager" != apt-get ] || $sudo apt-get -q update; } &&
			$sudo env DEBIAN_FRONTEND=noninteractive $(installer) $1
	} </dev/null >"$log" 2>&1; then
		reason=$(grep -m 1 -iE '^(E|error):' "$log" || tail -n 1 "$log")
		rm -f "$log"
		refuse "$manager failed: $reason; type: $(to_type "${sudo:+sudo }" "$1")"
	fi
	rm -f "$log"
}

# The distribution's first: optimized and static, it takes half the time in a guest of one that pyenv built.
find_python() {
	usable='import ensurepip, os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(sys.version_info < (3, 11) or not os.path.exists(header))'
	for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
		if "$python" -c "$usable" 2>/dev/null; then
			command -v "$python"
			return
		fi
	done
}

# Measured on two cores, system packages of Debian.
say_cost() {
	here=170 # MB
	minutes=1
	[ -z "$missing" ] || here=1100 minutes=2
	kernel=
	[ -d "${DMIRROR_CACHE:-${HOME-}/.cache/dmirror}/kernels" ] ||
		kernel="; the first kernel then 6 min and 3 GB in ${DMIRROR_CACHE:-~/.cache/dmirror}"
	echo "dmirror: set-up takes $minutes min and $here MB$kernel" >&2
}

make_venv() {
	python=$(find_python)
	[ -n "$python" ] || refuse "no Python 3.11 or later with ensurepip and headers found; install one and put it on PATH as python3"
	echo "dmirror: installing Python packages into .venv" >&2
	log=$(mktemp)
	# Scripts in a virtual environment name its path: after a move it is made anew, and for another Python.
	place="$PWD $python"
	case "$(cat .venv/.dmirror-place 2>/dev/null)" in
	"$place") ;;
	*) rm -rf .venv/bin .venv/lib .venv/include .venv/pyvenv.cfg ;;
	esac
	if ! {
		"$python" -m venv .venv &&
			echo "$place" >.venv/.dmirror-place &&
			.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock &&
			.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
				--no-build-isolation --editable .
	} </dev/null >"$log" 2>&1; then
		# Out of reach, pip only says that there are no versions: what broke stands in its warnings.
		reason=$(grep -m 1 -oE 'No space left on device|Temporary failure in name resolution|Network is unreachable|Connection refused|certificate verify failed[^(]*' "$log" ||
			grep -m 1 -E '^(ERROR|Error):|ensurepip' "$log" || tail -n 1 "$log")
		rm -f "$log"
		refuse ".venv could not be made: $reason; check the network and the disk, and run this again"
	fi
	rm -f "$log"
	echo "$wanted" >"$stamp"
}

ready && exit 0

mkdir -p .venv
exec 9>.venv/.dmirror-lock
if command -v flock >/dev/null; then
	flock --nonblock 9 || {
		echo "dmirror: waiting for another set-up" >&2
		flock 9
	}
	ready && exit 0
fi

manager=$(find_manager)
missing=$(missing_packages)
say_cost
if [ -n "$missing" ]; then
	[ -n "$manager" ] || refuse "no apt-get, dnf, pacman or zypper here: install what these packages of Debian hold:$missing"
	install_packages "$missing"
fi
make_venv
