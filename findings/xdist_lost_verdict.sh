#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# pytest-xdist: one thinks that a test that fails makes the run fail. With a property below -2**31 in the last test of a
# worker, which execnet cannot send (2**40 it can), its failure is lost, and the run has passed.
. "$(dirname "$0")/lib.sh"
python_packages pytest==9.2.0 pytest-xdist==3.8.0 execnet==2.1.2
cat >test_drift.py <<'END'
def test_first():
    pass

def test_last(record_property):
    record_property("drift_ns", -3_000_000_000)
    assert False
END
saw "status of two tests, of which one fails" 1 "$(status_of pytest -q -p no:cacheprovider test_drift.py)"
saw "with a worker" 0 "$(status_of pytest -q -n 1 -p no:cacheprovider test_drift.py)"
saw "its last line" "1 passed" "$(tail -n 1 log | sed 's/ in .*//')"
saw "in a line before" "INTERNALERROR" "$(grep -m 1 -o INTERNALERROR log)"
