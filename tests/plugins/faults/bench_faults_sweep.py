"""A sweep in a process of its own, for tests that interrupt or kill it.

Usage: python -m bench_faults_sweep STORE MARKER STRATEGY SECONDS NUM_CELLS
"""

import sys

from bench_faults import FaultSpec

from bench.executors.local import LocalExecutor
from bench.spec import Cell
from bench.store import open_store
from bench.sweep import run_sweep


def main() -> None:
    """Sweep cells that take some seconds each and leave their pid in a file."""
    store, marker, strategy, seconds, count = sys.argv[1:]
    spec = FaultSpec(name=strategy, seconds=float(seconds), marker=marker)
    cells = [
        Cell(
            suite="faults",
            backbone={"name": "faults/nothing"},
            dataset={"name": "faults"},
            strategy=spec,
            seed=seed,
        )
        for seed in range(int(count))
    ]
    with (
        open_store(store) as opened,
        LocalExecutor(target="bench_faults:execute", preload_modules=()) as executor,
    ):
        result = run_sweep(cells, store=opened, executor=executor)
    sys.stdout.write(f"{result.stopped_by} {len(result.records)} {result.num_missing}\n")


if __name__ == "__main__":
    main()
