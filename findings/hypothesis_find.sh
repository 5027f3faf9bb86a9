#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# hypothesis: one thinks that an exception in the condition of find() is raised to who called it. Where something simpler
# satisfies the condition, find() returns that, and what was raised on the way is gone.
. "$(dirname "$0")/lib.sh"
python_packages hypothesis==6.170.15
cat >find.py <<'END'
import random
from hypothesis import find, settings, strategies as st

raised = 0

def above_ten(number):
    global raised
    if number > 50:
        raised += 1
        raise ZeroDivisionError(number)
    return number > 10

found = find(st.integers(0, 100_000), above_ten, settings=settings(database=None), random=random.Random(1))
print(found, "found,", "raised on the way" if raised else "nothing raised")
END
saw "find()" "11 found, raised on the way" "$(python find.py)"
