#!/bin/sh
# Install a Slurm for the tests of this folder from Debian's packages where that is possible, and
# say plainly where it is not. Nothing of it is started here: no service runs outside the tests.
packages="slurm-wlm slurmdbd munge mariadb-server"
policy=/usr/sbin/policy-rc.d
PATH=$PATH:/usr/sbin:/sbin

present() {
    for program in munged mariadbd slurmdbd slurmctld slurmd; do
        command -v "$program" > /dev/null || return 1
    done
}

left_out() {
    echo "The tests on a real Slurm are left out: $1."
    exit 0
}

present && exit 0
[ "$(id -u)" = 0 ] || left_out "only root can install and start it"
command -v apt-get > /dev/null || left_out "there is no apt-get to install $packages"
echo "Installing $packages for the tests on a real Slurm"
if [ ! -e $policy ]; then # a fresh package would start its service
    printf '#!/bin/sh\nexit 101\n' > $policy && chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
quick="-o Acquire::http::Timeout=20 -o Acquire::Retries=1"
# shellcheck disable=SC2086
{ apt-get $quick update && apt-get $quick install -y --no-install-recommends $packages; } \
    > "$log" 2>&1 ||
    { tail -3 "$log"; left_out "the packages $packages cannot be installed here"; }
rm -f "$log"
