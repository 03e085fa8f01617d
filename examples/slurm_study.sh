#!/usr/bin/env bash
#SBATCH --job-name=genrecal-study
#SBATCH --array=1-4
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
#SBATCH --requeue
# A study's runs, dealt out to the tasks of an array, each on one node; submitted again, every task goes on. From the repository's
# root, tasks counted from 1:
#   GRID=my_grid.yaml sbatch [--array=1-8] [--gpus-per-node=8] examples/slurm_study.sh
# Then, for the table over all tasks: genrecal study my_grid.yaml. Change these lines:
GRID=${GRID:-examples/configs/study_small.yaml}
JOBS=${JOBS:-1} # runs at once on a node

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
"${SRUN[@]}" python -m genrecal_mcore.cli.main study "$GRID" --jobs "$JOBS" \
    --task "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
