"""The benchmarks that are known by name: how each asks, scores and reports. Data; the rules are elsewhere.

A file is known by its name as VLMEvalKit distributes it (`SUPPORTED_DATASETS` of `vlmeval/dataset/`),
whatever its case and marks. `docs/evaluation.md` shows this table.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from genrecal_mcore.evaluation import prompts
from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers import (
    Scorer,
    check_answer_is_option,
    check_is_choice,
    check_mathvista,
    score_choice,
    score_match,
    score_mathvista,
    score_mmmu,
    score_mmmu_pro,
    score_relaxed,
)
from genrecal_mcore.evaluation.scores import Headline

ROTATION_OFFSET = 10**6
"""An index modulo this is that of the unrotated question (`mcq_circular_eval` in VLMEvalKit)."""


def no_check(question: Question) -> None:
    """Accept any question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """How a benchmark asks, scores and reports."""

    name: str
    pattern: str
    """Of the whole name, in small letters and digits only."""
    prompt: Callable[[Mapping[str, str]], str] = prompts.choice_prompt
    """A row's columns -> the text of the question."""
    score: Scorer | None = score_choice
    """None where only a language model can judge."""
    check: Callable[[Question], None] = check_answer_is_option
    """Raises `BrokenSample` for a row that could not be scored."""
    headline: Headline = Headline()
    group_columns: tuple[str, ...] = ("split", "l2-category", "l2_category", "category")
    needs: tuple[str, ...] = ("question",)
    """Columns besides index, image and answer."""
    max_new_tokens: int = 128
    """Our choice: enough for what is asked for, and an answer that is cut is counted."""
    places_images: bool = False
    """Whether the text says where each image stands, as `<image 2>`."""
    has_rotations: bool = False
    """Whether indices say which questions are rotations of one; a `g_index` column says so anywhere."""
    has_answers: bool = True
    has_own_json: bool = False
    """Whether its makers' JSON file is read: `files.mm_vet`."""
    judge: str | None = None
    """What judges the predictions, in words."""


_MMMU = Benchmark(
    name="MMMU",
    pattern=r"mmmu(dev|val|devval|validation)?",
    score=score_mmmu,
    headline=Headline(column="split", value="validation"),
    places_images=True,
    max_new_tokens=512,
)
_MM_VET = Benchmark(
    name="MM-Vet",
    pattern=r"mmvet(hard)?",
    prompt=prompts.plain_prompt,
    score=None,
    check=no_check,
    group_columns=("category",),
    max_new_tokens=512,
    has_own_json=True,
    judge="GPT-4, by MM-Vet's own evaluator or VLMEvalKit's",
)
_MMBENCH = Benchmark(
    name="MMBench",
    pattern=r"mmbench(dev)?(en|cn|ko|ar|pt|ru|tr)?(v11)?(mini)?",
    has_rotations=True,
)

BENCHMARKS = (
    _MMBENCH,
    replace(
        _MMBENCH,
        name="MMBench, test",
        pattern=r"mmbenchtest(en|cn)(v11)?",
        score=None,
        check=no_check,
        has_answers=False,
        judge="the benchmark's own server",
    ),
    _MMMU,
    replace(
        _MMMU,
        name="MMMU, test",
        pattern="mmmutest",
        score=None,
        check=no_check,
        has_answers=False,
        judge="the benchmark's own server",
    ),
    replace(
        _MMMU,
        name="MMMU-Pro, 10 options",
        pattern=r"mmmupro(10c|standard)?",
        prompt=prompts.letter_prompt,
        score=score_mmmu_pro,
        check=check_is_choice,
        headline=Headline(),
    ),
    Benchmark(
        name="MMMU-Pro, vision",
        pattern=r"mmmuprov(ision)?",
        prompt=prompts.in_image_prompt,
        score=score_mmmu_pro,
        check=check_is_choice,
        needs=(),
        max_new_tokens=512,
    ),
    Benchmark(name="MMStar", pattern=r"mmstar(ko|tr|mini)?"),
    Benchmark(name="AI2D", pattern=r"ai2d(test)?(nomask)?(mini)?"),
    Benchmark(name="SEED-Bench-2-Plus", pattern=r"seed(bench)?2plus"),
    Benchmark(name="RealWorldQA", pattern="realworldqa"),
    Benchmark(name="BLINK", pattern=r"blink(val|circular)?", headline=Headline(column="category")),
    Benchmark(
        name="ChartQA",
        pattern=r"chartqa(test)?(human|augmented)?",
        prompt=prompts.short_answer_prompt,
        score=score_relaxed,
        check=no_check,
        headline=Headline(column="split"),
        max_new_tokens=64,
    ),
    Benchmark(
        name="MathVista",
        pattern=r"mathvista(mini|testmini)?",
        prompt=prompts.plain_prompt,
        score=score_mathvista,
        check=check_mathvista,
        group_columns=("task", "skills"),
        needs=("question", "question_type", "answer_type"),
        max_new_tokens=1024,
        judge="a language model that extracts answers, in MathVista's own code or VLMEvalKit",
    ),
    _MM_VET,
    replace(_MM_VET, name="MM-Vet v2", pattern="mmvetv2"),
)

CHOICE = Benchmark(name="multiple choice", pattern="")
"""A TSV file of an unknown name whose columns hold options."""
OPEN = Benchmark(
    name="short answers",
    pattern="",
    prompt=prompts.short_answer_prompt,
    score=score_match,
    check=no_check,
    max_new_tokens=64,
)
"""A TSV file of an unknown name without options."""
CONVERSATIONS = Benchmark(name="conversations", pattern="", score=score_match, max_new_tokens=64)
"""A file in the LLaVA format, asked as it stands."""


def benchmark_named(name: str) -> Benchmark | None:
    """Return the benchmark that goes by a name, such as `MMBench_DEV_EN_V11` or `mmstar`, if one does."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = [benchmark for benchmark in BENCHMARKS if re.fullmatch(benchmark.pattern, plain)]
    return found[0] if found else None
