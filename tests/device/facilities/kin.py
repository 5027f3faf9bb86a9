# SPDX-License-Identifier: GPL-2.0
"""A parent and its child, each with a mirror of its own and a view of the same memory after fork(2)."""

import ctypes
import errno
import os

from dmirror.mirror import Mirror, MirrorError
from dmirror.process import Child


def store_is_refused(span, page=0):
    """Whether the kernel's own store for read(2) to the page faults for good; where it does not, it stores 0.

    It goes by the page table of this process as a store of a program does, but ends in EFAULT rather than a signal.
    A forked child is no witness of it: fork(2) write-protects what it copies.
    """
    with open("/dev/zero", "rb", buffering=0) as zero:
        try:
            os.readv(zero.fileno(), [(ctypes.c_char * 8).from_address(span[page].addr)])
        except OSError as error:
            assert error.errno == errno.EFAULT
            return True
    return False


def does(mirror, memory, verb, *words):
    """What either can be asked to do: `words` are a seed, and perhaps the first page and the page past the last."""
    if verb == "release":
        return mirror.release()
    if verb == "word":
        return memory.load(*words)
    part = memory[slice(*words[1:])] if len(words) > 1 else memory
    seed = words[0] if words else 0
    actions = {
        "cpu": lambda: part.fill(seed) and None,
        "device": lambda: mirror.write(part, seed) and None,
        "cpu-sees": lambda: part.matches(seed),
        "device-sees": lambda: mirror.read(part).data.matches(seed),
        "touch": part.touch,
        "device-reads": lambda: mirror.read(part) and None,
        "to-device": lambda: mirror.migrate(part).moved,
        "to-system": lambda: mirror.migrate_to_system(part),
        "exclusive": lambda: mirror.exclusive(part) and None,
        "states": lambda: {str(page) for page in mirror.snapshot(part)},
        "picture": lambda: mirror.snapshot(part).picture(),
        "writable": lambda: [page.writable for page in mirror.snapshot(part)],
        "frames": lambda: [page.pfn for page in mirror.page_info(part)],
        "mapped": lambda: sum(page.mapped != 0 for page in mirror.page_info(part)),
        "pagemap": part.pagemap,
        "prot": lambda: part.protect(seed),
        "advise": lambda: part.advise(seed),
        "unmap": part.unmap,
        "refused": lambda: store_is_refused(part),
    }
    return actions[verb]()


class Parent:
    """This process."""

    def __init__(self, mirror, memory):
        self.mirror, self.memory = mirror, memory

    def __call__(self, verb, *words):
        return does(self.mirror, self.memory, verb, *words)


class Offspring:
    """A forked process, for a `with` block, which opens a mirror of its own on `device` and does as it is asked.

    Asked to "fork" it does, and the "grandchild" says whether it finds a seed, and another once it has stored that.
    """

    def __init__(self, memory, device=0, inherited=None):
        """Asked to "close" it closes its descriptor of the mirror that it has `inherited`."""
        self._memory, self._device, self._inherited = memory, device, inherited

    def __enter__(self):
        self.child = Child(self._live)
        self.child.__enter__()
        self.child.line.receive()
        return self

    def __exit__(self, *error):
        self.child.__exit__(*error)

    def _live(self, line):
        with Mirror(self._device) as mirror:
            line.send()
            while (order := line.receive()) is not None:
                if order[0] == "close":
                    self._inherited.close()
                    line.send()
                    continue
                if order[0] == "fork":
                    grandchild = Child(self._live_on)
                    line.send()
                    continue
                if order[0] == "grandchild":
                    grandchild.line.send(order[1:])
                    line.send(grandchild.result())
                    continue
                try:
                    answer = does(mirror, self._memory, *order)
                except MirrorError as error:
                    answer = error.errno
                line.send(answer)

    def _live_on(self, line):
        """A child of the child: whether it finds one seed, and another when it has stored that."""
        found, store = line.receive()
        right = self._memory.matches(found)
        return right, self._memory.fill(store).matches(store)

    def __call__(self, verb, *words):
        self.child.line.send((verb, *words))
        return self.child.line.receive()

    def leave(self):
        """It closes its mirror, exits, and is gone."""
        self.child.line.send(None)
        self.child.result()
