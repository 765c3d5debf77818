"""The run directory: where a stage's files lie, how they come into place, and who may write there.

A run directory holds one folder for each finished stage, with a `stage.json` that names its key, its inputs and the
digests of its files; `run.json`; `image-store/`; and `.work/`, where a stage's output lies until it is whole:

    .work/<stage>.new       what the running stage writes; renamed to <stage>/ when its stage.json is in it
    .work/<stage>.old       the former output, between the two renames
    .work/<stage>.scratch/  the stage's own checkpoints; outlive a kill, go when the stage is done or its key changes
    <stage>.failed/         what a stage wrote that then refused to go on, and `failed.json` with the reason; goes when
                            the stage is done

So a kill at any moment leaves each stage either finished or unfinished, and the next run knows which.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from open4ov.errors import UserError
from open4ov.store import TEMPORARY, atomic, is_disk_full

MEASURED = {"train.jsonl", "tensorboard", "wandb", "mastery_cost.json"}
"""Files and folders of a stage that hold times: they count for nothing in its digest, as no other stage reads them."""


def disk_full(root: Path, when: str) -> UserError:
    """The error for a disk without space, and what to do about it."""
    return UserError(
        f"{root}: the disk is full ({when}); finished stages are kept. Free some space and give the same command again"
    )


class Place:
    """Where one stage's files lie, and the renames between those places."""

    def __init__(self, root: Path, name: str) -> None:
        work = root / ".work"
        self.final = root / name
        self.new = work / f"{name}.new"
        self.old = work / f"{name}.old"
        self.scratch = work / f"{name}.scratch"
        self.failed = root / f"{name}.failed"

    def lineage(self) -> dict[str, str]:
        record = read_json(self.final / "stage.json")
        assert record is not None, f"{self.final} is an input and must be finished"
        return {"key": record["key"], "digest": record["digest"]}

    def intact(self, key: str) -> bool:
        """Whether the stage is finished under this key and its files are all there in their sizes."""
        record = read_json(self.final / "stage.json")
        if record is None or record.get("key") != key:
            return False
        try:
            sizes = {name: about["bytes"] for name, about in record["files"].items()}
        except (KeyError, TypeError, AttributeError):
            return False
        return sizes == {name: path.stat().st_size for name, path in _files(self.final)}

    def recover(self) -> None:
        """Ends what a killed run left between two renames."""
        if (self.new / "stage.json").exists():
            self._swap()
        elif self.old.exists() and not self.final.exists():
            self.old.rename(self.final)
        for leftover in (self.new, self.old):
            _remove(leftover)

    def prepare(self, key: str, facts: dict[str, Any]) -> bool:
        """Makes empty `new` and `scratch` that belongs to `key`, the hash of `facts`; True when an earlier try left
        something in it."""
        self.new.mkdir(parents=True)
        mark = self.scratch.with_suffix(".key")
        if (read_json(mark) or {}).get("key") != key:
            self.drop_scratch()
            self.scratch.mkdir()
            with atomic(mark) as temporary:
                temporary.write_text(json.dumps({"key": key, **facts}))
        self.scratch.mkdir(exist_ok=True)
        return any(self.scratch.iterdir())

    def begun(self) -> dict[str, Any] | None:
        """The facts of an earlier try that left something in `scratch`; None when there is none."""
        left = self.scratch.exists() and any(self.scratch.iterdir())
        return read_json(self.scratch.with_suffix(".key")) if left else None

    def publish(self, record: dict[str, Any]) -> None:
        files = {name: _digest(path) for name, path in _files(self.new)}
        told = {name: about["sha256"] for name, about in files.items() if name.partition("/")[0] not in MEASURED}
        digest = hash_json(told)
        with atomic(self.new / "stage.json") as temporary:
            temporary.write_text(json.dumps({**record, "digest": digest, "files": files}, indent=1, ensure_ascii=False))
            _sync(temporary)
        self._swap()

    def _swap(self) -> None:
        if self.final.exists():
            _remove(self.old)
            self.final.rename(self.old)
        self.new.rename(self.final)
        _remove(self.old)
        _remove(self.failed)
        self.drop_scratch()

    def set_aside(self, record: dict[str, Any]) -> None:
        """Keeps what a refused stage wrote, in place of what an earlier try left."""
        with atomic(self.new / "failed.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        _remove(self.failed)
        self.new.rename(self.failed)

    def drop_scratch(self) -> None:
        self.scratch.with_suffix(".key").unlink(missing_ok=True)
        _remove(self.scratch)


@contextmanager
def locked(root: Path, lock: Path | None = None) -> Generator[None]:
    """Holds the run directory for this process. The kernel drops the lock of a process that dies, so none goes stale.

    `lock`: the file, if not `root/.lock`. Raises UserError when another process holds it.
    """
    lock = lock or root / ".lock"
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{root}: in use by {holder}; wait for it to end, stop it, or give another --out") from None
        if not (lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno()))):
            raise UserError(f"{root}: was in use by another process until now; give the same command again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def writing(out: Path) -> Generator[None]:
    """Says what is wrong with an --out where nothing can be written. For what writes there only: the same faults of a
    file that is read would be told wrongly."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"{out}: the disk is full; free some space and give the same command again") from error
        raise UserError(f"{out}: cannot be written: {error.strerror}; give another --out") from None


@contextmanager
def alone(out: Path) -> Generator[None]:
    """Makes the folder `out` and holds it for this process. Raises UserError when another one does, or it cannot be."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    with locked(out):
        yield


@contextmanager
def beside(out: Path) -> Generator[Path]:
    """A folder beside `out` for this process alone, renamed to `out` if the block ends well and removed if not.

    What a killed process left in it goes first. Raises UserError when another process writes it, it cannot be made, or
    `out` holds something.
    """
    _free(out)
    place = Path(os.path.abspath(out))  # `.` has no name
    part = place.with_name(f"{TEMPORARY}{place.name}")
    lock = part.with_name(f"{part.name}.lock")
    with writing(out):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with locked(out, lock):
        try:
            _free(out)
            with writing(out):
                _remove(part)
                part.mkdir()
            yield part
            if place.exists():
                place.rmdir()
            os.replace(part, place)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        finally:
            lock.unlink(missing_ok=True)  # while it is held: who waits at the door finds another file, and sees it


def _free(out: Path) -> None:
    with writing(out):
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken:
        raise UserError(f"{out}: is there already; give another --out, or delete it")


def _files(folder: Path) -> list[tuple[str, Path]]:
    """The files below a folder by relative name, in order, without its stage.json."""
    found = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return sorted(item for item in found if item[0] != "stage.json")


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"sha256": sha, "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def hash_json(value: object) -> str:
    """SHA-256 of a value as JSON. Names of files may hold bytes that are no text; they count as they are."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def fingerprint(paths: Iterable[Path], root: Path | None = None) -> str:
    """A digest of files a stage reads from outside the run: of their bytes, or of size and time above 256 MiB and where
    they cannot be read (which the stage reports). Of their names too: with `root`, of where they lie below it."""
    parts: list[object] = []
    for path in sorted(paths):
        about = path.stat()
        name = path.name if root is None else path.relative_to(root).as_posix()
        facts: list[object] = [name, about.st_size, about.st_mtime_ns]
        if about.st_size <= 2**28:
            with suppress(OSError):
                facts = [name, _sha256(path, about.st_size, about.st_mtime_ns)]
        parts.append(facts)
    return hash_json(parts)


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Remembered as long as size and time stay the same: one run asks for the base model's digest many times."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
