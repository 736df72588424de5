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


def test_what_lives_after_a_pause_is_old_and_is_looked_at_by_the_next_full_collection_only():
    with collector_paused():
        made = [[number] for number in range(3_000)]
        unreachable: list[object] = []
        unreachable.append(unreachable)
        number = id(unreachable)
        del unreachable
    assert gc.get_count()[0] < 1_000
    old = {id(item) for item in gc.get_objects(generation=2)}
    assert all(id(item) in old for item in made) and number in old
    gc.collect()
    assert number not in {id(item) for item in gc.get_objects()}


def test_what_somebody_froze_stays_frozen():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with collector_paused():
            pass
        assert gc.get_freeze_count() == frozen > 0
    finally:
        gc.unfreeze()
