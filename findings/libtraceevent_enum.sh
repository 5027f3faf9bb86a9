#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# libtraceevent (trace-cmd, perf): one thinks that a symbol it does not know is an error, or shown by its name. An enum in
# __print_symbolic() that the kernel did not translate (TRACE_DEFINE_ENUM) matches nothing, without a word.
. "$(dirname "$0")/lib.sh"
debian_packages libtraceevent1=1:1.7.1-1 libtraceevent-dev=1:1.7.1-1
saw "by number" "is TWO" "$(printed_event '"is %s", __print_symbolic(REC->state, { 1, "ONE" }, { 2, "TWO" })')"
saw "by enum" "is 0x2" "$(printed_event '"is %s", __print_symbolic(REC->state, { E_ONE, "ONE" }, { E_TWO, "TWO" })')"
