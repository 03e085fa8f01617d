#!/usr/bin/env bash
# Submit the three stages, each to begin when the one before has ended well. From the repository's root, not with sbatch:
#   examples/slurm_all_stages.sh [SBATCH OPTION ...] [KEY=VALUE ...]
# Options and KEY=VALUE reach all three; so does everything that is exported, see each stage's own script. Change these lines:
RUNS=${RUNS:-runs/demo}                     # gets stage1, stage2, stage3
CONFIGS=${CONFIGS:-examples/configs/demo}   # the configurations are ${CONFIGS}_stage1.yaml and so on
NODES=${NODES:-2}                           # of stages 1 and 2
STUDENT_NODES=${STUDENT_NODES:-1}           # of stage 3

set -euo pipefail
options=() overrides=()
for argument in "$@"; do
    if [[ $argument == -* ]]; then options+=("$argument"); else overrides+=("$argument"); fi
done

# submit STAGE NODES [SBATCH OPTION ...] -- [KEY=VALUE ...]: print the job's number.
submit() {
    local stage=$1 nodes=$2 before=()
    shift 2
    while [[ $1 != -- ]]; do before+=("$1") && shift; done
    shift
    CONFIG=${CONFIGS}_stage$stage.yaml sbatch --parsable "${options[@]}" --nodes="$nodes" "${before[@]}" \
        "examples/slurm_stage$stage.sh" "run.dir=$RUNS/stage$stage" "$@" "${overrides[@]}"
}

stage1=$(submit 1 "$NODES" --)
stage2=$(submit 2 "$NODES" "--dependency=afterok:$stage1" -- "init_from=$RUNS/stage1")
stage3=$(submit 3 "$STUDENT_NODES" "--dependency=afterok:$stage2" -- "init_from=$RUNS/stage2")
echo "stage 1: job $stage1, stage 2: job $stage2, stage 3: job $stage3"
