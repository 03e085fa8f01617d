#!/usr/bin/env bash
#SBATCH --job-name=genrecal-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --open-mode=append
# Export a run's student and score it. From the repository's root:
#   RUN=runs/mine/stage3 sbatch examples/slurm_evaluate.sh
RUN=${RUN:-runs/demo/stage3}
OUT=${OUT:-$RUN/export}
DATA=${DATA:-runs/demo/data/heldout.jsonl}
IMAGES=${IMAGES:-runs/demo/data/images}

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
if [[ ! -e $OUT ]]; then
    "${SRUN[@]}" python -m genrecal_mcore.cli.main export "$RUN" --out "$OUT"
fi
"${SRUN[@]}" python -m genrecal_mcore.cli.main evaluate "$OUT/student" --data "$DATA" \
    --images "$IMAGES" --out "$OUT/scores" --overwrite
