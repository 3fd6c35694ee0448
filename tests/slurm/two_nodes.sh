#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tests: controller, accounting and both nodes on loopback, without systemd
# or cgroups. It needs root and Debian's packages:
#   slurmctld slurmd slurmdbd slurm-client slurm-wlm-basic-plugins slurm-wlm-mysql-plugin mariadb-server munge
#
#   two_nodes.sh up FOLDER [PORT]     all of it, in an empty folder, on ports from PORT; then SLURM_CONF=FOLDER/slurm.conf
#   two_nodes.sh kill FOLDER NODE     node n1 or n2 and everything that runs on it, at once; Slurm sees it down then
#   two_nodes.sh back FOLDER NODE     the node again
#   two_nodes.sh down FOLDER          the end of all of it
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
action=$1 dir=$2
export SLURM_CONF=$dir/slurm.conf

until_true() { # SECONDS COMMAND...: wait until it succeeds
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "two_nodes.sh: gave up waiting for: $*" >&2; return 1; }
        sleep 0.3
    done
}

both_up() { [ "$(sinfo -h -N -o %t | grep -cE '^(idle|mix|alloc|comp)$')" = 2 ]; }
is_down() { [[ $(sinfo -h -n "$1" -o %t) == *down* ]]; }
sql() { mariadb --no-defaults -S "$dir/mysql/socket" -e "$1"; }

up() {
    local port=${1:-17000} host path=$dir
    host=$(hostname -s)
    mkdir -p "$dir"/{control,mysql,munge,n1,n2}
    # The database runs as a user of its own, who has to reach its folder.
    while [ "$path" != / ]; do chmod o+x "$path"; path=$(dirname "$path"); done
    chown mysql "$dir/mysql"

    head -c 1024 /dev/urandom >"$dir/munge/key"; chmod 600 "$dir/munge/key"
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge.pid" \
        --log-file="$dir/munge.log" --seed-file="$dir/munge/seed" 2>/dev/null

    mariadb-install-db --no-defaults --user=mysql --datadir="$dir/mysql" --skip-test-db \
        --auth-root-authentication-method=socket >"$dir/mysql.log"
    mariadbd --no-defaults --user=mysql --datadir="$dir/mysql" --socket="$dir/mysql/socket" \
        --pid-file="$dir/mysql/pid" --port=$((port + 4)) --bind-address=127.0.0.1 >>"$dir/mysql.log" 2>&1 &
    until_true 60 sql 'select 1'
    sql "create database slurm_acct_db; create user slurm@127.0.0.1 identified by 'test';
         grant all on slurm_acct_db.* to slurm@127.0.0.1"
    cat >"$dir/slurmdbd.conf" <<END
AuthInfo=socket=$dir/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 3))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 4))
StorageUser=slurm
StoragePass=test
LogFile=$dir/slurmdbd.log
PidFile=$dir/slurmdbd.pid
END
    chmod 600 "$dir/slurmdbd.conf"
    # cred_expire: or else each job that is queued again waits two minutes for what was granted before to run out.
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=$dir/munge/socket,cred_expire=10
StateSaveLocation=$dir/control
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass=$dir/munge/socket
AccountingStoragePort=$((port + 3))
JobAcctGatherType=jobacct_gather/linux
ReturnToService=2
SlurmdTimeout=5
KillWait=10
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2
PartitionName=test Nodes=ALL Default=YES State=UP
END
    SLURM_CONF=$dir/slurm.conf slurmdbd
    until_true 60 sacctmgr -n list cluster
    sacctmgr -i add cluster test >/dev/null
    slurmctld -f "$SLURM_CONF"
    back n1; back n2
    until_true 60 both_up
}

back() { slurmd -N "$1" -f "$SLURM_CONF"; }

steps_of() { # NODE: the processes of its steps, and those that watch over them
    local process parent
    for process in /proc/[0-9]*; do
        process=${process#/proc/}
        [ "$process" != $$ ] || continue
        if tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qx "SLURM_CONF=$SLURM_CONF" &&
            tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qx "SLURMD_NODENAME=$1"; then
            echo "$process"
            parent=$(awk '/^PPid/ {print $2}' "/proc/$process/status" 2>/dev/null || echo 1)
            if tr '\0' ' ' <"/proc/$parent/cmdline" 2>/dev/null | grep -q '^slurmstepd'; then echo "$parent"; fi
        fi
    done 2>/dev/null | sort -un
}

end_node() {
    kill -KILL "$(cat "$dir/$1.pid")" 2>/dev/null || true
    local found
    found=$(steps_of "$1")
    [ -z "$found" ] || kill -KILL $found 2>/dev/null || true
}

down() {
    end_node n1; end_node n2
    for name in slurmctld slurmdbd munge mysql/pid; do
        name=$dir/${name%.pid}; [ -f "$name" ] || name=$name.pid
        [ ! -f "$name" ] || kill -KILL "$(cat "$name")" 2>/dev/null || true
    done
}

case $action in
up) up "${3:-}" ;;
kill) end_node "$3"; until_true 60 is_down "$3" ;;
back) back "$3"; until_true 60 both_up ;;
down) down ;;
*) echo "two_nodes.sh: $action; accepted: up, kill, back, down" >&2; exit 2 ;;
esac
