#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# pyelftools: one thinks that what reads 64-bit DWARF reads what gcc makes with -gdwarf64. There .debug_info is of 64 bits
# and the line table, which the assembler makes, of 32; each says so itself, but it takes the unit's for both.
. "$(dirname "$0")/lib.sh"
python_packages pyelftools==0.33
echo 'int one(void) { return 1; }' >one.c
cat >lines.py <<'END'
import sys
from elftools.elf.elffile import ELFFile

dwarf = ELFFile(open(sys.argv[1], "rb")).get_dwarf_info()
for unit in dwarf.iter_CUs():
    try:
        program = dwarf.line_program_for_CU(unit)
        print("a line table of", len([entry for entry in program.get_entries() if entry.state]), "entries")
    except Exception as error:
        print(type(error).__name__)
END
command -v gcc >/dev/null || cannot "no gcc"
gcc -gdwarf-5 -c -o 32.o one.c
gcc -gdwarf-5 -gdwarf64 -c -o 64.o one.c
gcc --version | head -n 1
saw "32 bits" "a line table of 4 entries" "$(python lines.py 32.o)"
saw "64 bits" "ELFParseError" "$(python lines.py 64.o)"
saw "64 bits, readelf" "one.c" "$(readelf --debug-dump=decodedline 64.o | grep -m 1 -o '^one.c')"
