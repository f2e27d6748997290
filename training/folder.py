"""The folder of a run: what it holds already, and who may write to it."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from training.config import TrainConfig
from util.distributed import barrier, rank
from util.errors import InputError
from util.lock import hold


def earlier_run(config: TrainConfig) -> list[Path]:
    """Files of an earlier run of the same id that this one replaces; none where that run is resumed.

    ``--overwrite`` replaces any, ``--resume`` only those of a run that ended before its first checkpoint and weights.
    Raises `InputError` if there are some and the settings allow neither.
    """
    folder = config.saves / config.id
    files = [*folder.glob(f"{config.id}_*"), *folder.glob("tensorboard")]
    if config.load_model and config.load_model.resolve().parent == folder.resolve():
        return []
    replaceable = config.overwrite or (config.resume and not any(path.suffix == ".pth" for path in files))
    if files and not replaceable:
        raise InputError(
            f"{folder}: holds a run already; resume it with --load_model {folder}/{config.id}_checkpoint.pth, choose"
            " another --id, or replace it with --overwrite"
        )
    return files


@contextmanager
def run_folder(folder: Path, replaced: list[Path]) -> Iterator[None]:
    """Hold the folder, made if need be and without the ``replaced`` files, for this run alone.

    Rank 0 holds a lock of the operating system, which ends with the process. Raises `InputError` if another process
    holds it, or if the folder cannot be written.
    """
    barrier()  # every process has read what it needs before rank 0 writes
    with ExitStack() as stack:
        if rank() == 0:
            taken = f"{folder}: another process is training this --id; expected another one"
            stack.callback(hold(folder / ".lock", taken).release)
            try:
                for path in replaced:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
        yield
