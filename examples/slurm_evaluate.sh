#!/usr/bin/env bash
#SBATCH --job-name=genrecal-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --open-mode=append
#SBATCH --requeue
# Export a run's student and score it on one node, a rank a GPU; goes on where it was interrupted. From the repository's root:
#   RUN=runs/mine/stage3 BENCHMARKS="MMStar.tsv AI2D_TEST.tsv" sbatch --gpus-per-node=8 examples/slurm_evaluate.sh
RUN=${RUN:-runs/demo/stage3}
OUT=${OUT:-$RUN/export}
BENCHMARKS=${BENCHMARKS:-runs/demo/data/heldout.jsonl} # FILE or NAME=FILE, several between spaces
IMAGES=${IMAGES:-runs/demo/data/images}                # of files that name images
RANKS=${RANKS:-${SLURM_GPUS_ON_NODE:-1}}

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
if [[ ! -e $OUT ]]; then
    "${SRUN[@]}" python -m genrecal_mcore.cli.main export "$RUN" --out "$OUT"
fi
read -r -a files <<<"$BENCHMARKS"
"${SRUN[@]}" python -m torch.distributed.run --standalone --nproc-per-node="$RANKS" -m genrecal_mcore.cli.main evaluate \
    "$OUT/student" "${files[@]/#/--benchmark=}" --images "$IMAGES" --out "$OUT/scores"
