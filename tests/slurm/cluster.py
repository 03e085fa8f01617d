"""A real Slurm on one Linux machine: munged, slurmctld and several slurmd, for tests that break nodes.

Every host has its own network, UTS and mount namespace: its own address, ports, hostname and /etc/hosts. The
file system is the machine's. Jobs are neither confined nor accounted for. Nothing is written outside `root`
but the namespaces' names. Made for Slurm 22.05, which is Debian 12's.
To play: `python -m tests.slurm.cluster up 2`, then `eval "$(python -m tests.slurm.cluster env)"`.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from tests.slurm.network import LOGIN, PATH, Network, ip, run

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "scontrol", "ip", "nsenter", "unshare")
INSTALL = "apt-get install -y --no-install-recommends slurm-wlm munge iproute2 util-linux"
POLL_S = 0.2

SETTINGS = {
    "ClusterName": "local",
    "SlurmUser": "root",
    "StateSaveLocation": "{root}/state",
    "SlurmdSpoolDir": "{root}/spool/%n",
    "SlurmctldPidFile": "{root}/slurmctld.pid",
    "SlurmdPidFile": "{root}/%n.pid",
    "SlurmctldLogFile": "{root}/logs/slurmctld.log",
    "SlurmdLogFile": "{root}/logs/%n.log",
    # cred_expire is also how long a requeued job waits before it starts again: 120 s by default.
    "AuthInfo": "socket={root}/munge.sock,cred_expire=5",
    # A silent node is DOWN after 5 to 10 s, by default after minutes. With 6 and 3 s it takes 11 to 14, with
    # MessageTimeout's default of 10 s 27; a SlurmdTimeout of 3 s is no faster.
    "SlurmdTimeout": "4",
    "MessageTimeout": "2",
    # From SIGTERM to SIGKILL at the end of a job, by default 30 s.
    "KillWait": "3",
    # A node that was DOWN serves again as soon as its slurmd registers.
    "ReturnToService": "2",
    # Finished jobs can be asked about for an hour, by default for 300 s.
    "MinJobAge": "3600",
    # Processes are found through /proc, because the cgroups of a container may be read-only.
    "ProctrackType": "proctrack/linuxproc",
    "AccountingStorageType": "accounting_storage/none",
    # Nodes have the cores and the memory that this file claims, not the machine's.
    "SlurmdParameters": "config_overrides",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core",
    # Jobs are placed at once instead of in rounds of 3, 30 and 60 s.
    "SchedulerParameters": "batch_sched_delay=0,bf_interval=1,sched_interval=2",
    # Jobs have slurmd's limits, which forbid core files, and not their submitter's.
    "PropagateResourceLimits": "NONE",
}


def why_not() -> str | None:
    """Return why no `LocalSlurm` can run here, and what to do about it; None where one can."""
    if os.geteuid() != 0:
        return "a local Slurm needs root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"a local Slurm needs {', '.join(missing)}: {INSTALL}"
    probe = f"grslurm-probe-{os.getpid()}"
    try:
        run("ip", "netns", "add", probe)
        ip(probe, "link add name br0 type bridge", "link add name port master br0 type veth peer name eth0")
    except RuntimeError as error:
        return f"a local Slurm needs CAP_NET_ADMIN and CAP_SYS_ADMIN: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False, env={"PATH": PATH})
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFacts:
    """What slurmctld says of a job; the `end` of a running one is where its time limit lies."""

    state: str
    exit_code: int
    exit_signal: int
    restarts: int
    nodes: tuple[str, ...]
    reason: str
    start: datetime | None
    end: datetime | None


def parse_job(line: str, expand: Callable[[str], Sequence[str]]) -> JobFacts:
    """Return the facts in a line of `scontrol show job -o`; `expand` makes names of `node[1-2]`."""
    # Not split at blanks, which the job's name and command may hold too.
    fields = dict(re.findall(r"(?<!\S)(JobState|ExitCode|Restarts|NodeList|Reason|\w+Time)=(\S*)", line))
    exit_code, exit_signal = map(int, fields["ExitCode"].split(":"))
    nodes = fields.get("NodeList", "").replace("(null)", "")
    return JobFacts(
        state=fields["JobState"],
        exit_code=exit_code,
        exit_signal=exit_signal,
        restarts=int(fields["Restarts"]),
        nodes=tuple(expand(nodes)) if nodes else (),
        reason=fields["Reason"],
        start=_moment(fields["StartTime"]),
        end=_moment(fields["EndTime"]),
    )


class LocalSlurm:
    """A Slurm of `num_nodes` nodes with its configuration, logs and state under `root`; a context manager.

    Every process of it lives in one of its network namespaces, so `down` finds them all, from another process
    too. `settings` are lines of slurm.conf, beside those of `SETTINGS` or in their place.
    """

    def __init__(self, num_nodes: int, root: Path, settings: Mapping[str, str] | None = None) -> None:
        self.root = root.resolve()
        self.nodes = [f"node{number}" for number in range(1, num_nodes + 1)]
        self._settings = SETTINGS | dict(settings or {})
        self._state_file = self.root / "cluster.json"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def find(cls, root: Path) -> "LocalSlurm | None":
        """Return the cluster that is up in `root`, or None."""
        state_file = root / "cluster.json"
        return cls(json.loads(state_file.read_text())["num_nodes"], root) if state_file.exists() else None

    @property
    def environment(self) -> dict[str, str]:
        """Return what sbatch, srun and their like need to find this cluster; jobs inherit it."""
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    @property
    def network(self) -> Network:
        """Return the network that `up` claimed."""
        return Network(index=json.loads(self._state_file.read_text())["index"])

    def __enter__(self) -> "LocalSlurm":
        self.up()
        return self

    def __exit__(self, *exception: object) -> None:
        self.down()

    def up(self) -> None:
        """Start everything and wait until all nodes are idle.

        Raises `RuntimeError` with the last lines of the daemons' logs after stopping what it had started.
        """
        if self._state_file.exists():
            raise RuntimeError(f"{self.root} holds a cluster that is up: take it down first")
        for name in ("state", "spool", "logs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        state = {"index": Network.claim().index, "num_nodes": len(self.nodes)}
        self._state_file.write_text(json.dumps(state))
        try:
            self._write_files()
            self._start_all()
        except BaseException as error:
            self.down()
            if not isinstance(error, Exception):
                raise
            raise RuntimeError(f"the local Slurm did not start: {error}\n{self._last_log_lines()}") from error

    def down(self) -> None:
        """Kill every process and remove every namespace and link; the files under `root` stay."""
        if not self._state_file.exists():
            return
        # One that was started a moment ago may not have entered its namespace yet.
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        self._kill([*self.nodes, LOGIN])
        self.network.remove([*self.nodes, LOGIN])
        self._state_file.unlink()

    def submit(
        self,
        script: Path,
        *args: str,
        cwd: Path,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Submit a batch script from `cwd`, with `environment` beside this process's; return the job's id."""
        command = ["sbatch", "--parsable", *options, str(script), *args]
        return int(run(*command, cwd=cwd, env=self._client_environment() | dict(environment or {})))

    def job(self, job_id: int) -> JobFacts:
        """Return the facts of a job: of a heterogeneous one, those of its first component."""
        lines = self._client("scontrol", "show", "job", "-o", str(job_id)).splitlines()
        return parse_job(lines[0], lambda nodes: self._client("scontrol", "show", "hostnames", nodes).split())

    def wait(self, job_id: int, until: Callable[[JobFacts], bool], timeout_s: float) -> JobFacts:
        """Return the first facts that `until` holds for; raise `TimeoutError` with the last ones."""
        deadline = time.monotonic() + timeout_s
        while not until(facts := self.job(job_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} after {timeout_s:g} s: {facts}; see {self.root / 'logs'}")
            time.sleep(POLL_S)
        return facts

    def cancel(self, job_id: int, signal: str | None = None, batch: bool = False) -> None:
        """Cancel a job, or send a signal to its steps, or with `batch` to its batch shell."""
        options = [f"--signal={signal}"] * (signal is not None) + ["--batch"] * batch
        self._client("scancel", *options, str(job_id))

    def processes_on(self, node: str) -> list[int]:
        """Return the ids of all processes on a node: slurmd, slurmstepd and jobs."""
        return self.network.processes(node)

    def crash(self, node: str) -> None:
        """Kill everything on a node, slurmd included.

        Its kernel still closes the connections, unless the node is unplugged. slurmctld notices after 5 to
        10 s; when slurmd is back earlier, the dead job counts as running until slurmctld asks, after 40 s.
        """
        self._kill([node])

    def start(self, node: str, timeout_s: float = 20.0) -> None:
        """Start a node's slurmd and wait until slurmctld counts on the node again."""
        begin = datetime.now().replace(microsecond=0)
        self._start_daemon(node, node, "slurmd", "-D", "-N", node)
        self._wait_for(node, lambda: self._has_registered(node, begin), timeout_s=timeout_s)

    def unplug(self, node: str) -> None:
        """Take a node's network link down: nothing is closed, all just fall silent."""
        self.network.set_link(node, "down")

    def plug(self, node: str) -> None:
        """Take a node's network link up again."""
        self.network.set_link(node, "up")

    def run_in(self, host: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command with the network, hostname and hosts file of a node or of `login`; check nothing."""
        entered, environment = self._entered(host, command), self._client_environment()
        return subprocess.run(entered, capture_output=True, text=True, check=False, env=environment)

    def _write_files(self) -> None:
        addresses = {host: self.network.address(host) for host in (LOGIN, *self.nodes)}
        lines = [f"{name}={value.format(root=self.root)}" for name, value in self._settings.items()]
        lines.append(f"SlurmctldHost={LOGIN}({addresses[LOGIN]})")
        for node in self.nodes:
            lines.append(f"NodeName={node} NodeAddr={addresses[node]} CPUs=64 RealMemory=256000")
            (self.root / "spool" / node).mkdir(exist_ok=True)
        lines.append(f"PartitionName=batch Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE")
        (self.root / "slurm.conf").write_text("\n".join(lines) + "\n")
        addresses |= {"localhost": "127.0.0.1", "machine": str(self.network.subnet[254])}
        hosts = [f"{address} {host}\n" for host, address in addresses.items()]
        (self.root / "hosts").write_text("".join(hosts))
        (self.root / "munge.key").touch(mode=0o600)
        (self.root / "munge.key").write_bytes(secrets.token_bytes(1024))

    def _start_all(self) -> None:
        socket = f"--socket={self.root / 'munge.sock'}"
        files = [f"--{kind}-file={self.root}/munge.{kind}" for kind in ("key", "pid", "seed")]
        # --force, because a temporary folder is closed to other users, which munged takes for an error.
        self._start_daemon("munged", LOGIN, "munged", "--foreground", "--force", socket, *files)
        self._wait_for("munged", lambda: self._answers("munge", "-n", socket), timeout_s=10)
        # -c: without the jobs of a cluster that was up in this root before.
        self._start_daemon("slurmctld", LOGIN, "slurmctld", "-D", "-c")
        self._wait_for("slurmctld", lambda: self._answers("scontrol", "ping"), timeout_s=20)
        for node in self.nodes:
            self.network.add_node(node)
            self._start_daemon(node, node, "slurmd", "-D", "-c", "-N", node)
        for node in self.nodes:
            self._wait_for(node, partial(self._has_registered, node), timeout_s=20)

    def _entered(self, host: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` on a host; each step is an exec, so the process id stays."""
        shell = 'ulimit -c 0 && hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
        # The mounts follow the machine's: a removed namespace would live on in a private copy of them.
        unshare = ["unshare", "--uts", "--mount", "--propagation=slave"]
        entered = ["nsenter", f"--net=/run/netns/{self.network.namespace(host)}", *unshare]
        return [*entered, "sh", "-c", shell, "sh", host, str(self.root / "hosts"), *command]

    def _start_daemon(self, name: str, host: str, *command: str) -> None:
        with (self.root / "logs" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                self._entered(host, command),
                cwd=self.root,
                env=self._client_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _wait_for(self, daemon: str, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        def has_ended_or_is_ready() -> bool:
            return self._daemons[daemon].poll() is not None or is_ready()

        _wait_until(has_ended_or_is_ready, what=f"an answer of {daemon}", timeout_s=timeout_s)
        if (exit_code := self._daemons[daemon].poll()) is not None:
            raise RuntimeError(f"{daemon} ended with exit code {exit_code}")

    def _answers(self, *command: str) -> bool:
        return self.run_in(LOGIN, command).returncode == 0

    def _has_registered(self, node: str, since: datetime = datetime.min) -> bool:
        line = self._client("scontrol", "show", "node", "-o", node)
        facts = dict(re.findall(r"(?<!\S)(State|SlurmdStartTime)=(\S*)", line))
        begin = _moment(facts["SlurmdStartTime"])
        # A star, as in DOWN*, marks a node that does not answer.
        return begin is not None and begin >= since and not re.search(r"DOWN|UNKNOWN|\*", facts["State"])

    def _kill(self, hosts: Sequence[str]) -> None:
        def are_empty() -> bool:
            pids = [pid for host in hosts for pid in self.network.processes(host)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for daemon in self._daemons.values():
                daemon.poll()
            return not pids

        _wait_until(are_empty, what=f"the end of all processes on {', '.join(hosts)}", timeout_s=10)

    def _client_environment(self) -> dict[str, str]:
        # Inside a job of another Slurm there are variables of that one, which sbatch and srun would obey.
        foreign = [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]
        kept = {name: value for name, value in os.environ.items() if name not in foreign}
        return kept | {"PATH": PATH} | self.environment

    def _client(self, *command: str) -> str:
        return run(*command, env=self._client_environment())

    def _last_log_lines(self) -> str:
        logs = {path.name: path.read_text(errors="replace") for path in (self.root / "logs").glob("*.out")}
        return "\n".join(f"{name}: {line}" for name, log in logs.items() for line in log.splitlines()[-5:])


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text[:1].isdigit() else None


def _wait_until(is_true: Callable[[], bool], *, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(POLL_S)


def main() -> None:
    """Start, show or stop a cluster to play with; exits with 3 where a verb needs one and none is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=main.__doc__)
    parser.add_argument("verb", choices=("up", "down", "env", "status"))
    parser.add_argument("num_nodes", nargs="?", type=int, default=2)
    default_root = Path(os.environ.get("XDG_RUNTIME_DIR", "/run"), "genrecal-slurm")
    parser.add_argument("--root", type=Path, default=default_root)
    arguments = parser.parse_args()
    if arguments.verb == "up":
        if reason := why_not():
            parser.exit(1, f"{reason}\n")
        LocalSlurm(arguments.num_nodes, arguments.root).up()
    cluster = LocalSlurm.find(arguments.root)
    if cluster is None:
        parser.exit(3, f"no cluster is up in {arguments.root}\n")
    elif arguments.verb == "down":
        cluster.down()
    elif arguments.verb == "status":
        for command in (["sinfo", "-N"], ["squeue"]):
            subprocess.run(command, check=True, env=os.environ | cluster.environment)
    else:
        print(f"export SLURM_CONF={shlex.quote(cluster.environment['SLURM_CONF'])}")


if __name__ == "__main__":
    main()
