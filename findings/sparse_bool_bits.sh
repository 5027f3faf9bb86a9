#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# sparse: one thinks that it lays out a struct as the compiler does, and that a failed assertion is a failure. Each bit-field
# of one _Bool has a byte of its own, '\377' is 255, and the status after an error is 0.
. "$(dirname "$0")/lib.sh"
debian_packages sparse=0.6.4-3
cat >bits.c <<'END'
struct bits { _Bool a:1, b:1, c:1, d:1; };
_Static_assert(sizeof(struct bits) == 1, "four bits");
_Static_assert('\377' == -1, "a char is signed");
END
command -v gcc >/dev/null || cannot "no gcc"
saw "status of gcc" 0 "$(status_of gcc -c -o bits.o bits.c)"
saw "status of sparse" 0 "$(status_of sparse bits.c)"
saw "its errors" 2 "$(grep -c 'error: static assertion failed' log)"
printf '%s\n' 'struct bits { _Bool a:1, b:1, c:1, d:1; };' '_Static_assert(sizeof(struct bits) == 4, "");' >four.c
saw "its errors with 4 bytes" 0 "$(sparse four.c 2>&1 | grep -c error)"
