# SPDX-License-Identifier: GPL-2.0
"""The pytest plugin: on the host it gives xdist guests as workers, in a guest it watches the kernel."""

from __future__ import annotations

import gc
import importlib

import pytest

from dmirror import environment, modules
from dmirror.errors import CannotRun

_PARTS = tuple(f"dmirror.plugin.{name}" for name in ("options", "markers", "fixtures", "scenarios", "logs"))
pytest.register_assert_rewrite(*_PARTS)


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Registers the parts. Those that pytest_plugins names are looked for among all that is installed, one by one."""
    for name in _PARTS:
        pluginmanager.register(importlib.import_module(name), name)


def pytest_collection_finish() -> None:
    """What there is now stays, and the collector need not write to it: after a fork each page that it touched was a
    copy, and an event of every mirror."""
    from dmirror.plugin import options  # noqa: PLC0415

    if options.in_guest():
        gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    from dmirror.plugin import options  # noqa: PLC0415

    try:
        environment.refuse_optimized()
    except CannotRun as error:
        pytest.exit(str(error), returncode=2)
    if options.in_guest():
        modules.wait()
        from dmirror.plugin import cover, splat, stall, transport  # noqa: PLC0415

        options.prepare_worker(config)
        config.pluginmanager.register(splat.KernelLog(), "dmirror-kernel-log")
        config.pluginmanager.register(stall.Stall(), "dmirror-stall")
        config.pluginmanager.register(cover.Collector(), "dmirror-cover")
        config.pluginmanager.register(transport.Transport(), "dmirror-transport")
    elif options.guests_wanted(config):
        # Imported here: a run without guests needs neither the kernel package nor the guests' start-up time.
        from dmirror.plugin import guests  # noqa: PLC0415

        guests.configure(config)
    elif options.device_present():
        from dmirror.plugin import splat  # noqa: PLC0415
        from dmirror.plugin.locks import Unwatched  # noqa: PLC0415

        config.pluginmanager.register(splat.KernelLog(only_device_tests=True), "dmirror-kernel-log")
        config.pluginmanager.register(Unwatched(), "dmirror-locks")
