#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# gcov: one thinks that a function whose lines ran has run. At -O2, as kernels are built, small functions are inlined before
# the counters are placed: of a function that is called ten times, its line has ten and the function none.
. "$(dirname "$0")/lib.sh"
debian_packages gcc-12=12.2.0-14+deb12u1 cpp-12=12.2.0-14+deb12u1 libgcc-12-dev=12.2.0-14+deb12u1
cat >ten.c <<'END'
int twice(int x)
{
	return x * 2;
}

int main(void)
{
	int sum = 0;

	for (int i = 0; i < 10; i++)
		sum += twice(i);
	return sum != 90;
}
END
counts() {
	gcc-12 "$1" --coverage -o run ten.c
	./run
	gcov-12 --json-format --stdout run-ten.gcda | python3 -c '
import json, sys
found = json.load(sys.stdin)["files"][0]
function = next(one for one in found["functions"] if one["name"] == "twice")
line = next(one for one in found["lines"] if one["line_number"] == 3)
print("function", function["execution_count"], "line", line["count"])'
	rm run-ten.gc*
}
saw "-O0" "function 10 line 10" "$(counts -O0)"
saw "-O2" "function 0 line 10" "$(counts -O2)"
