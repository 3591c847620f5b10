"""How many pairs were asked for and scored."""

import pytest

from stepwell.teachers.scoring import COUNTS, count, counting, read_counts


def test_a_stage_that_is_done_again_after_a_kill_keeps_its_first_counts(tmp_path):
    with pytest.raises(KeyboardInterrupt), counting(tmp_path):
        count(100, 60)
        count(50, 50)
        raise KeyboardInterrupt
    with counting(tmp_path):
        count(100, 0)  # the first attempt scored them
        count(50, 20)
        count(10, 10)
    assert read_counts(tmp_path / COUNTS) == [(100, 60), (50, 50), (10, 10)]


def test_nobody_listens_outside_of_a_stage(tmp_path):
    count(5, 5)
    with counting(tmp_path):
        pass
    count(5, 5)
    assert read_counts(tmp_path / COUNTS) == [] and not list(tmp_path.iterdir())
