#!/usr/bin/env bash
#SBATCH --job-name=genrecal-convert
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Convert a teacher; no GPU is needed. From the repository's root:
#   HF_PATH=models/InternVL2_5-78B OUT=checkpoints/teacher sbatch examples/slurm_convert.sh
HF_PATH=${HF_PATH:-examples/demo/teacher_hf}
OUT=${OUT:-work/teacher}
TP=${TP:-1}
PP=${PP:-1}
JOBS=${JOBS:-2}

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
# shellcheck source=examples/slurm_lib.sh
source examples/slurm_lib.sh
"${SRUN[@]}" python checkpoint_tools/hf2mcore.py --hf-path "$HF_PATH" --out "$OUT" --tp "$TP" --pp "$PP" \
    --jobs "$JOBS" --verify --resume
