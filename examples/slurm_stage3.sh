#!/usr/bin/env bash
#SBATCH --job-name=genrecal-stage3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Stage 3: the student alone, no teacher nodes. From the repository's root:
#   sbatch [--nodes=N] [--gpus-per-node=8] examples/slurm_stage3.sh [KEY=VALUE ...]
# KEY=VALUE changes the configuration, e.g. run.dir=runs/mine/stage3. Change these lines:
CONFIG=${CONFIG:-examples/configs/demo_stage3.yaml}
RANKS_PER_STUDENT_NODE=${RANKS_PER_STUDENT_NODE:-${RANKS_PER_NODE:-8}}

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
launch 0 0 "$RANKS_PER_STUDENT_NODE" "$CONFIG" "$@"
