#!/bin/bash
# sbatch ray_configs/slurm.sh
#
# A study on Slurm: a Ray cluster over the nodes of one job, which runs the study and ends. Submit it again to resume.
# `steadytune cluster render STUDY --provider slurm` writes this file with the nodes for one study.
# Change: STUDY, RUN_FOLDER (on a file system that every node mounts), ENVIRONMENT, partition and account, nodes and GPUs.
# Before: python3.11 -m venv ~/steadytune-env && ~/steadytune-env/bin/pip install -c constraints.txt torch==2.13.0 .
# Costs: nodes x hours x what your centre charges, also for idle nodes: their number does not follow the trials, so ask for no
# more than the study keeps busy. --requeue starts the job again when a node fails.
#SBATCH --job-name=steadytune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --output=steadytune-%j.log
# --exclusive: at its end `ray symmetric-run` stops all your Ray processes on the nodes, also those of other jobs.
##SBATCH --partition=CHANGE-ME
##SBATCH --account=CHANGE-ME
set -euo pipefail

STUDY=study.yaml
RUN_FOLDER=/shared/steadytune/runs/study
ENVIRONMENT="$HOME/steadytune-env"

source "$ENVIRONMENT/bin/activate"

# A token for this job alone, in a file that only you can read and that is deleted at its end. It is on no command line.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.steadytune/token-$SLURM_JOB_ID"
mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# The head listens on its own address in the cluster's network; the dashboard answers on 127.0.0.1 only.
HEAD_NODE="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
HEAD="$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD_NODE" hostname --ip-address | awk '{print $1}'):6379"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# The same command on every node: the first becomes the head and runs the study, the others join it.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  --kill-on-bad-exit=1 \
  ray symmetric-run --address "$HEAD" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
  env RAY_ADDRESS="$HEAD" steadytune run "$STUDY" --out "$RUN_FOLDER"
