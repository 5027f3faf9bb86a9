#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Kconfiglib: one thinks that it makes of a .config what the kernel's own tools do. What a y implies may be m since 5.7
# (Documentation/kbuild/kconfig-language.rst: "Y/m/n"); here it may not, and CONFIG_DRIVER=m becomes y without a word.
. "$(dirname "$0")/lib.sh"
python_packages kconfiglib==14.1.0
cat >Kconfig <<'END'
config MODULES
	bool "modules"
	option modules

config CORE
	bool "core"
	imply DRIVER

config DRIVER
	tristate "driver"
END
printf 'CONFIG_%s\n' MODULES=y CORE=y DRIVER=m >config
cat >load.py <<'END'
from kconfiglib import Kconfig

kconfig = Kconfig("Kconfig")
kconfig.load_config("config")
print(kconfig.syms["DRIVER"].str_value, [("n", "m", "y")[value] for value in kconfig.syms["DRIVER"].assignable])
END
saw "DRIVER=m, and what it may be" "y ['n', 'y']" "$(python load.py)"
