"""A store's runs of a suite -> its history, with levels that baselines accepted; no text, no chart.

Changes are looked for in all runs, however few of them are shown: what is found then stays found.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from json import JSONDecodeError, loads
from pathlib import Path
from statistics import median

from bench.compare import cell_fields
from bench.digests import digest_value
from bench.errors import BaselineError
from bench.gate.baseline import Baseline, parse_baseline
from bench.gate.files import FOLDER, baseline_names, baseline_path
from bench.gate.past import PastCell, read_past
from bench.gate.reading import (
    cost_flaws,
    describe_numerics,
    describe_versions,
    timed_backbones,
)
from bench.gate.records import identify, label_records
from bench.gate.trends import KEY, CellState, History, Run, find_trends
from bench.gate.values import Metric
from bench.record import Environment
from bench.store import RunInfo, Store
from bench.summary import InferSummary, RecordSummary, Status, TrainSummary

MOST_RECORDS = 50_000
"""What takes about ten seconds to read."""

_MOST_RUNS = 500
"""Each series takes time by the square of its length."""

FEW_RECORDS = 5_000
"""What a command that only mentions the history has time for."""

_MOST_NAMED = 3
_Levels = dict[tuple[str, Metric], dict[str, str]]


def read_history(
    store: Store, suite: str, *, most_records: int = MOST_RECORDS, folder: Path = FOLDER
) -> History:
    """Return the history of a suite: its newest runs, until they have so many records.

    Args:
        store: Holds the runs; those without a record are left out.
        suite: Whose.
        most_records: About as many are read at most; the newest run always is. Where runs are left
            out, so are some more, that the first one is the same for many nights.
        folder: Where baselines are, for the levels that they accepted.

    Raises:
        StoreError: The store cannot be read.
    """
    infos = store.runs(suite)
    reader = _Reader(store)
    found: list[tuple[int, Run]] = []
    start = len(infos)
    while start > 0 and reader.num_records < most_records and len(infos) - start < _MOST_RUNS:
        start -= 1
        run = reader.read(infos[start])
        found += [(start, run)] if run else []
    start = _settled_start(start, len(infos))
    runs = [run for place, run in reversed(found) if place >= start]
    accepted, problems = _accepted_levels(suite, folder)
    history = find_trends(suite, runs, accepted, num_earlier=start)
    return replace(history, problems=problems)


def _settled_start(start: int, count: int) -> int:
    """Return the run to begin with, at or after the one that could be, so that it seldom moves.

    A history that began one run later every night might tell each night of other changes.
    """
    if start == 0:
        return 0
    block = 1 << max(0, ((count - start) // 4).bit_length() - 1)
    return math.ceil(start / block) * block


class _Reader:
    """Reads runs, newest first: the newest one names the cells of all."""

    def __init__(self, store: Store) -> None:
        self.num_records = 0
        self._store = store
        self._names: Mapping[str, str] = {}
        self._traits: dict[str, Mapping[str, str]] = {}
        self._versions: dict[tuple[int, ...], Mapping[str, str]] = {}

    def read(self, info: RunInfo) -> Run | None:
        records = self._store.summaries(run_id=info.id)
        self.num_records += len(records)
        names = label_records(records, self._names)
        self._names = self._names or names
        past = read_past(info.scope, records, names)
        if past is None:
            return None
        # Environments are told apart by their place in memory, which another run's may take.
        self._versions = {}
        groups: dict[str, dict[str, list[RecordSummary]]] = defaultdict(lambda: defaultdict(list))
        for record in records:
            identity = identify(record.cell)
            groups[names[identity]][identity].append(record)
        timed = timed_backbones(records)
        cells = {
            name: self._state(past.cells.get(name), identity, group, timed)
            for name, own in groups.items()
            for identity, group in own.items()
        }
        return Run(info.scope, info.id, past.started_at, cells)

    def _state(
        self,
        past: PastCell | None,
        identity: str,
        records: Sequence[RecordSummary],
        timed: frozenset[str],
    ) -> CellState:
        if past is None:
            return CellState(identity, "", failure=_failure(records))
        if past.conditions not in self._traits:
            self._traits[past.conditions] = _traits(records)
        values = {**past.values, **_rates(past, records)}
        return CellState(
            identity=identity,
            conditions=past.conditions,
            values=values,
            flaws=cost_flaws(records, timed),
            traits=self._traits[past.conditions],
            versions=self._versions_of(records),
        )

    def _versions_of(self, records: Sequence[RecordSummary]) -> Mapping[str, str]:
        distinct: dict[int, Environment] = {
            id(record.environment): record.environment
            for record in records
            if record.environment is not None
        }
        places = tuple(distinct)
        if places not in self._versions:
            self._versions[places] = describe_versions([*distinct.values()])
        return self._versions[places]


def _failure(records: Sequence[RecordSummary]) -> str:
    failed = [record for record in records if record.status is not Status.OK]
    named = [f"{record.cell.draw} is {record.status.value}" for record in failed[:_MOST_NAMED]]
    more = len(failed) - len(named)
    return ", ".join([*named, f"and {more} more"] if more else named)


def _rates(past: PastCell, records: Sequence[RecordSummary]) -> dict[Metric, float]:
    """Return examples per second, as tables have them, where the run in short has seconds."""
    train = [each.train_profile.examples_per_second for each in records if each.train_profile]
    infer = [each.infer_profile.examples_per_second for each in records if each.infer_profile]
    found = {Metric.TRAIN_RATE: train, Metric.INFER_RATE: infer}
    # A profile that seeds share is given by each of them and counts once.
    return {
        metric: median(dict.fromkeys(rates))
        for metric, rates in found.items()
        if metric in past.values
    }


def _traits(records: Sequence[RecordSummary]) -> Mapping[str, str]:
    """Return what the conditions of a cell are made of; its key last, as others explain it."""
    ordered = sorted(records, key=lambda record: (record.cell.seed, record.cell.fold or 0))
    effective = [each.effective for each in ordered if each.effective is not None]
    devices = [each.environment.device_class for each in ordered if each.environment is not None]
    profiles: dict[str, list[TrainSummary | InferSummary | None]] = {
        "batch size of the training profile": [each.train_profile for each in ordered],
        "batch size of the inference profile": [each.infer_profile for each in ordered],
    }
    texts = {
        "seeds": [str(each.cell.seed) for each in ordered],
        "device class": devices,
        "effective batch": [str(e.effective_batch_size) for e in effective],
        **{name: [str(p.batch_size) for p in own if p] for name, own in profiles.items()},
    }
    traits = {name: ", ".join(dict.fromkeys(own)) for name, own in texts.items() if own}
    traits |= {f"numerics: {name}": text for name, text in describe_numerics(effective).items()}
    traits |= {f"cell: {name}": text for name, text in _fields(ordered[0]).items()}
    return {**traits, KEY: digest_value([each.key for each in ordered])[:12]}


def _fields(record: RecordSummary) -> dict[str, str]:
    fields = cell_fields(record.cell).items()
    return {name: text for name, text in fields if name not in ("seed", "fold")}


def _accepted_levels(suite: str, folder: Path) -> tuple[_Levels, tuple[str, ...]]:
    """Return the levels that any baseline of a suite accepted, and what could not be read."""
    found: _Levels = defaultdict(dict)
    problems: list[str] = []
    for name in baseline_names(folder):
        path = baseline_path(name, folder)
        try:
            text = path.read_text(encoding="utf-8")
            baseline = parse_baseline(text, str(path)) if _concerns(text, suite) else None
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"cannot read {path}: {error}")
            continue
        except BaselineError as error:
            problems.append(str(error))
            continue
        if baseline is not None:
            _add_levels(found, baseline)
    return found, tuple(problems)


def _concerns(text: str, suite: str) -> bool:
    """Return whether a baseline may have accepted levels of a suite: most files need no reading."""
    try:
        data = loads(text)
    except JSONDecodeError:
        return True  # What is damaged is told by who reads it.
    if not isinstance(data, dict):
        return True
    return data.get("suite", suite) == suite and bool(data.get("accepted"))


def _add_levels(found: _Levels, baseline: Baseline) -> None:
    identities = {name: identity for identity, name in label_records(baseline.records).items()}
    for level in baseline.accepted:
        for metric in level.metrics:
            reasons = found.setdefault((identities.get(level.cell, ""), metric), {})
            known = reasons.get(level.scope)
            both = f"{known}; {level.reason}" if known and known != level.reason else level.reason
            reasons[level.scope] = both
