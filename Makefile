# SPDX-License-Identifier: GPL-2.0
# What people type. Each target sets up what is missing and calls the dmirror command.
#
#   KERNEL=7.2       a known kernel (qemu/kernels.toml)    FLAVOUR=debug  another build of it
#   KDIR=~/linux     a kernel tree                         APPEND="..."   more of the kernel's command line
#   KBUILD=~/build   a built tree                          DRIVER=test_hmm  the tree's own driver
#   T=expression     a part of the tests (pytest -k)       TORTURE=1800   seconds for each torture test
#   SEED=N           where they begin, as a failure says   TIMES=50       how often each device test runs
#   RANDOM=N         the N-th random order of the tests    HTML=page.html contracts, matrix or report as a page
#   KERNELS=6.1,7.2  of a matrix; so FLAVOURS=, DRIVERS=   RESUME=1       go on with the last matrix, or that folder's
#   LLVM=1, CC=...   what compiles kernel and module        CONFIG="CONFIG_X=y CONFIG_Y=n"  over the flavour's
#   KASLR=1          kernel and direct map elsewhere at each boot
#   GUESTS=N         of a matrix, how many at once         JUNIT=r.xml    a report for CI; so KTAP=r.ktap
#   LIMIT=SECONDS    of demo, peer, bench: when the guest is ended that has not come to an end

DMIRROR := .venv/bin/dmirror
# Who keeps Python from writing bytecode has each session and each guest compile every module of it; who has it leave
# out assertions leaves out what tests are made of.
unexport PYTHONDONTWRITEBYTECODE PYTHONOPTIMIZE
export KERNEL KDIR KBUILD FLAVOUR APPEND DRIVER T TORTURE SEED TIMES RANDOM HTML KERNELS FLAVOURS DRIVERS GUESTS RESUME JUNIT KTAP LLVM KASLR CONFIG LIMIT

# A value reaches the command as one word, whatever is in it.
options = $(if $(KERNEL),--kernel "$$KERNEL") $(if $(KDIR),--kdir "$$KDIR") $(if $(KBUILD),--kbuild "$$KBUILD") \
	$(if $(FLAVOUR),--flavour "$$FLAVOUR") $(build)
build = $(foreach option,$(CONFIG),--config='$(subst ','\'',$(option))') $(if $(LLVM),--make "LLVM=$$LLVM") \
	$(if $(filter command line,$(origin CC)),--make 'CC=$(subst ','\'',$(CC))')
guest = $(options) $(if $(KASLR),--kaslr) $(if $(APPEND),--append="$$APPEND") $(if $(DRIVER),--driver "$$DRIVER")

limit = $(if $(LIMIT),--limit "$$LIMIT")

demo: setup
	@$(DMIRROR) demo $(guest) $(limit)

test: setup
	@$(DMIRROR) test $(guest) $(if $(T),-k "$$T") $(if $(TORTURE),--torture "$$TORTURE") \
		$(if $(SEED),--seed "$$SEED") $(if $(TIMES),--times "$$TIMES") $(if $(RANDOM),--random "$$RANDOM")

peer: setup
	@$(DMIRROR) peer $(guest) $(limit)

bench: setup
	@$(DMIRROR) bench $(guest) $(limit)

shell: setup
	@$(DMIRROR) shell $(guest)

contracts: setup
	@$(DMIRROR) contracts $(if $(HTML),--html "$$HTML")

report: setup
	@$(DMIRROR) report $(if $(HTML),--html "$$HTML") $(if $(JUNIT),--junit "$$JUNIT") $(if $(KTAP),--ktap "$$KTAP")

matrix: setup
	@$(DMIRROR) matrix $(build) $(if $(KERNELS),--kernels "$$KERNELS") $(if $(FLAVOURS),--flavours "$$FLAVOURS") \
		$(if $(DRIVERS),--drivers "$$DRIVERS") $(if $(T),-k "$$T") $(if $(GUESTS),--guests "$$GUESTS") \
		$(if $(RESUME),--resume $(if $(filter-out 1,$(RESUME)),"$$RESUME")) $(if $(HTML),--html "$$HTML") \
		$(if $(APPEND),--append="$$APPEND") $(if $(KASLR),--kaslr)

lint: setup
	@sh scripts/lint.sh

setup:
	@sh scripts/setup.sh

.PHONY: demo test peer bench shell contracts report matrix lint setup
.DEFAULT_GOAL := demo
