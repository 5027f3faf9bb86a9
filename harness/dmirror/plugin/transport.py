# SPDX-License-Identifier: GPL-2.0
"""In a guest: what a test records reaches the host, whatever it is."""

from __future__ import annotations

import struct
import traceback
from collections.abc import Generator
from typing import Any

import execnet
import pytest

ERROR = "dmirror-error"
"""Of a worker's output: the error that its session ended with."""


class Transport:
    """Sends as text the values of user properties that execnet cannot send: one of them would end the worker. And sends
    an error of what is done at the session's end, which xdist's worker keeps to itself."""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        try:
            return (yield)
        except Exception:
            output: dict[str, str] = session.config.workeroutput  # type: ignore[attr-defined]
            output[ERROR] = traceback.format_exc()
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
        data = yield
        if data is not None and "user_properties" in data:
            data["user_properties"] = [(name, _sendable(value)) for name, value in data["user_properties"]]
        return data


def _sendable(value: object) -> object:
    if isinstance(value, str):
        return value
    try:
        execnet.dumps(value)
    except (execnet.DumpError, struct.error):  # the latter of an int below -2**31
        return str(value)
    return value
