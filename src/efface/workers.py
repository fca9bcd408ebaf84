"""Where pieces of work run: here in turn, in processes of this machine, or on a Ray cluster.

A `Schedule` does `work` on every piece and hands out, as it comes, what came of which. Pieces must
not depend on each other. What `work` raises is raised here and ends all that still runs; a worker
that dies is `Lost`, and the others go on. Each piece has a process of its own, so that its memory,
the GPU's too, is free after it.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from efface.core import EffaceError, OnStep, quiet
from efface.output import write_whole

Piece = TypeVar("Piece")
Result = TypeVar("Result")
GRACE = 20.0
"""Seconds that a worker has to stop in, once it is told to."""


class Lost(NamedTuple):
    """A piece whose worker died."""

    reason: str


Came = Generator[tuple[int, Result | Lost], None, None]
"""A piece's number and what came of it; closing it stops what still runs."""


@runtime_checkable
class Schedule(Protocol):
    """Does the work on every piece."""

    def __call__(
        self, work: Callable[[Piece, OnStep], Result], pieces: Sequence[Piece], on_step: OnStep
    ) -> Came[Result]:
        """In any order; only work of this process tells its steps."""


def in_turn(
    work: Callable[[Piece, OnStep], Result], pieces: Sequence[Piece], on_step: OnStep
) -> Came[Result]:
    """One after another in this process; `on_step` follows each."""
    for i, piece in enumerate(pieces):
        yield i, work(piece, on_step)


def in_processes(workers: int, first: Callable[[], None]) -> Schedule:
    """So many at a time, `first` in each; threads are shared out unless OMP_NUM_THREADS is set."""
    import torch

    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork

    def schedule(
        work: Callable[[Piece, OnStep], Result], pieces: Sequence[Piece], on_step: OnStep
    ) -> Came[Result]:
        waiting = deque(enumerate(pieces))
        running = dict[Connection, tuple[int, SpawnProcess]]()
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    i, piece = waiting.popleft()
                    ours, theirs = context.Pipe(duplex=False)
                    job = pickle.dumps((work, piece))
                    process = context.Process(
                        target=_answer, args=(theirs, first, job, threads), daemon=True
                    )
                    running[ours] = i, process
                    process.start()
                    theirs.close()
                ready = wait(list(running))
                for ours in [each for each in running if each in ready]:
                    i, process = running.pop(ours)
                    yield i, _heard(ours, process)
        finally:
            _stop([process for _, process in running.values()])

    return schedule


def _answer(parent: Connection, first: Callable[[], None], job: bytes, threads: int) -> None:
    """What a worker does: one piece, and tell what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    first()
    work, piece = pickle.loads(job)  # imports torch, which reads that number
    try:
        parent.send((True, work(piece, quiet)))
    except Exception as error:
        error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
        parent.send((False, error))


def _end_with_parent() -> None:
    """Nobody hears a worker whose parent was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _heard(worker: Connection, process: SpawnProcess) -> Any:
    """What a worker tells, once it does."""
    try:
        fine, found = worker.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        return Lost(
            f"its process died (exit code {process.exitcode}; -9 is mostly memory that ran out): "
            "run the same again, with fewer workers"
        )
    process.join()
    if not fine:
        raise found
    return found


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """End workers: they leave nothing half written if they can, and end in any case."""
    begun = [process for process in processes if process.pid is not None]
    for process in begun:
        process.terminate()
    for process in begun:
        process.join(GRACE)
        if process.exitcode is None:
            process.kill()
            process.join()


def on_ray(address: str, folder: Path, gpus: int) -> Schedule:
    """Tasks of a Ray cluster, `gpus` each; "local" starts a Ray of this machine alone.

    Every machine must see `folder` and the working directory under the same names: pieces leave
    their results there. One that does not is told of before it does anything.
    """
    try:
        import ray
    except ImportError as error:
        raise EffaceError("--ray needs Ray: pip install efface[ray]") from error
    _check_listens(address)

    def schedule(
        work: Callable[[Piece, OnStep], Result], pieces: Sequence[Piece], on_step: OnStep
    ) -> Came[Result]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        proof = folder / f".efface-{os.getpid()}-{os.urandom(8).hex()}.tmp"
        task = ray.remote(
            num_cpus=int(os.environ.get("OMP_NUM_THREADS", "1")),
            num_gpus=gpus,
            max_calls=1,
            max_retries=0,
        )(_there)
        try:
            ray.init(
                address=None if address == "local" else address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise EffaceError(f"no Ray at {address} ({reason}): start one, or use local") from error
        try:
            write_whole(proof, b"")
            running = {
                task.remote(work, piece, Path.cwd(), proof): i for i, piece in enumerate(pieces)
            }
            while running:
                for ended in ray.wait(list(running))[0]:
                    i = running.pop(ended)
                    try:
                        found = ray.get(ended)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from error
                    except ray.exceptions.RayError as error:
                        reason = " ".join(str(error).split())
                        found = Lost(f"its worker died ({reason}): run the same again")
                    yield i, found
        finally:
            proof.unlink(missing_ok=True)
            ray.shutdown()

    return schedule


def _check_listens(address: str) -> None:
    """Refuse HOST:PORT where nobody listens; Ray itself would knock for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise EffaceError(f"no Ray at {address} ({error}): start one, or use local") from error


def _there(
    work: Callable[[Piece, OnStep], Result], piece: Piece, here: Path, proof: Path
) -> Result:
    """One piece on whatever machine Ray chose."""
    try:
        os.chdir(here)
    except OSError as error:
        raise EffaceError(
            f"{socket.gethostname()} has no folder {here}: start from one that all machines share"
        ) from error
    if not proof.exists():
        raise EffaceError(
            f"{socket.gethostname()} does not see {proof.parent.absolute()} as it is: "
            "name with -o a folder that all machines share"
        )
    return work(piece, quiet)
