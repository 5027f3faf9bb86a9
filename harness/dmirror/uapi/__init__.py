# SPDX-License-Identifier: GPL-2.0
"""The driver's interface as the compiler sees it: `ffi` and `lib` of the cffi extension."""

from __future__ import annotations

import importlib.util
from typing import Any

from dmirror.uapi import build


def _load() -> Any:
    target = next(build.ensure().glob(f"{build.MODULE}.*"))
    spec = importlib.util.spec_from_file_location(build.MODULE, target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_extension = _load()
ffi: Any = _extension.ffi
lib: Any = _extension.lib
