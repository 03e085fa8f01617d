"""Reads a run's YAML with dotted overrides and reports every problem at once."""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from genrecal_mcore.config.run_config import (
    TWO_HEAD_METHODS,
    DistillationConfig,
    LossConfig,
    RecalibratorConfig,
    RunConfig,
    TeacherConfig,
)


class ConfigError(ValueError):
    """A configuration that cannot be run; the text lists every problem."""


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read `path` and apply overrides such as `mesh.teacher.tp=2`; values are YAML.

    Raises `ConfigError` listing all unknown, missing, mistyped and contradictory keys together.
    """
    return run_config_of(read_mapping(path), overrides, where=str(path))


def run_config_of(raw: dict[str, Any], overrides: Sequence[str] = (), *, where: str) -> RunConfig:
    """Return the configuration of keys and values with overrides, which change `raw` in place.

    `where` is what the text of a `ConfigError` calls them; raises it as `load_run_config` does.
    """
    problems = [text for override in overrides if (text := _apply_override(raw, override))]
    _read_sources(raw)
    config, found = _validate(raw)
    problems += found
    if problems:
        lines = "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, 1))
        raise ConfigError(f"{where} has {len(problems)} problem(s):\n{lines}")
    assert config is not None
    return config


def _validate(raw: dict[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """Return the configuration, if there is one, and its problems, contradictions beside unknown keys."""
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        found = _innermost(error)
        problems = problems_of(error, RunConfig)
        unknown = [problem["loc"] for problem in found if problem["type"] == "extra_forbidden"]
        if not unknown:
            return None, problems
    else:
        return config, contradictions(config)
    known_part = copy.deepcopy(raw)
    for location in unknown:
        _remove(known_part, location)
    without, rest = _validate(known_part)
    return without, problems + [problem for problem in rest if problem not in problems]


def _innermost(error: ValidationError) -> list[Any]:
    """Return pydantic's errors without those that only repeat that something inside them is wrong."""
    errors = error.errors()
    above = {problem["loc"][:depth] for problem in errors for depth in range(len(problem["loc"]))}
    return [problem for problem in errors if problem["loc"] not in above]


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return what is wrong with each key of a file that should have been a `model`, with the nearest keys."""
    return [_describe(problem, model) for problem in _innermost(error)]


def _remove(raw: Any, location: Sequence[int | str]) -> None:
    for part in location[:-1]:
        raw = raw[part]
    del raw[location[-1]]


def write_run_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration, every default filled in, under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial_{path.name}")
    partial.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    partial.rename(path)


def contradictions(config: RunConfig) -> list[str]:
    """Return what is wrong with a configuration whose keys are right one by one."""
    return [
        *_teacher_contradictions(config),
        *_cache_contradictions(config),
        *_start_contradictions(config),
        *_method_contradictions(config),
        *_recalibrator_contradictions(config),
        *_loss_contradictions(config),
        *_number_contradictions(config),
        *_memory_contradictions(config),
        *_data_contradictions(config),
    ]


def _teacher_contradictions(config: RunConfig) -> Iterator[str]:
    label = f"method {config.method}, stage {config.stage}"
    needs_teacher = config.method != "sft" and config.stage in (1, 2)
    for key, value in (("mesh.teacher", config.mesh.teacher), ("teacher.checkpoint", config.teacher)):
        if needs_teacher and value is None and not (config.reads_cache and key == "mesh.teacher"):
            yield f"{key} is missing; {label} needs a teacher"
        if not needs_teacher and value is not None:
            yield f"{key} is set, but {label} has no teacher; remove it"
    mesh = config.mesh.teacher
    if mesh is not None and mesh.sequence_parallel and mesh.tp == 1:
        yield "mesh.teacher.sequence_parallel is true with mesh.teacher.tp 1; set tp to 2 or more"
    if mesh is not None and mesh.layers_per_stage is not None and len(mesh.layers_per_stage) != mesh.pp:
        yield (
            f"mesh.teacher.layers_per_stage {list(mesh.layers_per_stage)} has {len(mesh.layers_per_stage)} "
            f"entries, but mesh.teacher.pp is {mesh.pp}; give one number a stage"
        )


def _cache_contradictions(config: RunConfig) -> Iterator[str]:
    teacher = config.teacher
    if teacher is None:
        return
    if teacher.read_cache is not None and config.mesh.teacher is not None:
        yield (
            "mesh.teacher is set, but teacher.read_cache takes the teacher's features from files; set "
            "mesh.teacher to null or remove teacher.read_cache"
        )
    if teacher.read_cache is not None and teacher.write_cache is not None:
        yield "teacher.read_cache and teacher.write_cache are both set; remove one of them"
    if teacher.write_cache is None:
        for key in ("cache_rows", "cache_shard_mib"):
            if getattr(teacher, key) != TeacherConfig.model_fields[key].default:
                value = getattr(teacher, key)
                yield f"teacher.{key} is {value}, but no teacher.write_cache is set; set it or remove the key"


def _start_contradictions(config: RunConfig) -> Iterator[str]:
    if config.method != "genrecal" and config.stage == 1:
        method = config.method
        yield f"stage 1 does not exist for method {method}, which has no Recalibrator; use stage 2 or 3"
        return
    what = "a stage-2 run" if config.stage == 3 else None
    if config.method == "genrecal" and config.stage == 2:
        what = "a stage-1 run"
    if what and config.init_from is None:
        yield f"init_from is missing; method {config.method}, stage {config.stage} starts from {what}"
    if not what and config.init_from is not None:
        label = f"method {config.method}, stage {config.stage}"
        yield f"init_from is {config.init_from}, but {label} starts afresh; remove it"


def _method_contradictions(config: RunConfig) -> Iterator[str]:
    method, distillation = config.method, config.distillation
    if method not in TWO_HEAD_METHODS and distillation.positions != DistillationConfig().positions:
        positions = distillation.positions
        yield f"distillation.positions is {positions}, but method {method} compares no heads; remove it"
    if method != "skew_reverse_kl" and distillation.skew != DistillationConfig().skew:
        yield f"distillation.skew is {distillation.skew:g}, but method {method} has no skew; remove it"


def _recalibrator_contradictions(config: RunConfig) -> Iterator[str]:
    recalibrator, usual = config.recalibrator, RecalibratorConfig()
    answer_input = recalibrator.answer_input
    for key in ("answer_input", "extra_norm"):
        value = getattr(recalibrator, key)
        if config.method != "genrecal" and value != getattr(usual, key):
            yield f"recalibrator.{key} is {value}, but method {config.method} has no Recalibrator; remove it"
    if recalibrator.student_answers and answer_input != "embeddings":
        yield (
            f"recalibrator.student_answers is true, but recalibrator.answer_input is {answer_input}: the "
            "teacher's features say more than the student's; set it to embeddings"
        )
    if config.train.diagnostics_every_steps is not None and not config.has_recalibrator:
        yield (
            f"train.diagnostics_every_steps is set, but method {config.method}, stage {config.stage} has no "
            "Recalibrator, through which it measures; remove it"
        )
    if answer_input != "masked" and recalibrator.masked_rate != usual.masked_rate:
        yield (
            f"recalibrator.masked_rate is {recalibrator.masked_rate:g}, but recalibrator.answer_input is "
            f"{answer_input}; set that to masked or remove the rate"
        )


def _loss_contradictions(config: RunConfig) -> Iterator[str]:
    method, loss, usual = config.method, config.loss, LossConfig()
    for key, what in (("position_weighting", "positions"), ("ce_weight", "cross entropy")):
        value = getattr(loss, key)
        if method != "genrecal" and value != getattr(usual, key):
            yield (
                f"loss.{key} is {value}, but method {method} has no Recalibrator, whose {what} it weighs; "
                "remove it"
            )
    if method == "sft" and loss.kl_weight != usual.kl_weight:
        yield f"loss.kl_weight is {loss.kl_weight:g}, but method sft has no teacher; remove it"
    if method in TWO_HEAD_METHODS and loss.kl_weight == 0:
        yield f"loss.kl_weight is 0, which leaves nothing of method {method}; use method sft"
    if method == "genrecal" and loss.ce_weight == loss.kl_weight == 0:
        yield "loss.ce_weight and loss.kl_weight are both 0, which leaves no loss; raise one of them"


def _number_contradictions(config: RunConfig) -> Iterator[str]:
    train = config.train
    if train.lr_final > train.lr:
        yield f"train.lr_final ({train.lr_final:g}) is above train.lr ({train.lr:g}); swap them"
    if config.trace is not None and config.trace.first_step >= train.steps:
        yield (
            f"trace.first_step ({config.trace.first_step}) is not a step of this run, which has train.steps "
            f"{train.steps}, counted from 0; choose an earlier one"
        )
    if train.micro_batch_tokens is not None and train.micro_batch_tokens < config.data.max_tokens:
        yield (
            f"train.micro_batch_tokens ({train.micro_batch_tokens}) is below data.max_tokens "
            f"({config.data.max_tokens}), so the longest sample would fit no microbatch; raise the one or "
            "lower the other"
        )


def _memory_contradictions(config: RunConfig) -> Iterator[str]:
    checkpointed = config.train.checkpointed_layers
    if checkpointed is None:
        return
    label = f"train.checkpointed_layers is {checkpointed}"
    if not config.train.gradient_checkpointing:
        yield f"{label}, but train.gradient_checkpointing is false; remove one of them"
    if config.stage == 1:
        yield f"{label}, but in stage 1 the student does not learn and keeps no activations; remove it"


def _data_contradictions(config: RunConfig) -> Iterator[str]:
    weighted = [source.label for source in config.data.sources if source.weight is not None]
    others = [source.label for source in config.data.sources if source.weight is None]
    if weighted and others:
        yield (
            f"data.sources: {', '.join(weighted)} has a weight, but {', '.join(others)} has none; give every "
            "source one, or none"
        )


def _read_sources(raw: dict[str, Any]) -> None:
    """Put the list that `data.sources` names in its place, so that a run's own record of it is whole."""
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("sources"), str):
        return
    path = Path(data["sources"])
    if not path.is_file():
        raise ConfigError(
            f"data.sources: {path} does not exist; give a list of sources, or a YAML file that holds one"
        )
    sources = _read_yaml(path)
    if not isinstance(sources, list):
        raise ConfigError(f"data.sources: {path} must hold a list, found {type(sources).__name__}")
    data["sources"] = sources


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file; raises `ConfigError` when it holds none."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the path of a YAML file")
    raw = _read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values, found {type(raw).__name__}")
    return raw


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None


def _apply_override(raw: dict[str, Any], override: str) -> str | None:
    """Set one dotted key in place; return what is wrong with it, if anything."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        return f"override {override!r} is not of the form key.subkey=value"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"override {key}: {text!r} is not a YAML value"
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            return f"override {key}: {parent} holds a value, not a section"
        node = child
    node[last] = value
    return None


def _describe(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a key{_nearest(location, model)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {problem['msg'].lower()}, found {problem['input']!r}"


def _nearest(location: list[str], model: type[BaseModel]) -> str:
    known = list(known_keys(model))
    asked = ".".join(part for part in location if not part.isdigit())
    near = difflib.get_close_matches(asked, known, n=1, cutoff=0.5)
    if not near:
        same_leaf = [key for key in known if key.rpartition(".")[2] == location[-1]]
        near = same_leaf or difflib.get_close_matches(
            location[-1], [k.rpartition(".")[2] for k in known], n=1
        )
    return f"; the nearest is {near[0]}" if near else ""


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a configuration class, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _sections_of(field.annotation):
            yield from known_keys(section, f"{prefix}{name}.")


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections_of(part)]
