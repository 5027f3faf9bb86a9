# SPDX-License-Identifier: GPL-2.0
"""Injected failures: which one fails, what the caller is told, and that no data is lost, whatever fails."""

import errno
import signal

import pytest

from dmirror.events import CPU_END
from dmirror.inject import sweep
from dmirror.memory import HUGE_PAGES, Region
from dmirror.mirror import Mirror, MirrorError
from dmirror.process import ChildKilled, in_child

pytestmark = pytest.mark.needs(capability="steer")
THP = pytest.mark.needs(capability="device_thp")
WHY = {"device_alloc": "memory", "system_alloc": "memory", "copy": "copy"}


def delta(mirror, before):
    return mirror.counters() - before


class TestWhich:
    """Of sixteen pages that migrate to the device, one by one."""

    @pytest.fixture(params=["device_alloc", "copy"])
    def what(self, request):
        return request.param

    def test_the_nth(self, mirror, region, what):
        region.fill(1)
        before = mirror.counters()
        with mirror.inject(what, 3) as injection, pytest.raises(MirrorError) as caught:
            mirror.migrate_to_device(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOENT, 2)
        assert injection.counts() == (16, 1)
        assert mirror.snapshot(region).picture() == "DDrDDDDDDDDDDDDD"
        assert delta(mirror, before).stayed[WHY[what]] == 1
        assert region.matches(1)

    def test_every_nth(self, mirror, region, what):
        region.fill(1)
        with mirror.inject(what, 4, every=True) as injection:
            moved = mirror.migrate(region).moved
        assert (moved, injection.counts()) == (12, (16, 4))
        assert mirror.snapshot(region).picture() == "DDDr" * 4
        assert region.matches(1)

    def test_every_one(self, mirror, region, what):
        region.fill(1)
        with mirror.inject(what, 1, every=True) as injection:
            assert mirror.migrate(region).moved == 0
        assert injection.counts() == (16, 16)
        assert mirror.snapshot(region).picture() == "r" * 16
        assert region.matches(1)

    def test_none_before_and_after(self, mirror, region, what):
        with mirror.inject(what, 17) as injection:
            assert mirror.migrate(region.fill(1)).moved == 16
        assert injection.counts() == (16, 0)
        mirror.migrate_to_system(region)
        assert mirror.migrate(region).moved == 16
        assert injection.counts() == (16, 0)

    def test_counts_begin_anew(self, mirror, region, what):
        with mirror.inject(what, 100):
            mirror.migrate(region[:4].fill(1))
            with mirror.inject(what, 2) as injection:
                assert injection.counts() == (0, 0)
                assert mirror.migrate(region[4:8].fill(1)).moved == 3
                assert injection.counts() == (4, 1)

    def test_another_mirror_of_the_device_is_not_concerned(self, mirror, region, what):
        with Mirror(0) as other, other.inject(what, 1, every=True) as injection:
            assert mirror.migrate(region.fill(1)).moved == 16
            assert injection.counts() == (0, 0)


def test_kinds_are_counted_apart(mirror, region):
    with (
        mirror.inject("device_alloc", 2) as device,
        mirror.inject("system_alloc", 1) as system,
        mirror.inject("copy", 3) as copy,
    ):
        mirror.migrate(region.fill(1))
        # The page without a destination is not copied: the third copy is that of the fourth page.
        assert mirror.snapshot(region).picture() == "DrDrDDDDDDDDDDDD"
        assert (device.counts(), system.counts(), copy.counts()) == ((16, 1), (0, 0), (15, 1))
    assert region.matches(1)


class TestToTheSystem:
    def test_a_page_without_memory_is_tried_again(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        with mirror.inject("system_alloc", 3) as injection:
            assert mirror.migrate_to_system(region) == 16
        assert injection.counts() == (17, 1)
        assert region.matches(1)

    def test_memory_that_never_comes_is_enomem(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        with mirror.inject("system_alloc", 1, every=True), pytest.raises(MirrorError) as caught:
            mirror.migrate_to_system(region)
        assert (caught.value.errno, caught.value.pages) == (errno.ENOMEM, 0)
        assert mirror.snapshot(region).picture() == "D" * 16
        assert mirror.read(region).data.matches(1)
        assert region.matches(1)

    @pytest.mark.parametrize("what", ["system_alloc", "copy"])
    def test_as_told_it_is_tried_once(self, mirror, region, what):
        mirror.migrate_to_device(region.fill(1))
        before = mirror.counters()
        with mirror.inject(what, 3):
            assert mirror.migrate(region, to="system").moved == 15
        assert delta(mirror, before).stayed[WHY[what]] == 1
        assert mirror.snapshot(region).picture() == "rrDrrrrrrrrrrrrr"
        assert mirror.read(region).data.matches(1)
        assert region.matches(1)


class TestCpuFault:
    @pytest.fixture
    def on_device(self, mirror, region):
        mirror.migrate_to_device(region.fill(1))
        return region

    @pytest.mark.contract("M-19")
    def test_without_memory_the_kernel_tries_again(self, mirror, on_device):
        """VM_FAULT_OOM: nobody is killed for it, the instruction faults a second time."""
        before = mirror.counters()
        with mirror.events() as log, mirror.inject("system_alloc", 1) as injection:
            assert on_device[3].matches(1)
            assert injection.counts() == (2, 1)
            ends = log.expect(CPU_END, on_device[3], times=2)
        assert [event.pages for event in ends] == [0, 1]
        counts = delta(mirror, before)
        assert (counts.dev_cpu_faults, counts.dev_fault_oom, counts.dev_fault_failed) == (2, 1, 0)
        assert counts.dev_pages_faulted == 1
        assert mirror.snapshot(on_device).picture() == "DDDrDDDDDDDDDDDD"

    @pytest.mark.contract("M-19")
    def test_a_failed_copy_is_sigbus_and_the_page_is_as_it_was(self, mirror, on_device):
        before = mirror.counters()
        with mirror.inject("copy", 1) as injection:
            with pytest.raises(ChildKilled) as caught:
                in_child(on_device[3].touch)
            assert caught.value.signal == signal.SIGBUS
            assert injection.counts() == (1, 1)
        counts = delta(mirror, before)
        assert (counts.dev_cpu_faults, counts.dev_fault_oom, counts.dev_fault_failed) == (1, 0, 1)
        assert mirror.snapshot(on_device).picture() == "D" * 16
        assert mirror.read(on_device).data.matches(1)
        assert on_device.matches(1)

    @pytest.mark.contract("M-19")
    def test_a_failed_copy_for_another_process_is_its_error(self, still):
        """/proc/pid/mem says what a signal would say."""
        one = still()
        one.mirror.migrate_to_device(one.memory)
        with one.mirror.inject("copy", 1), pytest.raises(OSError) as caught:
            one.load(3)
        assert caught.value.errno == errno.EIO
        assert one.mirror.snapshot(one.memory).picture() == "D" * 16
        one.load(3)
        assert one.mirror.snapshot(one.memory).picture() == "DDDrDDDDDDDDDDDD"
        assert one.mirror.read(one.memory).data.matches(1)

    def test_it_counts_for_who_migrated_the_page(self, mirror, on_device):
        with Mirror(0) as other, other.inject("system_alloc", 1) as injection:
            on_device.touch()
            assert injection.counts() == (0, 0)


class TestEviction:
    @pytest.mark.parametrize("what", ["system_alloc", "copy"])
    def test_release_tries_again(self, mirror, region, what):
        mirror.migrate_to_device(region.fill(1))
        before = mirror.counters()
        with mirror.inject(what, 3) as injection:
            mirror.release()
        assert injection.counts() == (17, 1)
        assert delta(mirror, before).dev_pages_evicted == 16
        assert mirror.snapshot(region).picture() == "r" * 16
        assert region.matches(1)

    @pytest.mark.parametrize("what", ["system_alloc", "copy"])
    def test_what_cannot_come_back_at_a_close_comes_back_later(self, mirror, region, what):
        with Mirror(0) as other:
            other.migrate_to_device(region.fill(1))
            with other.inject(what, 1, every=True):
                other.close()
        assert mirror.snapshot(region).picture() == "D" * 16
        assert region.matches(1)
        assert mirror.snapshot(region).picture() == "r" * 16


class TestSweep:
    """Each failure in turn: the data right after it, and nothing left behind when all have been."""

    def test_to_the_device(self, mirror, region):
        def scenario(nth):
            moved = mirror.migrate(region.fill(nth)).moved
            assert moved == (15 if nth <= 16 else 16)
            assert mirror.read(region).data.matches(nth)
            assert region.matches(nth)

        assert sweep(mirror, "device_alloc", scenario) == 16
        assert mirror.counters().dev_pages_in_use == 0

    def test_to_the_system(self, mirror, region):
        def scenario(nth):
            mirror.migrate_to_device(region.fill(nth))
            mirror.migrate(region, to="system")
            assert mirror.snapshot(region).where == ["local" if page == nth - 1 else "ram" for page in range(16)]
            assert mirror.read(region).data.matches(nth)
            mirror.migrate_to_system(region)
            assert region.matches(nth)

        assert sweep(mirror, "system_alloc", scenario) == 16

    @pytest.mark.parametrize(("to", "stays"), [("device", "ram"), ("system", "local")])
    def test_copies(self, mirror, region, to, stays):
        """One by one, because the data are looked at by CPU faults, which copy."""
        for nth in range(1, 17):
            region.fill(nth)
            if to == "system":
                mirror.migrate_to_device(region)
            with mirror.inject("copy", nth):
                assert mirror.migrate(region, to=to).moved == 15
            where = mirror.snapshot(region).where
            assert (where.count(stays), where.index(stays)) == (1, nth - 1)
            assert mirror.read(region).data.matches(nth)
            assert region.matches(nth)

    def test_cpu_faults(self, mirror, region):
        def scenario(nth):
            mirror.migrate_to_device(region.fill(nth))
            assert region.matches(nth)

        assert sweep(mirror, "system_alloc", scenario) == 16

    def test_a_read_by_another_device(self, mirror, mirror2, region):
        """hmm_range_fault() brings the page back by a CPU fault of its own, and says what that said."""

        def scenario(nth):
            mirror.migrate_to_device(region.fill(nth))
            try:
                assert mirror2.read(region).data.matches(nth)
            except MirrorError as error:
                assert error.errno in (errno.ENOMEM, errno.EFAULT)
                assert error.pages < 16
            assert region.matches(nth)

        assert sweep(mirror, "system_alloc", scenario) == 16


@THP
class TestHuge:
    @pytest.fixture
    def huge(self, mirror):
        with Region.huge(1) as huge:
            yield huge.fill(1)

    def states(self, mirror, huge):
        return {str(page) for page in mirror.snapshot(huge)}

    def test_without_a_huge_destination_it_goes_in_small_pages(self, mirror, huge):
        with mirror.inject("device_alloc", 1) as injection:
            assert mirror.migrate_to_device(huge).data.matches(1)
        assert injection.counts() == (1 + HUGE_PAGES, 1)
        assert self.states(mirror, huge) == {"local rw"}
        assert huge.matches(1)

    @pytest.mark.parametrize("nth", [2, 3, HUGE_PAGES + 1])
    def test_all_small_destinations_or_none(self, mirror, huge, nth):
        """The huge one and then the nth: the source is not split for some of them, and none is left over."""
        with mirror.inject("device_alloc", 1, every=True):
            assert mirror.migrate(huge).moved == 0
        before = mirror.counters()
        with mirror.inject("device_alloc", nth - 1) as injection:
            assert mirror.migrate(huge, order="small").moved == 0
        assert injection.counts() == (nth - 1, 1)
        assert delta(mirror, before).stayed["memory"] == HUGE_PAGES
        assert mirror.counters().dev_pages_in_use == 0
        assert self.states(mirror, huge) == {"ram rw pmd"}
        assert huge.matches(1)

    @pytest.mark.parametrize("to", ["device", "system"])
    def test_a_failed_copy_leaves_it_whole(self, mirror, huge, to):
        if to == "system":
            mirror.migrate_to_device(huge)
        with mirror.inject("copy", 1) as injection:
            assert mirror.migrate(huge, to=to).moved == 0
        assert injection.counts() == (1, 1)
        assert self.states(mirror, huge) == {"local rw pmd" if to == "system" else "ram rw pmd"}
        assert mirror.read(huge).data.matches(1)
        assert huge.matches(1)

    @pytest.mark.contract("M-19")
    def test_a_cpu_fault_without_memory_is_tried_again(self, mirror, huge):
        mirror.migrate_to_device(huge)
        before = mirror.counters()
        with mirror.inject("system_alloc", 1) as injection:
            assert huge[77].matches(1)
            assert injection.counts() == (2, 1)
        counts = delta(mirror, before)
        assert (counts.dev_cpu_faults, counts.dev_fault_oom, counts.dev_pages_faulted) == (2, 1, HUGE_PAGES)
        assert self.states(mirror, huge) == {"ram rw pmd"}
        assert huge.matches(1)

    @pytest.mark.contract("M-19")
    def test_a_cpu_fault_with_a_failed_copy_is_sigbus(self, mirror, huge):
        mirror.migrate_to_device(huge)
        with mirror.inject("copy", 1), pytest.raises(ChildKilled) as caught:
            in_child(huge[77].touch)
        assert caught.value.signal == signal.SIGBUS
        assert self.states(mirror, huge) <= {"local r pmd", "local rw pmd"}
        assert huge.matches(1)

    @pytest.mark.parametrize("what", ["system_alloc", "copy"])
    def test_release_tries_again(self, mirror, huge, what):
        mirror.migrate_to_device(huge)
        with mirror.inject(what, 1) as injection:
            mirror.release()
        assert injection.counts() == (2, 1)
        assert self.states(mirror, huge) == {"ram rw pmd"}
        assert huge.matches(1)
