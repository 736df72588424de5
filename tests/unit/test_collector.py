import gc

import pytest

from bench.collector import collector_paused


def test_nothing_is_collected_while_it_is_paused_and_all_is_as_before_after_a_failure():
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_paused():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_pause_within_a_pause_does_not_end_it():
    with collector_paused():
        with collector_paused():
            pass
        assert not gc.isenabled()


def test_a_function_can_be_run_paused():
    assert collector_paused()(gc.isenabled)() is False
    assert gc.isenabled()
