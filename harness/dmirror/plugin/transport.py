# SPDX-License-Identifier: GPL-2.0
"""In a guest: what a test says and records reaches the host, whatever it is."""

from __future__ import annotations

import struct
import traceback
from collections.abc import Generator
from typing import Any

import execnet
import pytest

ERROR = "dmirror-error"
"""Of a worker's output: the error that its session ended with."""

# The second of an int below -2**31, the third of a text with half a surrogate pair.
_CANNOT_SEND = (execnet.DumpError, struct.error, UnicodeEncodeError)


class Transport:
    """Sends as text what execnet cannot send, which would end the worker. And sends an error of what is done at the
    session's end, which xdist's worker keeps to itself."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        for plugin in session.config.pluginmanager.get_plugins():
            if hasattr(plugin, "sendevent"):  # xdist's WorkerInteractor, of a module that has no name here
                self._send_always(plugin)

    @staticmethod
    def _send_always(interactor: Any) -> None:
        send = interactor.sendevent

        def sendevent(name: str, **details: object) -> None:
            try:
                send(name, **details)
            except Exception:  # of all of it, before any of it was sent; a worker may have a DumpError of its own
                send(name, **_sendable(details))

        interactor.sendevent = sendevent

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        try:
            return (yield)
        except BaseException:
            output: dict[str, str] = session.config.workeroutput  # type: ignore[attr-defined]
            output[ERROR] = traceback.format_exc()
            raise


def _sendable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_sendable(key): _sendable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(_sendable, value)]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    try:
        execnet.dumps(value)
    except _CANNOT_SEND:
        return str(value)
    return value
