# SPDX-License-Identifier: GPL-2.0
"""Calls in threads of their own, and whether they sleep in the kernel."""

from __future__ import annotations

import os
import threading

import pytest

from dmirror import threads
from dmirror.threads import Task


def test_a_task_gives_what_its_function_returned() -> None:
    with Task(lambda a, b: (a + b, threading.get_native_id()), 1, 2) as task:
        assert task.result() == (3, task.tid)
    assert task.done
    assert task.result()[0] == 3


def test_a_task_raises_what_its_function_raised() -> None:
    with Task(int, "no number") as task:
        for _ in range(2):
            with pytest.raises(ValueError, match="no number"):
                task.result()


def test_an_error_that_nobody_asks_for_is_raised_at_the_end() -> None:
    with pytest.raises(ValueError, match="no number"), Task(int, "no number"):
        pass


def test_the_error_of_a_test_comes_first() -> None:
    with pytest.raises(ZeroDivisionError), Task(int, "no number"):
        raise ZeroDivisionError


def test_a_task_falls_asleep_in_the_kernel() -> None:
    reader, writer = os.pipe()
    with Task(os.read, reader, 1) as task:
        task.wait_asleep()
        assert not task.done
        os.write(writer, b".")
        assert task.result() == b"."


def test_a_thread_that_waits_for_another_of_the_interpreter_is_not_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.1)
    go = threading.Event()
    with Task(go.wait) as task:
        with pytest.raises(TimeoutError, match=f"in thread {task.tid} did not fall asleep"):
            task.wait_asleep()
        go.set()
        task.result()


def test_a_task_that_ends_does_not_fall_asleep() -> None:
    with Task(lambda: 1) as task, pytest.raises(RuntimeError, match="returned instead of falling asleep"):
        task.wait_asleep()
    with Task(int, "no number") as task:
        with pytest.raises(RuntimeError, match="raised ValueError"):
            task.wait_asleep()
        with pytest.raises(ValueError, match="no number"):
            task.result()


def test_a_task_that_does_not_end_is_said_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.1)
    reader, writer = os.pipe()
    with Task(os.read, reader, 1) as task:
        task.wait_asleep()
        with pytest.raises(TimeoutError, match="did not end within 0 s; it is asleep in state S, system call 0"):
            task.result()
        os.write(writer, b".")
        task.result()
