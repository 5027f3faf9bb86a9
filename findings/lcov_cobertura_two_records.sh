#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# lcov_cobertura: one thinks that records of one file add up, as lcov writes one for each test name. The last one takes the
# place of those before it, while the totals have the lines of all.
. "$(dirname "$0")/lib.sh"
python_packages lcov_cobertura==2.1.1
cat >two.info <<'END'
TN:first
SF:mm/hmm.c
DA:1,3
DA:2,3
DA:3,0
LF:3
LH:2
end_of_record
TN:second
SF:mm/hmm.c
DA:1,0
DA:3,5
LF:2
LH:1
end_of_record
END
lcov_cobertura two.info -o two.xml
cat >read.py <<'END'
import xml.etree.ElementTree as tree

root = tree.parse("two.xml").getroot()
lines = {line.get("number"): line.get("hits") for line in root.iter("line")}
print(f"lines {lines}, of {root.get('lines-valid')} covered {root.get('lines-covered')}")
END
saw "three lines, of which all ran" \
	"lines {'1': '0', '3': '5'}, of 5 covered 3" "$(python read.py)"
