"""The figures of a study, each from what its files hold; where they hold nothing, what would make it.

They are drawn by `observability.figures`; how a number came about is said by the room that wrote the file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrecal_mcore.observability import diagnosed_steps, read_diagnostics, read_metrics
from genrecal_mcore.study.course import course_folder, read_course
from genrecal_mcore.study.study_files import Place, StudyFiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT_MAP_TITLE = "Teachers and students (Figure 5)"
FEATURES_TITLE = "Features of both models (Figure 6)"
COSINES_TITLE = "Cosines of both paths (Figure 7)"
LOSSES_TITLE = "Losses beside both models' own (Figure 9)"
COURSES_TITLE = "Accuracy along the stages (Figure 10)"
NO_DIAGNOSES = "it needs diagnosed runs; name their arms in diagnose.arms of the grid."


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFigure:
    """A figure of a study and the sentence below it."""

    name: str
    """Of its file."""
    title: str
    figure: "Figure"
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingFigure:
    """A figure that the study's files do not allow."""

    title: str
    reason: str
    """What it needs."""


def study_figures(study: StudyFiles) -> Iterator[StudyFigure | MissingFigure]:
    """Return every figure, or what it lacks."""
    for make, title, reason in _KINDS:
        yield from make(study) or [MissingFigure(title=title, reason=reason)]


def gains(study: StudyFiles) -> list[StudyFigure]:
    """Draw the paired differences of every arm to the reference arm."""
    from genrecal_mcore.observability.figures import gain_figure

    reference = study.grid["reference"]
    panels = {_words(place): paired_differences(study, place) for place in study.places}
    panels = {title: arms for title, arms in panels.items() if arms}
    if not panels:
        return []
    caption = (
        "Differences seed by seed, in points of accuracy, with the number of seeds, of arms whose student "
        "learns; bars are two standard errors. Gray bars touch zero: nothing is shown there."
    )
    figure = gain_figure(panels, reference=reference)
    return [_figure("gains", f"Gains over {reference}", figure, caption)]


def paired_differences(study: StudyFiles, place: Place) -> dict[str, list[float]]:
    """Return accuracies of arms that teach minus the reference arm's with the same seed, in points."""
    of_arm = study.accuracies(place)
    reference = of_arm.pop(study.grid["reference"], {})
    differences = {
        arm: [value - reference[seed] for seed, value in values.items() if seed in reference]
        for arm, values in of_arm.items()
        if {2, 3} & set(study.grid["arms"][arm]["stages"])
    }
    return {arm: found for arm, found in differences.items() if found}


def heat_maps(study: StudyFiles) -> list[StudyFigure]:
    """Draw Figure 5 for each task and each arm that was run on several pairs."""
    from genrecal_mcore.observability.figures import heat_map_figure

    maps: dict[str, dict[tuple[str, str], list[float]]] = {}
    for pair, task in study.places:
        names = study.grid["pairs"][pair]
        for arm, values in study.accuracies((pair, task)).items():
            if names.get("teacher") and study.grid["arms"][arm]["stages"]:
                cell = Path(names["teacher"]).name, Path(names["student"]).name
                maps.setdefault(f"{arm}, {task}", {})[cell] = list(values.values())
    maps = {title: cells for title, cells in maps.items() if len(cells) > 1}
    if not maps:
        return []
    caption = "Mean accuracy in percent over seeds, and its standard deviation, by teacher and student."
    return [_figure("heat_map", HEAT_MAP_TITLE, heat_map_figure(maps), caption)]


def features(study: StudyFiles) -> list[StudyFigure | MissingFigure]:
    """Draw Figure 6 of each place: the first seed of each diagnosed arm, at its run's beginning and end."""
    from genrecal_mcore.observability.diagnosis_section import layouts_at_ends
    from genrecal_mcore.observability.figures import tsne_figure

    caption = (
        "t-SNE of features pooled over question positions, one point a held-out sample, of one seed. "
        "A run with one panel was diagnosed once: genrecal diagnose RUN --step 0 adds its beginning."
    )
    found: list[StudyFigure | MissingFigure] = []
    for place in study.places:
        title = f"{FEATURES_TITLE}: {_words(place)}"
        try:
            layouts = {
                f"{arm}, step {step}": layout
                for arm, runs in study.diagnosed(place).items()
                for step, layout in layouts_at_ends(diagnosed_steps(runs[min(runs)])).items()
            }
        except RuntimeError as error:  # scikit-learn is not there
            return [MissingFigure(title=FEATURES_TITLE, reason=str(error))]
        if layouts:
            found.append(_figure(f"features_{_name(place)}", title, tsne_figure(layouts), caption))
    return found


def cosines(study: StudyFiles) -> list[StudyFigure]:
    """Draw Figure 7 of each place: the diagnosed arms side by side, means over their seeds."""
    from genrecal_mcore.observability.diagnosis_section import POOLINGS
    from genrecal_mcore.observability.figures import cosine_figure, mean_matrix

    found = []
    for place in study.places:
        for pooling, words in POOLINGS.items():
            matrices = {
                f"{arm} ({len(runs)} runs)": mean_matrix(
                    [newest_diagnosis(run)["cosine"][pooling]["matrix"] for run in runs.values()]
                )
                for arm, runs in study.diagnosed(place).items()
            }
            if matrices:
                name, title = f"cosines_{pooling}_{_name(place)}", f"{COSINES_TITLE}: {_words(place)}"
                caption = f"Recalibrated features {words}, mean over runs."
                found.append(_figure(name, title, cosine_figure(matrices), caption))
    return found


def losses(study: StudyFiles) -> list[StudyFigure]:
    """Draw Figure 9: the first seed of each diagnosed arm, in all places."""
    from genrecal_mcore.observability.figures import RunLosses, losses_and_perplexities_figure

    runs = {
        f"{arm}: {_words(place)}": RunLosses(
            metrics=read_metrics(run / "metrics.jsonl"), diagnostics=newest_diagnosis(run)
        )
        for place in study.places
        for arm, of_seed in study.diagnosed(place).items()
        for run in [of_seed[min(of_seed)]]
    }
    if not runs:
        return []
    caption = (
        "Lines: training samples, one seed. Levels: both models through their own heads, on the samples of "
        "the diagnosis."
    )
    figure = losses_and_perplexities_figure(runs)
    return [_figure("losses", LOSSES_TITLE, figure, caption)]


def courses(study: StudyFiles) -> list[StudyFigure]:
    """Draw Figure 10: the accuracy of arms along their stages."""
    from genrecal_mcore.observability.figures import domains_figure

    panels: dict[str, dict[str, dict[float, list[float]]]] = {}
    for trial in study.trials:
        task = trial.place[1]
        asked = {stage: read_course(course_folder(run, task)) for stage, run in trial.runs.items()}
        if not asked or not all(asked.values()):
            continue
        course = panels.setdefault(_words(trial.place), {}).setdefault(trial.arm, {})
        for at in (at for of_stage in asked.values() for at in of_stage):
            if at.value is not None:
                course.setdefault(at.progress, []).append(100 * at.value)
    if not panels:
        return []
    caption = (
        "Held-out accuracy at each checkpoint kept, mean of the seeds and band of their standard deviation. "
        "Stage 1 does not change the student."
    )
    return [_figure("courses", COURSES_TITLE, domains_figure(panels), caption)]


def newest_diagnosis(run_dir: Path) -> dict[str, Any]:
    """Return what the diagnosis of a run's last diagnosed step says."""
    steps = diagnosed_steps(run_dir)
    facts = read_diagnostics(steps[max(steps)])
    assert facts is not None
    return facts


def _figure(name: str, title: str, figure: "Figure", caption: str) -> StudyFigure:
    return StudyFigure(name=name, title=title, figure=figure, caption=caption)


def _words(place: Place) -> str:
    return ", ".join(place)


def _name(place: Place) -> str:
    return "_".join(place)


_Make = Callable[[StudyFiles], Sequence[StudyFigure | MissingFigure]]
_KINDS: tuple[tuple[_Make, str, str], ...] = (
    (gains, "Gains", "it needs results of the reference arm and of another arm with the same seed."),
    (heat_maps, HEAT_MAP_TITLE, "it needs an arm on at least two pairs."),
    (features, FEATURES_TITLE, NO_DIAGNOSES),
    (cosines, COSINES_TITLE, NO_DIAGNOSES),
    (losses, LOSSES_TITLE, NO_DIAGNOSES),
    (
        courses,
        COURSES_TITLE,
        "it needs the students of every checkpoint of an arm's runs asked; name arms in courses of the grid.",
    ),
)
