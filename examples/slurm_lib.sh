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

# Before the time limit or a preemption Slurm sends USR1 (--signal=B:USR1@...). The ranks see this file, finish their step,
# write a checkpoint (or their shards) and leave; the job goes back into the queue and, once started again, on from there.
export STOP_FILE=$PWD/.stop_$SLURM_JOB_ID

# What every rank runs, with options of its own that plan does not know.
VERB=(train --resume-or-begin)

# launch TEACHER_NODES RANKS_PER_TEACHER_NODE RANKS_PER_STUDENT_NODE ARGUMENTS...: one torchrun a node, the teacher's nodes
# first, so that its ranks are the first of the job. Ends as the run does, or goes back into the queue when Slurm asked.
launch() {
    local -x TEACHER_NODES=$1 TEACHER_RANKS=$2 STUDENT_RANKS=$3 MASTER_ADDR MASTER_PORT
    shift 3
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
    rm -f "$STOP_FILE" "$STOP_FILE.obeyed"
    trap 'echo "$(date +%T) asked to stop: the step ends and is saved"; touch "$STOP_FILE"' USR1

    # A layout that does not fit ends here, in seconds.
    local ranks=$((TEACHER_NODES * TEACHER_RANKS + (SLURM_NNODES - TEACHER_NODES) * STUDENT_RANKS))
    local plan=(python -m genrecal_mcore.cli.main plan "$@" --ranks "$ranks")
    if ((TEACHER_NODES > 0)); then plan+=(--teacher-ranks-per-node "$TEACHER_RANKS"); fi
    "${SRUN[@]}" --nodes=1 "${plan[@]}"

    # shellcheck disable=SC2016  # expanded on each node
    "${SRUN[@]}" bash -c '
        ranks=$STUDENT_RANKS
        if ((SLURM_NODEID < TEACHER_NODES)); then ranks=$TEACHER_RANKS; fi
        code=0
        trap : TERM # torchrun gets it too, and is waited for
        python -m torch.distributed.run --nnodes="$SLURM_NNODES" --node-rank="$SLURM_NODEID" \
            --nproc-per-node="$ranks" --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" \
            -m genrecal_mcore.cli.main "$@" || code=$?
        # Ranks that left as asked are no failure: a step that srun has to kill may be killed again a minute later,
        # when the job has begun anew and its steps have the same numbers.
        if [[ -e $STOP_FILE ]] && ((code != 0)); then
            touch "$STOP_FILE.obeyed"
            code=0
        fi
        exit "$code"' \
        bash "${VERB[@]}" "$@" --stop-file "$STOP_FILE" & # in the background: bash then takes signals at once
    local run=$! code=0
    wait "$run" || code=$?
    while kill -0 "$run" 2>/dev/null; do # a signal ends wait, not the run
        code=0
        wait "$run" || code=$?
    done

    if [[ -e $STOP_FILE.obeyed ]]; then
        rm -f "$STOP_FILE" "$STOP_FILE.obeyed"
        echo "$(date +%T) preempted: job $SLURM_JOB_ID goes back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
        exit 75 # EX_TEMPFAIL, seen where the job may not be requeued
    fi
    rm -f "$STOP_FILE"
    return "$code"
}
