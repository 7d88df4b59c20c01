"""A real Slurm of one node, started by hand in a scratch folder and stopped again.

    python -m tests.full.slurm.cluster FOLDER        until Ctrl-C, for trying things

munge, MariaDB, slurmdbd, slurmctld and slurmd run without systemd, as root, on free ports of
127.0.0.1. The node claims more than the machine has (CPUs, memory, GPUs that are really
/dev/null), so that requests are scheduled as on a cluster. Only /etc/slurm is outside the folder,
because a job step forgets where else a configuration may be; a Slurm that is there already is left
alone.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

CONFIGURATION = Path("/etc/slurm")
MARK = "# a test cluster of this project; removed when it is stopped\n"
PROGRAMS = ("munged", "mungekey", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld")
PROGRAMS += ("slurmd", "setpriv")
ACCOUNT, CPU_PARTITION, GPU_PARTITION = "lab", "batch", "accelerated"
GPUS = 8
SBIN = "/usr/sbin:/sbin"

SLURM_CONF = """\
ClusterName=study
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
GresTypes=gpu
MinJobAge=300
KillWait=30
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:h100:{gpus}
PartitionName={cpu} Nodes={host} Default=YES DefaultTime=10 MaxTime=INFINITE
PartitionName={gpu} Nodes={host} DefaultTime=10 MaxTime=INFINITE
"""
SLURMDBD_CONF = """\
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""
DATABASE = """\
CREATE DATABASE slurm_acct_db;
CREATE USER slurm@127.0.0.1 IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1;
"""


def why_not() -> str | None:
    """Return why no cluster can be started here, None if one can."""
    if os.geteuid() != 0:
        return "only root can start one"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"{', '.join(missing)} not installed (see tests/full/slurm/packages.sh)"
    present = CONFIGURATION / "slurm.conf"
    if present.exists() and not present.read_text().startswith(MARK):
        return f"{present} belongs to another Slurm"
    with tempfile.TemporaryDirectory() as folder:
        try:
            _make_null(f"{folder}/null")
        except PermissionError:
            return "no device files can be made here, which stand for GPUs"
    return None


@contextlib.contextmanager
def running(folder: Path) -> Iterator["Cluster"]:
    """Yield a cluster whose node is idle; all that it started has ended when the block ends.

    SIGTERM ends the block like Ctrl-C: jobs would outlive the daemons.

    Raises:
        RuntimeError: it did not start, or another test cluster is running; says which part.
    """
    cluster = Cluster(folder)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        signal.signal(signal.SIGTERM, former)


@dataclass
class Cluster:
    """The daemons of a cluster and what is asked of them."""

    folder: Path
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: TextIO | None = None

    def start(self) -> None:
        """Start all daemons, each when the one that it needs answers."""
        host, folder = socket.gethostname().split(".")[0], self.folder
        for name in ("state", "spool", "dev"):
            (folder / name).mkdir(parents=True)
        ports = dict(zip(("mariadb", "dbd", "ctld", "slurmd"), _free_ports(4), strict=True))
        self._configure(host, ports)
        self._start_munge()
        self._start_database(ports["mariadb"])
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: _succeeds("sacctmgr", "-n", "list", "cluster"))
        for entry in ("cluster study", f"account {ACCOUNT}", f"user root account={ACCOUNT}"):
            self.ask("sacctmgr", "--immediate", "add", *entry.split())
        self._daemon("slurmctld", "slurmctld", "-D")
        self._daemon("slurmd", "slurmd", "-D", "-N", host)
        self._wait("slurmd", lambda: self.node_state() == "idle")

    def stop(self) -> None:
        """Cancel all jobs, end the daemons in turn and remove the configuration."""
        if "slurmd" in self._daemons:
            _succeeds("scancel", "--full", "--signal=KILL", "--user=root")
            _succeeds("scancel", "--user=root")
            deadline = time.monotonic() + 45  # longer than KillWait
            while self.jobs() and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:  # a slurmd without a controller does not listen
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        if self._lock is not None:
            for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
                (CONFIGURATION / name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints; its failure is an error."""
        result = _run(*command)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
        return result.stdout.strip()

    def node_state(self) -> str:
        """Return the state of the node: idle, mixed, down, ..."""
        return _run("sinfo", "-h", "-o", "%t").stdout.split("\n")[0].strip()

    def jobs(self) -> dict[str, str]:
        """Return the jobs that have not ended, by number, with their state."""
        lines = _run("squeue", "-h", "-o", "%i %T").stdout.splitlines()
        pairs = (line.split() for line in lines)
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def lose_node(self, number: str) -> None:
        """Set the node down, and end what the job runs there, as when the machine is switched off.

        Without control groups slurmd would leave some of those processes behind. The node comes
        back by itself when slurmd registers again.
        """
        node = self.ask("sinfo", "-h", "-o", "%n").split()[0]
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        mark = f"SLURM_JOB_ID={number}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is the kernel's
                of_job = mark in (process / "environ").read_bytes().split(b"\0")
                # a lost slurmstepd would be a job that cannot be launched, which Slurm holds
                if of_job and not (process / "comm").read_text().startswith("slurm"):
                    os.kill(int(process.name), signal.SIGKILL)

    def _configure(self, host: str, ports: dict[str, int]) -> None:
        CONFIGURATION.mkdir(exist_ok=True)
        lock = (CONFIGURATION / "slurm.conf").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RuntimeError("another test cluster is running") from None
        self._lock = lock
        values = {**ports, "host": host, "folder": self.folder, "gpus": GPUS}
        values |= {"cpu": CPU_PARTITION, "gpu": GPU_PARTITION}
        lock.truncate(0)
        lock.write(MARK + SLURM_CONF.format(**values))
        lock.flush()
        devices = self.folder / "dev" / "nvidia"
        for k in range(GPUS):
            _make_null(f"{devices}{k}")
        gpus = f"NodeName={host} Name=gpu Type=h100 File={devices}[0-{GPUS - 1}]\n"
        (CONFIGURATION / "gres.conf").write_text(MARK + gpus)
        secret = CONFIGURATION / "slurmdbd.conf"
        secret.touch(0o600)
        secret.chmod(0o600)
        secret.write_text(MARK + SLURMDBD_CONF.format(**values))

    def _start_munge(self) -> None:
        places = {name: self.folder / f"munge.{name}" for name in ("key", "socket", "pid", "log")}
        self.ask("mungekey", "--create", f"--keyfile={places['key']}")
        options = [f"--{name}-file={places[name]}" for name in ("key", "pid", "log")]
        options += [f"--seed-file={self.folder / 'munge.seed'}", f"--socket={places['socket']}"]
        # forced: the folder's parents may be open to others, whom nobody serves here
        self._daemon("munged", "munged", "--foreground", "--force", *options)
        self._wait("munged", places["socket"].exists)

    def _start_database(self, port: int) -> None:
        data, endpoint = self.folder / "mariadb", self.folder / "mariadb.socket"
        options = ["--no-defaults", "--user=root", f"--datadir={data}"]
        quick = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self.ask("mariadb-install-db", *options, *quick)
        options += [f"--socket={endpoint}", "--bind-address=127.0.0.1", f"--port={port}"]
        options += ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        self._daemon("mariadbd", "mariadbd", *options)
        client = ["mariadb", "--no-defaults", f"--socket={endpoint}", "--user=root"]
        self._wait("mariadbd", lambda: _succeeds(*client, "--execute=SELECT 1"))
        self.ask(*client, f"--execute={DATABASE}")

    def _daemon(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of its own session; it does not outlive this process."""
        with (self.folder / f"{name}.out").open("wb") as output:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env={**os.environ, "PATH": _path()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if self._daemons[name].poll() is not None or time.monotonic() > deadline:
                logs = (self.folder / f"{name}{end}" for end in (".out", ".log"))
                texts = [path.read_text()[-2000:] for path in logs if path.exists()]
                raise RuntimeError("\n".join([f"{name} did not start", *texts]))
            time.sleep(0.1)


def _make_null(path: str) -> None:
    """Make a device file like /dev/null."""
    os.mknod(path, 0o20666, os.stat(os.devnull).st_rdev)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _path()}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def _succeeds(*command: str) -> bool:
    return _run(*command).returncode == 0


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


if __name__ == "__main__":
    reason = why_not()
    if reason or len(sys.argv) != 2:
        sys.exit(reason or f"usage: {sys.argv[0]} FOLDER")
    with contextlib.suppress(KeyboardInterrupt), running(Path(sys.argv[1]).resolve()) as started:
        print(started.ask("sinfo", "-N", "-o", "%N %P %t %c %m %G"), flush=True)
        signal.pause()
