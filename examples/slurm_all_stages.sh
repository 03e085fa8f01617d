#!/usr/bin/env bash
# Submit the three stages, each to begin when the one before has ended well. From the repository's root, not with sbatch:
#   examples/slurm_all_stages.sh [SBATCH OPTION ...]
# Each stage's own script says what else can be set; everything that is exported reaches all of them. Change this line:
RUNS=${RUNS:-runs/demo}

set -euo pipefail
stage1=$(sbatch --parsable "$@" examples/slurm_stage1.sh "run.dir=$RUNS/stage1")
stage2=$(sbatch --parsable "$@" --dependency="afterok:$stage1" examples/slurm_stage2.sh \
    "run.dir=$RUNS/stage2" "init_from=$RUNS/stage1")
stage3=$(sbatch --parsable --dependency="afterok:$stage2" examples/slurm_stage3.sh \
    "run.dir=$RUNS/stage3" "init_from=$RUNS/stage2")
echo "stage 1: job $stage1, stage 2: job $stage2, stage 3: job $stage3"
