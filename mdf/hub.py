"""Language and text models of the model hub: fetched to its local cache, with one clear error where they cannot be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdf.errors import UserError

# what a language model's folder is read from
FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
PICKLED = "pytorch_model.bin"  # read as tensors alone; many text encoders come as nothing else


def snapshot(name: str, revision: str | None, setting: str, bundled: str, *, pickled: bool = False) -> str:
    """Local folder with the files of a hub id.

    Args:
        name, revision: on the hub.
        setting: what the user wrote it in, for messages.
        bundled: the bundled name to propose.
        pickled: whether PICKLED will do where there are no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [*FILES, PICKLED] if pickled else FILES
    place = f"download it elsewhere (all of {', '.join(patterns)}) and set {setting} to the local folder"
    offline = not hub_answers()
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["original/*"],
            local_files_only=offline,
        )
    except GatedRepoError as error:
        raise UserError(
            f"{setting}: '{name}' is gated. Accept its licence on the model hub and log in (hf auth login), or {place}."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision '{revision}'" if revision else ""
        raise UserError(
            f"{setting}: the model hub has no '{name}'{at}, or it is private. Bundled: {bundled}."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{setting}: '{name}' is no local folder, is not in the hub's local cache, and the model hub cannot "
            f"be reached. Either {place}, or use the bundled one. Bundled: {bundled}."
        ) from error
    # A snapshot cut short is handed out without a word when there is no network.
    weights = [*Path(folder).glob("*.safetensors"), *(Path(folder).glob(PICKLED) if pickled else ())]
    if not (Path(folder, "config.json").is_file() and weights):
        raise UserError(
            f"{setting}: '{name}' in the hub's local cache has no config.json or no weights. Reconnect, or {place}."
        )
    return folder


def hub_answers() -> bool:
    """Whether the model hub can be reached: one request, because its own client tries for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever HTTP library the client is built on, any failure means no
        return False
    return True


@contextmanager
def quick_to_fail(source: str | Path = "") -> Iterator[None]:
    """While it lasts, other libraries' look-ups on the hub read its local cache alone where the hub does not answer.

    Nothing is asked where `source`, what is looked up, is a local folder.
    """
    from huggingface_hub import constants

    if source and Path(source).is_dir():
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
