# SPDX-License-Identifier: GPL-2.0
"""What a flavour has beside its options."""

from __future__ import annotations

from dmirror.kernel import config, flavours


def test_a_kernel_is_as_slow_as_its_options_make_it() -> None:
    assert flavours.slowdown({"SMP": "y"}) == 1.0
    debug = {option.name: option.value for option in config.options("debug")}
    alone = flavours.slowdown({"KASAN": "y"})
    assert 1.0 < alone < flavours.slowdown(debug)


def test_only_cover_has_more_variables_for_make() -> None:
    have = {flavour: flavours.variables(flavour) for flavour in config.flavours()}
    assert {flavour for flavour, variables in have.items() if variables} == {"cover"}
    assert all(
        variable.startswith("GCOV_PROFILE_") and ".o=$(if $(filter mm,$(obj))" in variable for variable in have["cover"]
    )
