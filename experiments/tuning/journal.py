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
    """Cut off the last line of a journal where the machine stopped in the middle of it, as a full disk does too.

    Raises:
        DataError: another line is damaged.
    """
    if not path.exists():
        return
    data = read_bounded(path, JSON_BYTES)
    whole = data.rfind(b"\n") + 1
    for number, line in enumerate(data[:whole].splitlines(), start=1):
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
    if whole < len(data):
        os.truncate(path, whole)
