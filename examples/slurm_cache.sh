#!/usr/bin/env bash
#SBATCH --job-name=genrecal-cache
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Write the teacher's features of every sample to files; no student model is loaded. Requeued or submitted again, it adds what is
# missing. From the repository's root:
#   CACHE=caches/mine sbatch [--nodes=N] [--gpus-per-node=8] examples/slurm_cache.sh [KEY=VALUE ...]
# KEY=VALUE changes the configuration, e.g. teacher.cache_rows=all. Change these lines:
CONFIG=${CONFIG:-examples/configs/demo_stage1.yaml}
CACHE=${CACHE:-runs/demo/cache}
TEACHER_NODES=${TEACHER_NODES:-1}
RANKS_PER_TEACHER_NODE=${RANKS_PER_TEACHER_NODE:-${RANKS_PER_NODE:-8}}
RANKS_PER_STUDENT_NODE=${RANKS_PER_STUDENT_NODE:-${RANKS_PER_NODE:-8}}

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
VERB=(cache --out "$CACHE")
# With the cache among its keys, the plan says what it takes and what is free there.
launch "$TEACHER_NODES" "$RANKS_PER_TEACHER_NODE" "$RANKS_PER_STUDENT_NODE" "$CONFIG" "teacher.write_cache=$CACHE" "$@"
