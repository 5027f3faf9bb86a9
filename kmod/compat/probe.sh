#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Ask a kernel which form of each interface it has, by compiling compat/probes/
# against it, and write the answers to compat/probes.h.
#   sh compat/probe.sh KDIR
set -eu

kdir=$1
here=$(cd "$(dirname "$0")" && pwd)
header=$here/probes.h
log=$here/probes.log

key=$(cat "$0" "$here"/probes/* "$kdir/include/generated/autoconf.h" \
	"$kdir/include/config/kernel.release" "$kdir/Module.symvers" | cksum)
[ -f "$header" ] && grep -qxF "/* $key */" "$header" && exit 0

work=$(mktemp -d "${TMPDIR:-/tmp}/dmirror-probes.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
cp "$here"/probes/* "$work"
objects=$(cd "$work" && for f in *.c; do printf '%s ' "${f%.c}.o"; done)
# A probe that does not compile is an answer, so the failure of make is none.
# shellcheck disable=SC2086
make -C "$kdir" M="$work" -k -j2 $objects >"$log" 2>&1 || true

has() { [ -f "$work/$1.o" ]; }

broken() {
	echo "dmirror: compat/probes/$1.c does not compile against $kdir: $2;" \
		"see $log" >&2
	grep -m 3 -F "$1.c" "$log" | sed 's/^/  /' >&2 || true
	exit 1
}

has baseline || broken baseline \
	"this kernel lacks what every supported one has, or is not fully built"
# Interfaces of which a kernel has the new form or the old one: neither means a
# third form that compat.h does not know yet.
has folio_free || has page_free || broken folio_free "nor the older page_free"
has page_pgmap || has pgmap_in_page || broken page_pgmap "nor the older page->pgmap"
has init_order || has init_page || broken init_order "nor the older form"
has bulk_alloc || has bulk_array || broken bulk_alloc "nor the older alloc_pages_bulk_array()"
has exclusive_page || has exclusive_range || broken exclusive_page "nor the older range form"

{
	echo "/* SPDX-License-Identifier: GPL-2.0 */"
	echo "/* $key */"
	for probe in folio_free device_thp page_pgmap init_order exclusive_page \
		fault_unlocked bulk_alloc two_pass carried; do
		has "$probe" || continue
		echo "#define DMIRROR_HAVE_$(echo "$probe" | tr '[:lower:]' '[:upper:]') 1"
	done
} >"$header.new"
mv "$header.new" "$header"
