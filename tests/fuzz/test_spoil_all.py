# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every wrong value in every place: spoil_all.py."""

import itertools

import pytest
import spoil_all
import worker

SOUND = spoil_all.sound()


def failures(calls):
    for call in calls:
        try:
            worker.judge(call)
        except Exception as error:
            yield f"{type(error).__name__}: {error}\n{call!r}"


@pytest.mark.parametrize("call", SOUND, ids=lambda call: call.function)
def test_arguments(call):
    assert not list(failures([call]))
    assert not list(itertools.islice(failures(spoil_all.arguments(call)), 3))


@pytest.mark.parametrize("call", SOUND, ids=lambda call: call.function)
def test_tensors(call):
    assert not list(itertools.islice(failures(spoil_all.tensors(call)), 3))
