#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# capstone: one thinks that a disassembler knows how long an instruction is. ud1, by which kernels with UBSAN_TRAP say what
# was wrong, has an operand; capstone takes its first byte for the next instruction, and goes on from there.
. "$(dirname "$0")/lib.sh"
python_packages capstone==5.0.9 iced-x86==1.21.0
cat >decode.py <<'END'
import sys
import capstone
import iced_x86

code = bytes.fromhex("670fb94010" "55" "53" "5b" "5d" "c3")  # ud1 0x10(%eax), %eax; push; push; pop; pop; ret
if sys.argv[1] == "capstone":
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    print(", ".join(f"{one.mnemonic} {one.size}" for one in decoder.disasm(code, 0)))
else:
    names = {value: name for name, value in vars(iced_x86.Mnemonic).items() if isinstance(value, int)}
    print(", ".join(f"{names[one.mnemonic].lower()} {one.len}" for one in iced_x86.Decoder(64, code)))
END
saw "iced-x86, by length in bytes" "ud1 5, push 1, push 1, pop 1, pop 1, ret 1" "$(python decode.py iced)"
saw "capstone" "ud1 3, adc 4, pop 1, pop 1, ret 1" "$(python decode.py capstone)"
