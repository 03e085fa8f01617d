"""Hosts on one Linux machine: network namespaces with addresses of their own, joined by a bridge."""

import ipaddress
import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
LOGIN = "login"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """One cluster's namespaces and links: a bridge in the login host's joins it, the nodes and the machine.

    The machine sees a single link, so its firewall has no say in what the nodes send each other.
    """

    index: int

    @classmethod
    def claim(cls) -> "Network":
        """Make the login host of the first network whose names and addresses are free; return the network."""
        routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
        taken = [ipaddress.IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
        refusal = "all have routes, see `ip route show table all`"
        for network in (cls(index=index) for index in range(100)):
            if network.link.exists() or any(network.subnet.overlaps(other) for other in taken):
                continue
            # A name is given once, so of two clusters that start together only one gets the index.
            try:
                run("ip", "netns", "add", network.namespace(LOGIN))
                network._add_login()
                return network
            except RuntimeError as error:
                refusal = str(error)
        raise RuntimeError(
            f"no network from 10.100.87.0/24 to 10.199.87.0/24 can be had; the last: {refusal}"
        )

    @property
    def link(self) -> Path:
        """Return the machine's link."""
        return Path(f"/sys/class/net/grslurm{self.index}")

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """Return the cluster's addresses."""
        return ipaddress.IPv4Network(f"10.{100 + self.index}.87.0/24")

    def address(self, host: str) -> str:
        """Return a host's address: node1 has the first."""
        return str(self.subnet[250 if host == LOGIN else int(host.removeprefix("node"))])

    def namespace(self, host: str) -> str:
        """Return the name that `ip netns` has for a host."""
        return f"{self.link.name}-{host}"

    def add_node(self, node: str) -> None:
        """Make a node's namespace and its link, `eth0` inside and the node's name at the bridge."""
        run("ip", "netns", "add", self.namespace(node))
        peer = f"peer name eth0 netns {self.namespace(node)}"
        ip(self.namespace(LOGIN), f"link add name {node} master br0 up type veth {peer}")
        address = f"addr add {self.address(node)}/24 dev eth0"
        ip(self.namespace(node), "link set lo up", address, "link set eth0 up")

    def set_link(self, node: str, state: str) -> None:
        """Take a node's end at the bridge `up` or `down`: the node sees a cable without a signal."""
        ip(self.namespace(LOGIN), f"link set {node} {state}")

    def processes(self, host: str) -> list[int]:
        """Return the process ids in a host's namespace; none where there is no such namespace."""
        if not Path("/run/netns", self.namespace(host)).exists():
            return []
        return [int(pid) for pid in run("ip", "netns", "pids", self.namespace(host)).split()]

    def remove(self, hosts: Sequence[str]) -> None:
        """Take away all links and namespaces that are there."""
        if self.link.exists():
            run("ip", "link", "del", self.link.name)
        for host in hosts:
            if Path("/run/netns", self.namespace(host)).exists():
                run("ip", "netns", "del", self.namespace(host))

    def _add_login(self) -> None:
        commands = (
            "link set lo up",
            "link add name br0 type bridge",
            f"addr add {self.address(LOGIN)}/24 dev br0",
            "link set br0 up",
            f"link add name machine master br0 up type veth peer name {self.link.name} netns {os.getpid()}",
        )
        try:
            ip(self.namespace(LOGIN), *commands)
            run("ip", "addr", "add", f"{self.subnet[254]}/24", "dev", self.link.name)
            run("ip", "link", "set", self.link.name, "up")
        except BaseException:
            self.remove([LOGIN])
            raise


def run(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str = "") -> str:
    """Run a command and return its output; raise `RuntimeError` with what it said when it fails."""
    env = env or os.environ | {"PATH": PATH}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=cwd, input=stdin)
    if done.returncode != 0:
        raise RuntimeError(f"`{shlex.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def ip(namespace: str, *commands: str) -> None:
    """Give `ip` some commands inside a namespace."""
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(commands))
