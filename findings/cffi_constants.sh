#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# cffi: one thinks that an enum in cdef() has the values that C gives it. A character constant is the character after the
# backslash, and U is dropped.
. "$(dirname "$0")/lib.sh"
python_packages cffi==2.1.1
cat >value.py <<'END'
import sys
from cffi import FFI

ffi = FFI()
ffi.cdef("enum e { VALUE = %s };" % sys.argv[1])
print(ffi.dlopen(None).VALUE)
END
saw "'A' (65 in C)" 65 "$(python value.py "'A'")"
saw "'\\n' (10 in C)" 110 "$(python value.py "'\\n'")"
saw "'\\0' (0 in C)" 48 "$(python value.py "'\\0'")"
saw "-1U (4294967295 in C)" -1 "$(python value.py "-1U")"
saw "-0x80000000 (2147483648 in C)" -2147483648 "$(python value.py "-0x80000000")"
