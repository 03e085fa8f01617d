#!/usr/bin/env bash
#SBATCH --job-name=genrecal-stage1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Stage 1, teacher and student on nodes of their own. From the repository's root:
#   sbatch [--nodes=N] [--gpus-per-node=8] examples/slurm_stage1.sh [KEY=VALUE ...]
# KEY=VALUE changes the configuration, e.g. run.dir=runs/mine/stage1. Change these lines:
CONFIG=${CONFIG:-examples/configs/demo_stage1.yaml}
TEACHER_NODES=${TEACHER_NODES:-1}
RANKS_PER_TEACHER_NODE=${RANKS_PER_TEACHER_NODE:-${RANKS_PER_NODE:-8}}
RANKS_PER_STUDENT_NODE=${RANKS_PER_STUDENT_NODE:-${RANKS_PER_NODE:-8}}

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
launch "$TEACHER_NODES" "$RANKS_PER_TEACHER_NODE" "$RANKS_PER_STUDENT_NODE" "$CONFIG" "$@"
