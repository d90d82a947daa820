"""Whether runs made again came out as the recorded one did: by bytes, by content, by metrics. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reprobox.diff.spread import LEAST_RUNS, is_lower_better, is_worse
from reprobox.errors import UsageError
from reprobox.records.metrics import Metric, compare_metrics, decode_metric
from reprobox.records.record import Output, Record

Verdict = Literal["identical", "equivalent", "different", "unstable"]
Grade = Literal["identical", "content", "different", "missing", "new"]

_BADNESS: Final[dict[Verdict, int]] = {"identical": 0, "equivalent": 1, "different": 2, "unstable": 2}
_TOLERANCE: Final = re.compile(r"(?:(?P<metric>.+)=)?(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?P<percent>%?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a metric may be from the recorded one.

    Attributes:
        metric: Its name, or None for every metric that has no tolerance of its own.
        absolute: In the metric's unit.
        relative: Share of the recorded value's magnitude.
    """

    metric: str | None
    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, recorded: Metric, found: Metric) -> bool:
        """Whether a value is near enough; NaN is near NaN alone, an infinity near itself alone."""
        recorded, found = float(recorded), float(found)
        if math.isnan(recorded) or math.isnan(found):
            return math.isnan(recorded) and math.isnan(found)
        if math.isinf(recorded) or math.isinf(found):
            return recorded == found
        return abs(found - recorded) <= max(self.absolute, self.relative * abs(recorded))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputJudged:
    """One output of one run made again.

    Attributes:
        path: Its path.
        grade: "identical" bytes, the same "content", "different", "missing" from the new run, or "new" in it.
        recorded: As it was recorded; None where it is new.
        found: As it came out; None where it is missing.
    """

    path: str
    grade: Grade
    recorded: Output | None
    found: Output | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricJudged:
    """One metric of one run made again.

    Attributes:
        metric: Its name.
        recorded: As recorded; None where it is new.
        found: As it came out; None where it is missing.
        equal: Whether both are the same double, or the same integer.
        within: Whether it is equal, or as near as was asked for.
    """

    metric: str
    recorded: Metric | None
    found: Metric | None
    equal: bool
    within: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunJudged:
    """One run made again, held against the recorded one.

    Attributes:
        run: Its id.
        verdict: Of this run by itself.
        outputs: By path.
        metrics: By name.
    """

    run: str
    verdict: Verdict
    outputs: tuple[OutputJudged, ...]
    metrics: tuple[MetricJudged, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All runs made again.

    Attributes:
        verdict: "identical": every output has the recorded bytes or content, every metric the recorded bits.
            "equivalent": every metric is equal or within its tolerance, and some output is another.
            "different": a metric or, where there is none, an output is not what was recorded.
            "unstable": the runs made again differ among themselves.
        reruns: Each of them.
    """

    verdict: Verdict
    reruns: tuple[RerunJudged, ...]

    @property
    def shown(self) -> int:
        """Number of the run to look at: the first whose own verdict is the worst of them."""
        return max(range(len(self.reruns)), key=lambda number: (_BADNESS[self.reruns[number].verdict], -number))


def parse_tolerance(text: str) -> Tolerance:
    """Parse `0.01`, `1%`, `accuracy=0.01` or `loss=1%`.

    Raises:
        UsageError: It is none of these.
    """
    found = _TOLERANCE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"--tolerance {text!r} is no tolerance", hint="write 0.01, 1%, accuracy=0.01 or loss=1%")
    number = float(found["number"])
    if found["percent"]:
        return Tolerance(metric=found["metric"], relative=number / 100)
    return Tolerance(metric=found["metric"], absolute=number)


def judge_reruns(
    recorded: Record,
    reruns: Sequence[Record],
    tolerances: Sequence[Tolerance] = (),
    references: Sequence[Record] = (),
) -> Judgement:
    """Judge runs made again.

    Args:
        recorded: The run.
        reruns: At least one; all completed.
        tolerances: Of its metrics; what has none must be equal.
        references: Runs like it, with other seeds, say: a metric that is no worse than their spread makes likely, the
            recorded value among them, is near enough.

    Returns:
        The verdict, and each run's own.
    """
    judged = tuple(judge_rerun(recorded, rerun, tolerances, references) for rerun in reruns)
    verdicts = {row.verdict for row in judged}
    if "different" in verdicts:
        # Different among themselves too: it is not the record that is at odds with the runs, but each with each.
        apart = any(
            judge_rerun(reruns[0], other, tolerances, references).verdict == "different" for other in reruns[1:]
        )
        return Judgement(verdict="unstable" if apart else "different", reruns=judged)
    return Judgement(verdict="equivalent" if "equivalent" in verdicts else "identical", reruns=judged)


def judge_rerun(
    recorded: Record, rerun: Record, tolerances: Sequence[Tolerance] = (), references: Sequence[Record] = ()
) -> RerunJudged:
    """Judge one run made again, by itself; see `judge_reruns`."""
    outputs = _judge_outputs(recorded, rerun)
    metrics = _judge_metrics(recorded, rerun, tolerances, references)
    verdict: Verdict
    if all(row.grade in ("identical", "content") for row in outputs) and all(row.equal for row in metrics):
        verdict = "identical"
    elif metrics and all(row.within for row in metrics):
        verdict = "equivalent"
    else:
        verdict = "different"
    return RerunJudged(run=rerun.run, verdict=verdict, outputs=outputs, metrics=metrics)


def _judge_outputs(recorded: Record, rerun: Record) -> tuple[OutputJudged, ...]:
    before = {output.path: output for output in recorded.outputs}
    after = {output.path: output for output in rerun.outputs}
    rows = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        rows.append(OutputJudged(path=path, grade=grade_outputs(old, new), recorded=old, found=new))
    return tuple(rows)


def grade_outputs(recorded: Output | None, found: Output | None) -> Grade:
    """Grade one output against what was recorded; one of the two may be missing, not both."""
    if found is None:
        return "missing"
    if recorded is None:
        return "new"
    if recorded.sha256 == found.sha256:
        return "identical"
    # A digest under another recipe says nothing of this one.
    return "content" if recorded.content is not None and recorded.content == found.content else "different"


def _judge_metrics(
    recorded: Record, rerun: Record, tolerances: Sequence[Tolerance], references: Sequence[Record]
) -> tuple[MetricJudged, ...]:
    before = {name: decode_metric(value) for name, value in recorded.metrics.items()}
    after = {name: decode_metric(value) for name, value in rerun.metrics.items()}
    rows = [
        MetricJudged(
            metric=row.metric,
            recorded=row.trained,
            found=row.evaluated,
            equal=row.equal,
            within=row.equal
            or find_tolerance(row.metric, tolerances).allows(row.trained, row.evaluated)
            or _is_likely(row.metric, row.evaluated, (recorded, *references)),
        )
        for row in compare_metrics(before, after)
    ]
    for name in before.keys() ^ after.keys():
        rows.append(
            MetricJudged(metric=name, recorded=before.get(name), found=after.get(name), equal=False, within=False)
        )
    return tuple(sorted(rows, key=lambda row: row.metric))


def _is_likely(metric: str, found: Metric, like: Sequence[Record]) -> bool:
    values = [float(decode_metric(record.metrics[metric])) for record in like if metric in record.metrics]
    if len(values) < LEAST_RUNS or not all(map(math.isfinite, values)):
        return False
    return not is_worse(float(found), values, lower_is_better=is_lower_better(metric))


def find_tolerance(metric: str, tolerances: Sequence[Tolerance]) -> Tolerance:
    """Find a metric's own tolerance, else that of all metrics, else none at all. The last one given wins."""
    chosen = Tolerance(metric=None)
    own = False
    for tolerance in tolerances:
        if tolerance.metric == metric or (tolerance.metric is None and not own):
            chosen, own = tolerance, tolerance.metric is not None
    return chosen


def require_known(tolerances: Sequence[Tolerance], metrics: Mapping[str, object]) -> None:
    """Require that every tolerance is about a metric that the run has.

    Raises:
        UsageError: One is not.
    """
    for tolerance in tolerances:
        if tolerance.metric is not None and tolerance.metric not in metrics:
            raise UsageError(
                f"--tolerance {tolerance.metric}=…: the run has no such metric",
                hint=f"it has {', '.join(sorted(metrics)) or 'none'}",
            )
