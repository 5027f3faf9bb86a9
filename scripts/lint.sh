#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Style and static checks: the Python package, the driver, the shell scripts. Stops at the first that complains.
set -eu
cd "$(dirname "$0")/.."

.venv/bin/ruff check harness tests
.venv/bin/ruff format --check harness tests
.venv/bin/mypy
shellcheck scripts/*.sh qemu/*.sh kmod/compat/*.sh .ci/run
shellcheck -x -P SCRIPTDIR findings/*.sh

# The kernel's own checks come with the kernel: source= and build= are folders of the newest one.
places=$(.venv/bin/dmirror build)
source=$(echo "$places" | sed -n 's/^source=//p')
build=$(echo "$places" | sed -n 's/^build=//p')

checkpatch() {
	ignored=$1
	shift
	"$source/scripts/checkpatch.pl" --no-tree --quiet --strict --show-types --ignore "$ignored" --file "$@"
}

# kzalloc_obj() is younger than most of the kernels.
# shellcheck disable=SC2046
checkpatch ALLOC_WITH_SIZEOF $(find kmod -maxdepth 1 -name "*.[ch]" ! -name trace.h) kmod/compat/compat.h
# User space has no BIT().
checkpatch BIT_MACRO kmod/uapi/*.h
# The macros of tracepoints have a layout of their own.
checkpatch COMPLEX_MACRO,MACRO_ARG_UNUSED,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT,TRAILING_SEMICOLON kmod/trace.h
# What it is there for.
checkpatch AVOID_BUG tests/bad/bad.c

# Without the second one the kernel leaves a sparse alone that does not know what C23 calls typeof_unqual.
flags="-D__CHECK_ENDIAN__ -D__typeof_unqual__=__typeof__"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r kmod/. tests/bad "$work"
said=$(
	make -s -C "$work" KDIR="$build" KCFLAGS=-Werror C=2 CF="$flags" 2>&1 &&
		make -s -C "$build" M="$work/bad" KCFLAGS=-Werror C=2 CF="$flags" modules 2>&1
) || {
	echo "$said"
	exit 1
}
# sparse only warns; what it says of the kernel's headers is the kernel's, as are the constants of MODULE_INFO().
if echo "$said" | grep -v "bad constant expression" | grep -E "^$work/[^:]*:[0-9]+:[0-9]+: (warning|error)|^[a-z]+\.[ch]:[0-9]+:[0-9]+: (warning|error)"; then
	exit 1
fi
echo "lint: clean"
