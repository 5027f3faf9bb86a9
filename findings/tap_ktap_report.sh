#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# tap.py: one thinks that it passes a report in which everything passed. The kernel's first line, KTAP version 1, and a
# comment after it are lines before the plan to it, and a plan after a line is an error.
. "$(dirname "$0")/lib.sh"
python_packages tap.py==3.2.1
# Documentation/dev-tools/ktap.rst
printf '%s\n' 'KTAP version 1' '# booted' '1..2' 'ok 1 one' 'ok 2 two' >kernel.tap
sed 1,2d kernel.tap >plain.tap
saw "status of a report in which all passed" 1 "$(status_of tappy kernel.tap)"
saw "what it says" "A plan must appear at the beginning or end of the file." "$(grep plan log)"
saw "status without its first two lines" 0 "$(status_of tappy plain.tap)"
