"""What the local Slurm does to nodes and jobs, and that it goes without a trace."""

from pathlib import Path

import pytest

from tests.slurm.cluster import LocalSlurm, parse_job

pytestmark = pytest.mark.slurm


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Give a job that notes each of its starts and then lasts longer than any test."""
    path = tmp_path / "job.sh"
    path.write_text(
        '#!/bin/bash\necho "start ${SLURM_RESTART_COUNT:-0} $1 $GIVEN" >> starts\nsrun sleep 600\n'
    )
    return path


def node_names(cluster: LocalSlurm) -> list[str]:
    done = cluster.run_in("login", ["srun", "--immediate=20", "--nodes=2", "hostname"])
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_each_of_two_nodes_gives_its_own_name(cluster: LocalSlurm) -> None:
    assert node_names(cluster) == cluster.nodes == ["node1", "node2"]


def test_a_job_gets_arguments_options_and_environment(
    cluster: LocalSlurm, script: Path, tmp_path: Path
) -> None:
    job_id = cluster.submit(
        script, "an argument", cwd=tmp_path, options=["--nodes=2"], environment={"GIVEN": "x"}
    )
    facts = cluster.wait(job_id, lambda facts: (tmp_path / "starts").exists(), timeout_s=20)
    assert (tmp_path / "starts").read_text() == "start 0 an argument x\n"
    assert (facts.state, facts.nodes, facts.restarts) == ("RUNNING", ("node1", "node2"), 0)
    assert facts.start is not None
    cluster.cancel(job_id, signal="KILL", batch=True)
    facts = cluster.wait(job_id, lambda facts: facts.state == "FAILED", timeout_s=20)
    assert facts.exit_signal == 9


def test_a_job_starts_again_after_its_node_crashed(cluster: LocalSlurm, script: Path, tmp_path: Path) -> None:
    job_id = cluster.submit(script, cwd=tmp_path, options=["--nodes=2", "--requeue"])
    cluster.wait(job_id, lambda facts: (tmp_path / "starts").exists(), timeout_s=20)
    cluster.crash("node1")
    assert cluster.processes_on("node1") == []
    cluster.wait(job_id, lambda facts: facts.state == "PENDING", timeout_s=40)
    cluster.start("node1")
    cluster.wait(job_id, lambda facts: (facts.state, facts.restarts) == ("RUNNING", 1), timeout_s=40)
    cluster.cancel(job_id)
    cluster.wait(job_id, lambda facts: facts.state == "CANCELLED", timeout_s=20)
    assert [line.split()[1] for line in (tmp_path / "starts").read_text().splitlines()] == ["0", "1"]


def test_an_unplugged_node_fails_its_job_and_serves_again_once_plugged(
    cluster: LocalSlurm, script: Path, tmp_path: Path
) -> None:
    job_id = cluster.submit(script, cwd=tmp_path, options=["--nodes=2", "--no-requeue"])
    cluster.wait(job_id, lambda facts: (tmp_path / "starts").exists(), timeout_s=20)
    cluster.unplug("node2")
    facts = cluster.wait(job_id, lambda facts: facts.state == "NODE_FAIL", timeout_s=40)
    assert facts.reason == "NodeDown"
    cluster.plug("node2")
    assert node_names(cluster) == ["node1", "node2"]


def test_a_second_cluster_has_its_own_network_and_leaves_nothing(
    cluster: LocalSlurm, script: Path, tmp_path: Path
) -> None:
    with LocalSlurm(num_nodes=1, root=tmp_path / "second") as second:
        network = second.network
        assert not network.subnet.overlaps(cluster.network.subnet)
        job_id = second.submit(script, cwd=tmp_path)
        second.wait(job_id, lambda facts: (tmp_path / "starts").exists(), timeout_s=20)
        pids = [pid for host in ("login", "node1") for pid in second.processes_on(host)]
        assert len(pids) > 5
    assert [pid for pid in pids if is_alive(pid)] == []
    assert not network.link.exists()
    assert [
        path for path in Path("/run/netns").iterdir() if path.name.startswith(network.namespace(""))
    ] == []
    assert LocalSlurm.find(tmp_path / "second") is None


@pytest.mark.usefixtures("cluster")
def test_an_up_that_fails_shows_the_daemons_log_and_leaves_nothing(tmp_path: Path) -> None:
    broken = LocalSlurm(num_nodes=1, root=tmp_path, settings={"SelectType": "select/none_such"})
    with pytest.raises(RuntimeError, match=r"slurmctld ended .*\n(.*\n)*slurmctld\.out: .*none_such"):
        broken.up()
    assert LocalSlurm.find(tmp_path) is None
    commands = [path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert [command for command in commands if str(tmp_path) in command] == []


def test_facts_of_a_job_are_found_beside_names_with_blanks() -> None:
    line = (
        "JobId=7 JobName=a Reason of=b JobState=PENDING Reason=BeginTime Dependency=(null) Restarts=2"
        " ExitCode=3:9 StartTime=2026-01-02T03:04:05 EndTime=Unknown ReqNodeList=other NodeList=node[1-2]"
    )
    facts = parse_job(line, lambda nodes: [nodes])
    assert (facts.state, facts.reason, facts.restarts) == ("PENDING", "BeginTime", 2)
    assert (facts.exit_code, facts.exit_signal, facts.nodes) == (3, 9, ("node[1-2]",))
    assert facts.start is not None and facts.start.minute == 4
    assert facts.end is None
