#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# libtraceevent (trace-cmd, perf): one thinks that an int of -12 in a record is -12 in what its format computes. A field of
# four bytes is not sign-extended: it is printed right by itself, and is 4294967284 in every comparison and calculation.
. "$(dirname "$0")/lib.sh"
debian_packages libtraceevent1=1:1.7.1-1 libtraceevent-dev=1:1.7.1-1
saw "REC->error" "-12" "$(printed_event '"%d", REC->error')"
saw "REC->error < 0" "no" "$(printed_event '"%s", REC->error < 0 ? "yes" : "no"')"
saw "REC->error == -12" "0" "$(printed_event '"%d", REC->error == -12')"
saw "REC->error / 2" "2147483642" "$(printed_event '"%d", REC->error / 2')"
saw "__print_symbolic(REC->error, { -12, \"ENOMEM\" })" "0xfffffff4" \
	"$(printed_event '"%s", __print_symbolic(REC->error, { -12, "ENOMEM" })')"
