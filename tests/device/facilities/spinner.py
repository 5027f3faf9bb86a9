# SPDX-License-Identifier: GPL-2.0
"""A thread that loads or stores without a pause, by an entry of the TLB rather than a fault each time (x86-64)."""

import ctypes
import mmap
import platform

import pytest

from dmirror.memory import PAGE
from dmirror.threads import Task

# uint64_t f(uint64_t *word, struct { uint64_t stop, progress; } *control)
_STORES = bytes.fromhex(
    "488b07"  # mov (%rdi), %rax
    "483907"  # 1: cmp %rax, (%rdi)
    "7510"  # jne 2f
    "48ffc0"  # inc %rax
    "488907"  # mov %rax, (%rdi)
    "48894608"  # mov %rax, 8(%rsi)
    "833e00"  # cmpl $0, (%rsi)
    "74ec"  # je 1b
    "c3"  # ret
    "48f7d0c3"  # 2: not %rax; ret
)
_LOADS = bytes.fromhex(
    "488b07"  # mov (%rdi), %rax
    "483907"  # 1: cmp %rax, (%rdi)
    "750a"  # jne 2f
    "48ff4608"  # incq 8(%rsi)
    "833e00"  # cmpl $0, (%rsi)
    "74f2"  # je 1b
    "c3"  # ret
    "488b07c3"  # 2: mov (%rdi), %rax; ret
)


class _Control(ctypes.Structure):
    _fields_ = (("stop", ctypes.c_uint64), ("progress", ctypes.c_uint64))


class Spinner:
    """For a `with` block, entered before whatever may hold it up.

    One that `stores` counts up a word of a page from 0 and looks each time whether the last count is there; one that
    does not loads the word until it changes.
    """

    def __init__(self, span, page=0, index=1, *, stores=True):
        if platform.machine() != "x86_64":
            pytest.skip("the loop is machine code of x86-64")
        self._address = span[page].addr + 8 * index
        self._stores = stores
        if stores:
            span.store(0, page, index)
        code = _STORES if stores else _LOADS
        self._text = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._text.write(code)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._text))
        self._loop = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64)(start)
        self._control = _Control()
        self.task = Task(self._loop, self._address, ctypes.addressof(self._control))

    def __enter__(self):
        self.task.__enter__()
        return self

    def __exit__(self, *error):
        self._control.stop = 1
        self.task.__exit__(*error)

    @property
    def progress(self):
        """The last count that it stored, or how often it has loaded."""
        return self._control.progress

    def wait_going(self, more=1000):
        """Wait until it has gone that much further: what it does now it does by its TLB."""
        until = self.progress + more
        while self.progress < until:
            assert not self.task.done, "it has ended"

    def must_stand(self):
        """That it sleeps in a fault, and has not gone on since this was called, but for one step under way."""
        before = self.progress
        self.task.wait_asleep()
        assert self.progress - before <= 1, "it went on by an entry of the TLB that is no more"

    def stop(self):
        """What is there: the last count that it stored, or what it loads. Fails where a store was lost."""
        self._control.stop = 1
        return self.result()

    def result(self):
        """The same once it has ended by itself."""
        value = self.task.result()
        assert not self._stores or value >= 0, f"after the store of {~value} something else was there"
        return value & (1 << 64) - 1
