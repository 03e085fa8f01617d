# What the scripts beside this one share; sourced by them, in the folder that sbatch was called in.
# shellcheck shell=bash

# In a container when IMAGE is named (pyxis), otherwise in the environment VENV.
SRUN=(srun --kill-on-bad-exit=1 --ntasks-per-node=1)
if [[ -n ${IMAGE:-} ]]; then
    SRUN+=(--container-image="$IMAGE" --container-mounts="${MOUNTS:-$PWD:$PWD}" --container-workdir="$PWD")
else
    VENV=${VENV:-.venv}
    if [[ ! -x $VENV/bin/python ]]; then
        echo "error: $PWD/$VENV/bin/python does not exist; run 'make install', or set VENV or IMAGE" >&2
        exit 2
    fi
    PATH=$PWD/$VENV/bin:$PATH
    export PATH
fi

# Before the time limit or a preemption Slurm sends USR1 (--signal=B:USR1@...): the job goes back into the queue and,
# being started with --resume-or-begin, goes on from its newest checkpoint.
requeue() {
    echo "$(date +%T) signal received: job ${SLURM_JOB_ID} is requeued and will go on from its newest checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
}

# run_and_watch COMMAND...: run it in the background, so that bash can take the signal, and end as it ends.
run_and_watch() {
    trap requeue USR1
    "$@" &
    local command=$! code=0
    wait "$command" || code=$?
    while kill -0 "$command" 2>/dev/null; do # a signal ends wait, not the command
        code=0
        wait "$command" || code=$?
    done
    return "$code"
}

# train TEACHER_NODES RANKS_PER_TEACHER_NODE RANKS_PER_STUDENT_NODE ARGUMENTS...: one torchrun a node, the teacher's nodes
# first, so that its ranks are the first of the job.
train() {
    local -x TEACHER_NODES=$1 TEACHER_RANKS=$2 STUDENT_RANKS=$3 MASTER_ADDR MASTER_PORT
    shift 3
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
    # shellcheck disable=SC2016  # expanded on each node
    run_and_watch "${SRUN[@]}" bash -c '
        ranks=$STUDENT_RANKS
        if ((SLURM_NODEID < TEACHER_NODES)); then ranks=$TEACHER_RANKS; fi
        exec python -m torch.distributed.run --nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID" \
            --nproc-per-node="$ranks" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" \
            -m genrecal_mcore.cli.main train "$@"' bash "$@" --resume-or-begin
}
