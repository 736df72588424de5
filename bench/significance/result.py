"""The outcome of a test: estimate, interval, p-value and what they rest on; knows no metric."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tested:
    """A difference, or a log ratio, that was tested against none.

    Attributes:
        estimate: Candidate minus baseline, on the scale of the test.
        low: Lower end of the two-sided interval.
        high: Upper end.
        p: Two-sided p-value, not adjusted for other tests.
        standard_error: Of the estimate, with every source of error that was known.
        freedom: Degrees of freedom of that error; infinite where it counts as known.
        sampling_share: Share of the error's variance that more examples, or more repeats of one
            process, would reduce; the rest needs more seeds, or more runs. In [0, 1].
    """

    estimate: float
    low: float
    high: float
    p: float
    standard_error: float
    freedom: float
    sampling_share: float
