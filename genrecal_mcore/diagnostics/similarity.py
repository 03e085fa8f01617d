"""How near the recalibrated features of both paths come to each other: Figures 6 and 7 of the paper."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from genrecal_mcore.diagnostics.paths import PathOutput

GROUP_SIZE = 10
"""Samples of a cosine matrix, as in Figure 7."""
NUM_PERMUTATIONS = 100
"""Of the samples; each is cut into as many groups as it holds."""


def pooled_features(student: Sequence[PathOutput], teacher: Sequence[PathOutput]) -> dict[str, torch.Tensor]:
    """Return each kind K of `PathOutput.pooled` as `student_K` and `teacher_K` `[n, h]`, one row a sample."""
    return {
        f"{name}_{kind}": torch.stack([out.pooled[kind] for out in outputs])
        for name, outputs in (("student", student), ("teacher", teacher))
        for kind in outputs[0].pooled
    }


def mean_cosine_matrix(
    student: torch.Tensor, teacher: torch.Tensor, groups: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return `[g, g]`: the cosine of row i of `student` `[n, h]` and row j of `teacher`, the mean over groups
    of g samples.
    """
    cosines = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).t()  # [n, n]
    index = torch.tensor(groups)
    return cosines[index[:, :, None], index[:, None, :]].mean(0)


def random_groups(num_samples: int) -> list[list[int]]:
    """Return groups of `GROUP_SIZE` samples, no sample twice in one; the same for the same number."""
    generator = np.random.Generator(np.random.PCG64(0))
    groups = []
    for _ in range(NUM_PERMUTATIONS):
        order = generator.permutation(num_samples).tolist()
        groups += [
            order[first : first + GROUP_SIZE] for first in range(0, num_samples - GROUP_SIZE + 1, GROUP_SIZE)
        ]
    return groups
