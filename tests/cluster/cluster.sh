#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, for tests: Debian's packages, no systemd, as root.
#   cluster.sh start    installs what is missing, starts, waits until both nodes are idle, prints the line to source
#   cluster.sh stop     ends every daemon and job of it and removes its folder
# BSSSL_CLUSTER names the folder (default /tmp/bsssl-cluster), BSSSL_CLUSTER_PORT the first of 13 ports (default 7817).
set -euo pipefail
dir=${BSSSL_CLUSTER:-/tmp/bsssl-cluster}
port=${BSSSL_CLUSTER_PORT:-7817}
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf
mark="# bsssl test cluster"
sql=(mariadb --no-defaults --socket="$dir/mysql.sock")

wait_until() { # seconds command...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "cluster.sh: gave up waiting for: $*; see $dir/log" >&2; return 1; }
    sleep 0.1
  done
}
runs() { [ -s "$dir/$1.pid" ] && [ -d "/proc/$(cat "$dir/$1.pid")" ]; }
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
both_idle() { [ "$(sinfo --noheader --Node --partition=main --format=%t | grep -cx idle)" = 2 ]; }

install_packages() {
  local missing=0 program
  for program in munged slurmctld slurmd sbatch slurmdbd mariadbd; do command -v $program >/dev/null || missing=1; done
  [ $missing = 1 ] || return 0
  # Nothing that the packages bring is started by them.
  local policy=/usr/sbin/policy-rc.d made=0
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; }
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null
  apt-get install -y -qq --no-install-recommends munge slurmctld slurmd slurm-client slurmdbd mariadb-server \
    >"$dir/log/apt" 2>&1 || { tail -n 20 "$dir/log/apt" >&2; exit 1; }
  [ $made = 0 ] || rm -f $policy
}

configure() {
  [ -s "$dir/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$dir/munge.key")
  # Job ids never start at 1 again: results of earlier jobs lie in files named by id.
  [ -s "$dir/first_id" ] || echo $(($(date +%s) % 50000000 + 1000)) >"$dir/first_id"
  local memory
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.45)}' /proc/meminfo)
  cat >"$SLURM_CONF" <<EOF
ClusterName=bsssl
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd-%n
SlurmdDebug=verbose
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1024
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
SlurmdTimeout=10
ReturnToService=2
FirstJobId=$(cat "$dir/first_id")
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$dir/munge.socket
NodeName=bsssl1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 11)) CPUs=4 RealMemory=$memory
NodeName=bsssl2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 12)) CPUs=4 RealMemory=$memory
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
  cat >"$dir/slurmdbd.conf" <<EOF
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile=$dir/log/slurmdbd
PidFile=$dir/slurmdbd.pid
EOF
  chmod 600 "$dir/slurmdbd.conf"
  # The nodes of a job reach each other by name.
  grep -q "$mark" /etc/hosts || echo "127.0.0.1 bsssl1 bsssl2 $mark" >>/etc/hosts
  printf 'export SLURM_CONF=%s GLOO_SOCKET_IFNAME=lo\n' "$SLURM_CONF" >"$dir/env.sh"
}

start_database() {
  [ -d "$dir/database/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$dir/database" \
    --auth-root-authentication-method=normal --skip-test-db >"$dir/log/install-db" 2>&1
  if ! runs mariadbd; then
    setsid mariadbd --no-defaults --user=root --datadir="$dir/database" --socket="$dir/mysql.sock" \
      --port=$((port + 3)) --bind-address=127.0.0.1 --pid-file="$dir/mariadbd.pid" \
      --innodb-lock-wait-timeout=900 >"$dir/log/mariadbd" 2>&1 </dev/null &
  fi
  wait_until 60 "${sql[@]}" -e 'select 1'
  local from
  for from in localhost 127.0.0.1; do
    "${sql[@]}" -e "create user if not exists slurm@'$from' identified by 'slurm';
                    grant all on slurm_acct_db.* to slurm@'$from'"
  done
}

start() {
  [ "$(id -u)" = 0 ] || { echo "cluster.sh: must be root" >&2; exit 1; }
  mkdir -p "$dir/log" "$dir/state" "$dir/bsssl1" "$dir/bsssl2"
  chmod 755 "$dir" "$dir/log"
  install_packages
  configure
  runs munged || munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/log/munged" --seed-file="$dir/munge.seed" >>"$dir/log/start" 2>&1 </dev/null
  wait_until 60 munge --socket="$dir/munge.socket" --no-input
  start_database
  runs slurmdbd || slurmdbd >>"$dir/log/start" 2>&1 </dev/null
  wait_until 60 answers $((port + 2))
  wait_until 60 sacctmgr --noheader show cluster
  sacctmgr --noheader show cluster format=cluster%20 | grep -qw bsssl || sacctmgr --immediate add cluster bsssl >/dev/null
  runs slurmctld || slurmctld >>"$dir/log/start" 2>&1 </dev/null
  wait_until 60 scontrol ping
  local node
  for node in bsssl1 bsssl2; do runs slurmd-$node || slurmd -N $node >>"$dir/log/start" 2>&1 </dev/null; done
  wait_until 60 both_idle
  echo ". $dir/env.sh"
}

end() { # name of a pid file, name of a program
  local pid
  [ -s "$dir/$1.pid" ] || return 0
  pid=$(cat "$dir/$1.pid")
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
  kill -TERM "$pid" 2>/dev/null || true
  wait_until 20 test ! -d "/proc/$pid" || kill -KILL "$pid" 2>/dev/null || true
}

stop() {
  [ -d "$dir" ] || return 0
  if runs slurmctld; then
    scancel --user=root 2>/dev/null || true
    wait_until 15 sh -c 'test -z "$(squeue --noheader)"' 2>/dev/null || true
  fi
  end slurmd-bsssl1 slurmd
  end slurmd-bsssl2 slurmd
  # Jobs outlive a daemon that was killed: what carries our configuration and a job's id is one of theirs.
  local environment pid
  for environment in $(grep -lsz "^SLURM_CONF=$SLURM_CONF\$" /proc/[0-9]*/environ); do
    pid=$(basename "$(dirname "$environment")")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = slurmstepd ] || grep -qsz '^SLURM_JOB_ID=' "$environment"; then
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done
  end slurmctld slurmctld
  end slurmdbd slurmdbd
  end mariadbd mariadbd
  end munged munged
  if grep -q "$mark" /etc/hosts; then
    # In a container the file is mounted and cannot be replaced, only written.
    grep -v "$mark" /etc/hosts >"$dir/hosts" || true
    cat "$dir/hosts" >/etc/hosts
  fi
  rm -rf "$dir"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) echo "usage: cluster.sh start|stop" >&2; exit 2 ;;
esac
