"""One record -> a page of text for the terminal; knows no other record."""

from collections.abc import Iterable, Sequence

from bench.compare import Difference
from bench.record import (
    AudioPreprocessing,
    EpochPoint,
    InferProfile,
    InputPreprocessing,
    Memory,
    NumericsPlan,
    Record,
    Scores,
    Selection,
    SplitInfo,
    TextPreprocessing,
    TrainProfile,
)
from bench.summary import SpeedSummary
from bench.tables import scale

_LABEL_WIDTH = 22
_MOST_POINTS = 30
_MOST_CLASSES = 30
_WORTH_SAYING = 0.02

Lines = list[tuple[str, str]]


def record_text(record: Record) -> str:
    """Return everything a record holds, in sections; what was not measured is left out."""
    sections = (
        ("cell", _cell(record)),
        ("failure", _failure(record)),
        ("test", _scores(record.test)),
        ("val", _scores(record.val)),
        ("chosen on val", _selection(record.selection)),
        ("curve", _curve(record.curve)),
        ("fitted again", _refit(record)),
        ("cost", _cost(record)),
        ("training step", _train(record.train_profile)),
        ("inference", _infer(record.infer_profile, _compiles(record))),
        ("in force", _effective(record)),
        ("backbone", _backbone(record)),
        ("data", _data(record)),
        ("shared work", _artifacts(record)),
        ("environment", _environment(record)),
        ("key parts", list(record.key_parts.items())),
        ("test by class", _classes(record.test)),
    )
    blocks = [record.cell.label, *(_section(title, lines) for title, lines in sections if lines)]
    return "\n\n".join(blocks) + "\n"


def _section(title: str, lines: Lines) -> str:
    body = [f"  {label:<{_LABEL_WIDTH}} {text}".rstrip() for label, text in lines]
    return "\n".join([title, *map(scale.printable, body)])


def explanation(differences: Sequence[Difference]) -> str:
    """Return one block per difference of two keys, or a line that there is none."""
    if not differences:
        return "nothing differs: their keys are made of the same parts\n"
    return "".join(
        f"{item.name}\n  A  {_side(item.first)}\n  B  {_side(item.second)}\n"
        for item in differences
    )


def _side(value: str | None) -> str:
    return "(absent)" if value is None else value


def _cell(record: Record) -> Lines:
    cell = record.cell
    fields = cell.strategy.model_dump(mode="json", exclude={"name"})
    lines = [
        ("status", record.status.value),
        ("suite, run", f"{cell.suite}, {record.run_id}"),
        ("strategy", ", ".join([cell.strategy.name, *(f"{k}={v}" for k, v in fields.items())])),
        ("seed, split seed", f"{cell.seed}, {cell.split_seed}"),
        *([] if cell.fold is None else [("fold", f"{cell.fold} of {cell.dataset.folds}")]),
        ("numerics asked for", cell.numerics.value + (", or compiled" if cell.compile else "")),
        ("key", record.key or "not reached"),
        ("request key", record.request_key),
        ("measured at", record.started_at.isoformat(timespec="seconds")),
    ]
    return lines


def _failure(record: Record) -> Lines:
    failure = record.failure
    if failure is None:
        return []
    lines = [("kind", failure.kind), ("message", failure.message)]
    if failure.phase:
        lines.append(("phase", failure.phase))
    return lines + [("", line) for line in failure.traceback.splitlines()]


def _scores(scores: Scores | None) -> Lines:
    if scores is None:
        return []
    return [
        ("accuracy", f"{scale.percent(scores.accuracy, 2)}% of {scores.num_examples}"),
        ("top-5 accuracy", f"{scale.percent(scores.top5_accuracy, 2)}%"),
        ("macro-F1", f"{scale.percent(scores.macro_f1, 2)}%"),
        ("balanced accuracy", f"{scale.percent(scores.balanced_accuracy, 2)}%"),
        ("NLL", f"{scores.nll:.4f} nats"),
        ("calibration error", f"{scale.percent(scores.ece, 2)}%"),
    ]


def _selection(selection: Selection | None) -> Lines:
    if selection is None:
        return []
    lines = []
    for index, point in enumerate(selection.points[:_MOST_POINTS]):
        setting = ", ".join(f"{k}={v}" for k, v in point.setting.items()) or "as given"
        note = f" ({point.note})" if point.note else ""
        mark = "  <- chosen" if index == selection.chosen else ""
        lines.append((setting, f"{scale.percent(point.val_accuracy, 2)}%{note}{mark}"))
    if selection.at_grid_edge:
        lines.append(("at the grid's edge", "yes: a wider grid may do better"))
    if selection.converged is False:
        lines.append(("converged", "no"))
    return lines


def _curve(curve: Sequence[EpochPoint]) -> Lines:
    return [
        (
            f"epoch {point.epoch}",
            f"loss {point.train_loss:.4f}, {_on_val(point)}"
            f"{scale.duration(point.seconds)}{_waited(point)}",
        )
        for point in curve
    ]


def _on_val(point: EpochPoint) -> str:
    accuracy = point.val_accuracy
    return "" if accuracy is None else f"val {scale.percent(accuracy, 2)}%, "


def _waited(point: EpochPoint) -> str:
    waited = point.data_wait_fraction
    if waited is None or waited <= _WORTH_SAYING:
        return ""
    return f", {scale.percent(waited)}% of its steps' time waiting for data"


def _refit(record: Record) -> Lines:
    refit = record.refit
    if refit is None:
        return []
    lines = [("on train and val", f"{refit.num_examples} examples; test is of this model")]
    if refit.epochs is not None:
        lines.append(("epochs", str(refit.epochs)))
    return lines + _curve(refit.curve)


def _cost(record: Record) -> Lines:
    lines = [("this cell paid", scale.duration(record.wall_seconds))]
    if record.standalone_seconds is not None:
        lines.append(("sharing nothing", scale.duration(record.standalone_seconds)))
    lines += [(f"  {phase}", scale.duration(took)) for phase, took in record.seconds.items()]
    if record.host_peak_bytes is not None:
        lines.append(("host memory", f"{scale.megabytes(record.host_peak_bytes)} MiB at the peak"))
    if record.num_parameters is not None:
        trained = scale.count(record.num_trainable_parameters)
        lines.append(("parameters", f"{scale.count(record.num_parameters)}, {trained} trained"))
    return lines


def _train(profile: TrainProfile | None) -> Lines:
    if profile is None:
        return []
    rate = f"{scale.rate(profile.examples_per_second)} examples/s at batch {profile.batch_size}"
    return [
        ("throughput", rate),
        *_disturbance(profile),
        *_memory(profile.memory),
        *_energy(profile.energy_joules_per_example),
    ]


def _disturbance(profile: SpeedSummary) -> Lines:
    if not profile.is_disturbed:
        return []
    waited = scale.percent(profile.waiting_fraction)
    return [("disturbed", f"measured while the machine was busy: {waited}% of the time was waited")]


def _infer(profile: InferProfile | None, compiled: bool) -> Lines:
    if profile is None:
        return []
    rate = f"{scale.rate(profile.examples_per_second)} examples/s at batch {profile.batch_size}"
    lines = [("throughput", rate), *_disturbance(profile), *_memory(profile.memory)]
    for latency in profile.latencies:
        eager = " (eager)" if compiled and latency.batch_size != profile.batch_size else ""
        lines.append((f"latency, batch {latency.batch_size}", _quantiles(latency) + eager))
    if profile.end_to_end is not None:
        eager = " (eager)" if compiled else ""
        lines.append(("latency end to end", _quantiles(profile.end_to_end) + eager))
    if profile.forward_flops is not None:
        lines.append(("forward FLOPs", scale.count(profile.forward_flops)))
    return lines + _energy(profile.energy_joules_per_example)


def _quantiles(latency: object) -> str:
    names = ("p50", "p95", "p99")
    values = [(name, getattr(latency, f"{name}_seconds")) for name in names]
    return ", ".join(f"{name} {scale.milliseconds(value)} ms" for name, value in values if value)


def _energy(joules: float | None) -> Lines:
    return [] if joules is None else [("energy", f"{joules:.3g} J per example")]


def _memory(memory: Memory) -> Lines:
    values = (
        ("memory allocated", memory.allocated_bytes),
        ("memory reserved", memory.reserved_bytes),
        ("memory of process", memory.process_bytes),
        ("memory of host", memory.host_bytes),
    )
    return [(name, f"{scale.megabytes(size)} MiB") for name, size in values if size is not None]


def _effective(record: Record) -> Lines:
    effective = record.effective
    if effective is None:
        return []
    lines = [("device", effective.device)]
    lines += _plan("forward", effective.forward) + _plan("train", effective.train)
    if effective.batch_size is not None:
        lines.append(
            (
                "batch size",
                f"{effective.batch_size} per pass, {effective.effective_batch_size} per step, "
                f"{effective.requested_batch_size} asked for",
            )
        )
    return lines + [("note", note) for note in effective.notes]


def _compiles(record: Record) -> bool:
    plan = record.effective.forward if record.effective else None
    return plan is not None and plan.compiled


def _plan(name: str, plan: NumericsPlan | None) -> Lines:
    if plan is None:
        return []
    folded = ", batch norms folded" if plan.folded else ""
    compiled = ", compiled" if plan.compiled else ""
    if plan.compile_seconds is not None:
        compiled += f" in {scale.duration(plan.compile_seconds)}"
    text = (
        f"{plan.precision}, {plan.memory_format}{folded}{compiled}, {plan.num_threads} threads "
        f"({plan.source})"
    )
    timed = [(f"  {each}", f"{scale.milliseconds(took)} ms") for each, took in plan.seconds.items()]
    return [(f"{name} numerics", text), *timed, *_rejected(plan)]


def _rejected(plan: NumericsPlan) -> Lines:
    return [(f"  {name}", f"rejected: {reason}") for name, reason in plan.rejected.items()]


def _backbone(record: Record) -> Lines:
    info = record.backbone
    if info is None:
        return []
    lines = [
        ("weights", info.weights_source),
        ("weights digest", info.weights_digest),
        ("features", str(info.feature_dim)),
        ("licence", info.licence or "unknown"),
    ]
    if record.preprocessing is not None:
        lines.append(("preprocessing", _describe_preprocessing(record.preprocessing)))
    return lines


def _describe_preprocessing(how: InputPreprocessing) -> str:
    if isinstance(how, TextPreprocessing):
        pooling = "" if how.pooling is None else f", pooling {how.pooling}"
        return f"at most {how.max_tokens} tokens{pooling}, tokenizer {how.tokenizer[:12]}"
    if isinstance(how, AudioPreprocessing):
        limit = f"{how.sample_rate} Hz, at most {how.max_seconds:g} s"
        return f"{limit}, feature extractor {how.extractor[:12]}"
    size = f"{how.image_size} px, {how.interpolation}, crop {how.crop_fraction:g}"
    return f"{size}, mean {how.mean}, std {how.std}"


def _data(record: Record) -> Lines:
    data = record.data
    if data is None:
        return []
    splits = [(f"{name} split", _describe_split(split)) for name, split in data.splits.items()]
    return [
        ("fingerprint", data.fingerprint),
        ("classes", str(len(data.class_names))),
        *splits,
        ("majority class", f"{scale.percent(data.majority_accuracy, 2)}% of test"),
        ("duplicates", str(data.num_duplicates)),
        ("unreadable", _joined([str(data.num_corrupt), *data.corrupt])),
    ]


def _describe_split(split: SplitInfo) -> str:
    cut = "" if split.num_truncated is None else f", {split.num_truncated} truncated"
    return f"{split.num_examples} examples{cut}, ids {split.ids_digest[:12]}"


def _joined(items: Iterable[str]) -> str:
    return ", ".join(items)


def _artifacts(record: Record) -> Lines:
    return [
        (use.kind, f"{'made' if use.built else 'reused'}, {scale.duration(use.seconds)}")
        for use in record.artifacts
    ]


def _environment(record: Record) -> Lines:
    env = record.environment
    if env is None:
        return []
    dirty = " with changes" if env.git_dirty else ""
    lines = [
        ("device", f"{env.device_name} ({env.device_class})"),
        ("host", f"{env.host}, {env.cpu}, {env.num_cores} cores"),
        ("memory", f"{scale.megabytes(env.memory_bytes)} MiB"),
        ("platform", f"{env.platform}, Python {env.python}"),
        ("packages", _joined(f"{name} {env.packages[name]}" for name in sorted(env.packages))),
        ("project", f"{env.git_revision}{dirty}" if env.git_revision else "not in git"),
    ]
    if env.driver:
        lines.append(("driver, CUDA", f"{env.driver}, {env.cuda}"))
    return lines


def _classes(scores: Scores | None) -> Lines:
    """Return the classes with the lowest F1 first, since those are what one looks for."""
    if scores is None:
        return []
    ordered = sorted(scores.per_class, key=lambda each: each.f1)[:_MOST_CLASSES]
    lines = [
        (
            each.name,
            f"F1 {scale.percent(each.f1)}%, precision {scale.percent(each.precision)}%, "
            f"recall {scale.percent(each.recall)}%, {each.support} examples",
        )
        for each in ordered
    ]
    hidden = len(scores.per_class) - len(lines)
    return [*lines, ("", f"… and {hidden} better ones")] if hidden else lines
