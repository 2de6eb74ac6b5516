"""Runs the services of a compose file in network namespaces, for machines without containers.

Networks are bridges. Services are namespaces with the addresses, kernel parameters and commands of
the file. Mounted folders are used where they are.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.nat.namespaces import Namespace, check
from tests.support.waiting import PATIENCE, wait_until

_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")
"""A variable of compose with its default."""


class Composed:
    """The networks and services of a compose file."""

    def __init__(self, file: Path, folder: Path, images: dict[str, str]) -> None:
        """`folder` keeps volumes. `images` are folders of an image and where they are here.

        Raises NotHere.
        """
        check()
        self._file = file
        self._folder = folder
        self._images = images
        self._described: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(r"\1", file.read_text()))
        self._spaces: dict[str, Namespace] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._links = 0
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        program = bin_folder / "quicdist"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m quicdist "$@"\n')
        program.chmod(0o755)

    @property
    def services(self) -> dict[str, Any]:
        """The services by name."""
        services: dict[str, Any] = self._described["services"]
        return services

    def start(self, name: str, *, until: str = "") -> None:
        """Starts a service; waits until it has printed the text `until`."""
        output = self._folder / f"{name}.log"
        with output.open("wb") as log:
            self._running[name] = subprocess.Popen(
                self._space(name).command(self._words(name)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(name),
                cwd=self._folder,
            )
        wait_until(lambda: until in self.output(name) or self._has_ended(name))

    def output(self, name: str) -> str:
        """Returns what a service has printed."""
        return (self._folder / f"{name}.log").read_text()

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """Runs a service to its end."""
        return subprocess.run(
            self._space(name).command(self._words(name)),
            capture_output=True,
            text=True,
            env=self._environment(name),
            cwd=self._folder,
            timeout=PATIENCE,
            check=False,
        )

    def close(self) -> None:
        """Ends all services and deletes their networks."""
        for name in reversed(self._running):
            self._running[name].kill()
            self._running[name].wait()
        for space in self._spaces.values():
            space.delete()

    def _has_ended(self, name: str) -> bool:
        assert self._running[name].poll() is None, self.output(name)
        return False

    def _words(self, name: str) -> list[str]:
        """Returns the command of a service, with the paths of this machine."""
        words = [word.replace("$$", "$") for word in self.services[name]["command"]]
        mounts = [one for one in self.services[name].get("volumes", []) if isinstance(one, dict)]
        paths = dict(self._images)
        for one in mounts:
            paths[one["target"]] = str((self._file.parent / one["source"]).resolve())
        for inside, here in paths.items():
            words = [re.sub(rf"(?<![\w/]){inside}(?=/)", here, word) for word in words]
        return words

    def _environment(self, name: str) -> dict[str, str]:
        given = {
            key: str(value) for key, value in self.services[name].get("environment", {}).items()
        }
        home = self._folder / name
        home.mkdir(exist_ok=True)
        if "QUICDIST_STATE_DIR" in given:
            given["QUICDIST_STATE_DIR"] = str(home)
        path = f"{self._folder}/bin:{os.environ['PATH']}"
        return {**os.environ, **given, "HOME": str(home), "PATH": path, "PYTHONUNBUFFERED": "1"}

    # -- networks -------------------------------------------------------------------------------

    def _space(self, name: str) -> Namespace:
        """Returns the namespace of a service, which is made when it is first needed."""
        service = self.services[name]
        mode = service.get("network_mode", "")
        if mode.startswith("service:"):
            return self._space(mode.partition(":")[2])
        if name not in self._spaces:
            space = self._made(name)
            for key, value in service.get("sysctls", {}).items():
                space.set(f"{key}={value}")
            for network, settings in service["networks"].items():
                self._plug(space, network, settings["ipv4_address"])
        return self._spaces[name]

    def _made(self, name: str) -> Namespace:
        self._spaces[name] = Namespace(f"qc{os.getpid()}{len(self._spaces)}")
        return self._spaces[name]

    def _plug(self, space: Namespace, network: str, address: str) -> None:
        self._links += 1
        bridge = self._bridge(network)
        (pool,) = self._described["networks"][network]["ipam"]["config"]
        length = ipaddress.ip_network(pool["subnet"]).prefixlen
        device, port = f"eth{self._links}", f"p{self._links}"
        space.ip([f"link add {device} type veth peer name {port} netns {bridge.name}"])
        bridge.ip([f"link set {port} master br0 up"])
        space.ip([f"link set {device} up", f"address add {address}/{length} dev {device}"])

    def _bridge(self, network: str) -> Namespace:
        key = f"network {network}"
        if key not in self._spaces:
            self._made(key).ip(["link add br0 type bridge", "link set br0 up"])
        return self._spaces[key]
