"""The journal of a search: a file of Optuna's, a line an entry, which is read back within bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, read_bounded

# What a journal says after each batch of trials: how many there are.
WHOLE = "whole_batches"


def open_study(journal: Path, name: str) -> optuna.Study:
    """The study that a journal keeps, a new one where there is none; more is better in it.

    Raises:
        DataError: the journal is damaged.
    """
    mend_journal(journal)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
    # Optuna takes what a journal says as its own words: whatever does not fit raises what it likes.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{journal}: not a journal of this search: {reason} ({type(error).__name__})"
        ) from error


def mend_journal(path: Path) -> None:
    """Cut off what was not finished where the machine stopped, or its disk was full: a line, and a batch of trials.

    The sampler has proposed the trials of a batch together, so a batch that is asked for again is the same; one that is
    half there would lead to others. Journals of earlier versions do not say where batches end.

    Raises:
        DataError: another line is damaged.
    """
    if not path.exists():
        return
    data = read_bounded(path, JSON_BYTES)
    whole, end, read = data.rfind(b"\n") + 1, 0, 0
    for number, line in enumerate(data[:whole].splitlines(keepends=True), start=1):
        read += len(line)
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: not JSON ({error}); expected an entry of Optuna's journal"
            ) from None
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}:{number}: found {type(entry).__name__}, expected an entry of Optuna's journal"
            )
        attributes = entry.get("user_attr")
        if isinstance(attributes, dict) and WHOLE in attributes:
            end = read
    if (end or whole) < len(data):
        os.truncate(path, end or whole)
