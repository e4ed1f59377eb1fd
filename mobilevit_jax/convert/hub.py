"""Weights from the Hugging Face hub: what to fetch, and one clear line where that fails.

Cache, HF_HUB_OFFLINE, HF_ENDPOINT and the token are those of `huggingface_hub`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mobilevit_jax.convert.files import SUFFIXES, WEIGHT_FILES
from mobilevit_jax.convert.shards import SUFFIX as INDEX_SUFFIX
from mobilevit_jax.convert.shards import read_index
from mobilevit_jax.errors import ConfigurationError, DataError, MobileViTError

CONFIG: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
# Seconds that the hub has for the list of files.
_TIMEOUT: Final = 10.0
# As the hub allows them: letters, digits and - _ . within, 96 characters in all.
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_id(source: str) -> bool:
    """Whether a source is the id of a model on the hub, such as "apple/mobilevit-small".

    What is named like a weight file, or is in a directory that exists, is none: where there is a
    directory "runs", "runs/first" is a path, though perhaps a missing one.
    """
    if _ID.fullmatch(source) is None or len(source) > 96 or "--" in source or ".." in source:
        return False
    path = Path(source)
    return path.suffix.lower() not in SUFFIXES and not path.parent.is_dir()


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """Fetches a model's configuration and weights, or finds them in the cache.

    Args:
        repo_id: Id on the hub, such as "apple/mobilevit-small".
        revision: Branch, tag or commit; the main branch if None.

    Returns:
        A directory with config.json, preprocessor_config.json where the model has one (or, where
        the hub cannot be asked, the cache), and the first of `WEIGHT_FILES` that it has; with an
        index the files that it names, too. All are of one commit.

    Raises:
        ConfigurationError: If it is not the form of an id.
        DataError: If there is no such model, revision or file, the model is gated, or the hub
            cannot be read (or may not be: HF_HUB_OFFLINE) and the cache has no whole copy.
        OSError: If the cache cannot be written.
    """
    with _translated(repo_id, revision):
        present = _list_files(repo_id, revision)
        if isinstance(present, Path):
            return present
        weights = next((name for name in WEIGHT_FILES if name in present), None)
        if CONFIG not in present or weights is None:
            whole = [name for name in WEIGHT_FILES if not name.endswith(INDEX_SUFFIX)]
            raise DataError(
                f"{repo_id} has no {CONFIG if weights else ' or '.join(whole)} on the hub; name "
                "a model that has it"
            )
        return _download(repo_id, revision, weights, processor=PROCESSOR in present)


def _list_files(repo_id: str, revision: str | None) -> set[str] | Path:
    """Returns the names of a model's files or, where the hub does not answer, its snapshot."""
    from huggingface_hub import HfApi, errors

    try:
        # The downloads below try again for half a minute; that there is no network shows at once.
        # (snapshot_download waits for a hub that does not answer without any limit, and fetches in
        # no order, so that a snapshot with weights need not be whole.)
        info = HfApi().model_info(repo_id, revision=revision, timeout=_TIMEOUT)
    except (errors.HFValidationError, errors.RevisionNotFoundError):
        raise
    except Exception:
        snapshot = _find_cached(repo_id, revision)
        if snapshot is None:
            raise
        return snapshot
    return {file.rfilename for file in info.siblings or ()}


def _find_cached(repo_id: str, revision: str | None) -> Path | None:
    """Returns the snapshot in the cache if it has configuration and weights."""
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        path = try_to_load_from_cache(repo_id, name, revision=revision)
        return Path(path) if isinstance(path, str) else None

    def whole(name: str) -> bool:
        path = cached(name)
        if path is None or not name.endswith(INDEX_SUFFIX):
            return path is not None
        return all(map(cached, read_index(path)))

    config = cached(CONFIG)
    return config.parent if config and any(map(whole, WEIGHT_FILES)) else None


def _download(repo_id: str, revision: str | None, weights: str, *, processor: bool) -> Path:
    """Downloads what the cache lacks and returns the snapshot."""
    from huggingface_hub import hf_hub_download

    directory = Path(hf_hub_download(repo_id, CONFIG, revision=revision)).parent
    # A snapshot is named after its commit, so that a push between two downloads mixes nothing.
    commit = directory.name
    # The weights come last: a snapshot with weights is whole.
    for name in (PROCESSOR, weights) if processor else (weights,):
        path = hf_hub_download(repo_id, name, revision=commit)
    for shard in read_index(path) if weights.endswith(INDEX_SUFFIX) else ():
        hf_hub_download(repo_id, shard, revision=commit)
    return directory


@contextmanager
def _translated(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turns whatever `huggingface_hub` raises into one line."""
    from huggingface_hub import errors

    try:
        yield
    except MobileViTError:
        raise
    except errors.HFValidationError as error:
        raise ConfigurationError(
            f"{repo_id!r} is not an id of the Hugging Face hub, such as 'apple/mobilevit-small'"
        ) from error
    # A gated model is a kind of model that is not found.
    except errors.GatedRepoError as error:
        raise DataError(
            f"{repo_id} is gated: accept its terms on huggingface.co, then log in (hf auth login, "
            "or a token in HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"the Hugging Face hub has no model {repo_id!r}, and no path here is named so; check "
            "the name, or log in if the model is private (hf auth login, or a token in HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(
            f"{repo_id} has no revision {revision!r}; name one of its branches, tags or commits"
        ) from error
    except Exception as error:
        # A full disk and the like are the machine's, and say what they are.
        network = isinstance(error, ConnectionError | TimeoutError)
        if isinstance(error, OSError) and error.errno is not None and not network:
            raise
        raise DataError(_unreachable(repo_id, revision, error)) from error


def _unreachable(repo_id: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants, errors

    what = f"{repo_id}{f' at revision {revision}' if revision else ''}"
    absent = f"there is no path {repo_id} here"
    copy = f"the cache {constants.HF_HUB_CACHE} has no whole copy of {what}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"{absent}, and HF_HUB_OFFLINE is set, while {copy}; unset HF_HUB_OFFLINE, or fetch "
            f"the model where there is a network: hf download {repo_id}"
        )
    # That a file is not in the cache either says less than why it was looked for there.
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    cause = cause or error
    reason = getattr(cause, "server_message", None) or str(cause) or type(cause).__name__
    return (
        f"{absent}, and {constants.ENDPOINT} cannot be read ({' '.join(reason.split())[:200]}), "
        f"while {copy}; check network and token, or copy the model here and name its directory"
    )
