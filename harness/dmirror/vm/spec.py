# SPDX-License-Identifier: GPL-2.0
"""What a guest is: the description that is passed between processes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class GuestSpec:
    """What to boot. Passed between processes as JSON."""

    image: Path
    release: str
    modules: tuple[str, ...] = ()  # each an absolute path of a .ko followed by its parameters
    memory_mib: int = 4096
    cpus: int = 2
    append: str = ""  # more of the kernel's command line, after our own
    limit_s: int = 60  # from the start to the command
    kept: tuple[str, ...] = ()  # paths that stay visible even under /tmp, /var/tmp or /run, as the current folder does

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"image": os.fspath(self.image)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("modules", "kept")}
        return cls(**fields | lists | {"image": Path(fields["image"])})
