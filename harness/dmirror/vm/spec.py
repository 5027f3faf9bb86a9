# SPDX-License-Identifier: GPL-2.0
"""What a guest is: the description that is passed between processes."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import NamedTuple, Self

CPUS = 2
# With this much memory the last GiB below 7 GiB (3 of the GiB are below 4 GiB, or 2, the rest is above) is kept from
# the guest's kernel, and two devices get coherent memory in it.
MEMORY_MIB = 6144
_SET_ASIDE = "1G$0x180000000"
_PARAMETERS = "spm_addr_dev0=0x180000000 spm_addr_dev1=0x1a0000000"


DESCRIPTION = "guest.json"
"""In a guest's folder: its GuestSpec."""


class GuestSpec(NamedTuple):
    """What to boot. Passed between processes as JSON."""

    image: Path
    release: str
    modules: tuple[str, ...] = ()  # each an absolute path of a .ko followed by its parameters
    memory_mib: int = MEMORY_MIB  # less than this default: no coherent devices
    cpus: int = CPUS
    append: str = ""  # more of the kernel's command line, after our own
    kaslr: bool = False  # the kernel and its direct map stand elsewhere at each boot
    limit_s: float = 60  # from the start to the command, before it is multiplied by
    slowdown: float = 1.0  # how much longer everything may take on this kernel
    kept: tuple[str, ...] = ()  # paths that stay visible even under /tmp, /var/tmp or /run, as the current folder does

    @property
    def set_aside(self) -> str | None:
        """The value of the kernel's memmap= for the coherent devices' memory."""
        return _SET_ASIDE if self.memory_mib >= MEMORY_MIB else None

    @property
    def nodes_mib(self) -> tuple[int, int]:
        """Memory of the two NUMA nodes; what is set aside is of the second."""
        return self.memory_mib - self.memory_mib // 3, self.memory_mib // 3

    def to_json(self) -> str:
        return json.dumps(self._asdict() | {"image": os.fspath(self.image)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("modules", "kept")}
        return cls(**fields | lists | {"image": Path(fields["image"])})


def driver(module: Path, memory_mib: int) -> str:
    """An entry of GuestSpec.modules: ours or the tree's own driver, with coherent devices in a guest large enough."""
    words = [shlex.quote(os.fspath(module))]
    return " ".join([*words, _PARAMETERS] if memory_mib >= MEMORY_MIB else words)
