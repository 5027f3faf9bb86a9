# SPDX-License-Identifier: GPL-2.0
"""The interpreter of a guest maps nothing while a thread may be held."""

import os
from pathlib import Path

from dmirror.quiet import quieten
from dmirror.threads import Task


def mappings():
    return Path("/proc/self/maps").read_text().splitlines()


def test_device_calls_and_threads_change_no_mapping(mirror, mirror2, region):
    quieten()
    mappings()
    for page in range(len(region)):
        before = mappings()
        reader, writer = os.pipe()
        with Task(os.read, reader, 1) as task:
            task.wait_asleep()
            mirror2.read(region)
            mirror.migrate_to_device(region[page])
            during = mappings()
            os.write(writer, b".")
        os.close(reader)
        os.close(writer)
        assert before == during == mappings()
