"""Progress bars: how much there is, as far as anybody knows."""

from __future__ import annotations

import pytest

from lmanet_core.commands.terminal import progress


@pytest.mark.parametrize(
    ("limit", "expected", "total"),
    [
        (None, [10], 10),
        (4, [10], 4),
        (4, [10, 3], 7),
        (None, [None], None),
        (4, [None], 4),
        (None, [10, None], None),
        (None, [None, 10], None),
    ],
)
def test_total_is_what_is_expected_of_every_stream(limit, expected, total):
    with progress("working", limit) as advance:
        for frames in expected:
            advance.expect(frames)
        advance()
        (task,) = advance._bar.tasks
        assert (task.completed, task.total) == (1, total)
