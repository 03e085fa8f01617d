"""What a benchmark's file says: the questions that can be asked, the rows that cannot."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from genrecal_mcore.data import count_reasons
from genrecal_mcore.evaluation.benchmarks import Benchmark
from genrecal_mcore.evaluation.question import LeftOut, Question


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A file, read."""

    benchmark: Benchmark
    questions: tuple[Question, ...]
    """In the file's order."""
    left_out: tuple[LeftOut, ...]
    columns: tuple[str, ...] = ()
    """Of a TSV file, without that of the images."""

    @property
    def num_rows(self) -> int:
        """Return how many rows or records there are."""
        return len(self.questions) + len(self.left_out)

    def without(self, broken: Iterable[LeftOut]) -> "Reading":
        """Return the reading with more rows left out, and with them other rotations of their questions."""
        left_out = [*self.left_out, *broken]
        indices = {row.index for row in left_out}
        questions = [question for question in self.questions if question.index not in indices]
        broken_rotations = {row.rotation_of: row for row in left_out if row.rotation_of is not None}
        unrotated = {question.index for question in questions}
        kept = []
        for question in questions:
            reason = _why_incomplete(question, broken_rotations, unrotated)
            if reason is None:
                kept.append(question)
                continue
            row = LeftOut(index=question.index, number=question.number, reason=reason)
            left_out.append(row)
        left_out.sort(key=lambda row: row.number)
        return replace(self, questions=tuple(kept), left_out=tuple(left_out))

    def check_share(self, where: str, *, max_share: float) -> None:
        """Raise `ValueError` with counts by reason when too many rows are left out, or none is there."""
        if self.questions and len(self.left_out) <= max_share * self.num_rows:
            return
        if not self.num_rows:
            raise ValueError(f"{where} holds no rows; name a file with at least one question")
        counts = count_reasons(row.reason for row in self.left_out)
        first = "; ".join(
            f"row {row.number} (index {row.index!r}): {row.reason}" for row in self.left_out[:3]
        )
        raise ValueError(
            f"{where}: {len(self.left_out)} of {self.num_rows} rows are broken, more than "
            f"--max-skipped-share ({max_share:g}) allows: {counts}. The first: {first}. Repair them, "
            "download the file again or raise the share"
        )


def _why_incomplete(question: Question, broken: Mapping[str, LeftOut], unrotated: set[str]) -> str | None:
    """Say why a question that is asked in rotations cannot be scored; None when it can."""
    name = question.rotation_of
    if name is None:
        return None
    if name in broken:
        return f"of the rotations of question {name}, that of index {broken[name].index!r} is broken"
    return None if name in unrotated else f"the unrotated question {name} is not there"
