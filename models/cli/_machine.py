"""The machines that a command runs on: devices, processes, the cache of compiled programs."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppgen.models.parts.bounds import Count
from ppgen.models.parts.errors import CommandError

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Compiler:
    """Compilation."""

    compilation_cache: bool = True
    """Keep compiled programs in $XDG_CACHE_HOME/ppgen (~/.cache/ppgen), or in
    $JAX_COMPILATION_CACHE_DIR if that is set, for a faster next start."""

    def start(self) -> None:
        """Set up JAX's compilation cache; if its folder cannot be written, only print a note."""
        import jax

        if not self.compilation_cache or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            return
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "ppgen" / "compiled"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            print(f"ppgen: note: no cache of compiled programs: {error}", file=sys.stderr)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Small programs too: a command runs a hundred of them before its first step.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices and hosts."""

    devices: Count | None = None
    """Local devices over which each batch is divided. None means one, or all in a run of several
    processes."""
    coordinator: str | None = None
    """HOST:PORT of process 0 in a run of several processes. Start each with the same options except
    for --process-id, and with one --out on a shared file system."""
    num_processes: Count | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process. Process 0 writes and prints."""

    def check(self) -> None:
        """Refuse invalid options.

        Raises:
            CommandError: it names the option.
        """
        together = (self.coordinator, self.num_processes, self.process_id)
        if any(x is None for x in together):
            if any(x is not None for x in together):
                raise CommandError(
                    "--coordinator, --num-processes and --process-id go together: give all three"
                )
            return
        if not 0 <= self.process_id < self.num_processes:  # pyright: ignore
            raise CommandError(
                f"--process-id must be from 0 to {self.num_processes} - 1, not {self.process_id}"
            )
        _, colon, port = self.coordinator.rpartition(":")  # pyright: ignore
        if not colon or not port.isdigit():
            raise CommandError(f"--coordinator must be HOST:PORT, not {self.coordinator}")

    def start(self) -> Workers:
        """Connect the processes, before anything is computed."""
        import jax
        import numpy as np

        if self.coordinator is not None:
            try:
                jax.distributed.initialize(self.coordinator, self.num_processes, self.process_id)
            except RuntimeError as error:
                raise CommandError(f"no connection to {self.coordinator}: {error}") from error
        if self.devices is None and jax.process_count() == 1:
            return Workers(None)
        here = jax.local_device_count() if self.devices is None else self.devices
        if here > jax.local_device_count():
            raise CommandError(
                f"--devices {here}: there are {jax.local_device_count()} of the kind "
                f"{jax.default_backend()} (XLA_FLAGS=--xla_force_host_platform_device_count={here} "
                "makes some of a CPU)"
            )
        found: list[Any] = []
        for process in range(jax.process_count()):
            found += [d for d in jax.devices() if d.process_index == process][:here]
        return Workers(jax.sharding.Mesh(np.array(found), ("data",)))


class Workers:
    """The devices and processes of a command that has started.

    Attributes:
        mesh: the devices, or None for one.
        leads: whether this process is the one that writes and prints.
    """

    def __init__(self, mesh: Mesh | None) -> None:
        import jax

        self.mesh = mesh
        self.leads = jax.process_index() == 0
        self.alone = jax.process_count() == 1

    def say(self, text: str) -> None:
        """Print, in one process only."""
        if self.leads:
            print(text, flush=True)

    def any(self, here: bool) -> bool:
        """Whether a value is true in any process; all processes have to call this."""
        if self.alone:
            return here
        import numpy as np
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(here))))

    def local(self, tree: Any) -> Any:
        """Move the replicated arrays of a pytree to the default device."""
        import jax

        if self.mesh is None:
            return tree

        def fetch(x: Any) -> Any:
            return jax.numpy.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x

        return jax.tree.map(fetch, tree)
