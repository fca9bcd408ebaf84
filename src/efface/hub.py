"""Patches on the Hugging Face hub: `hub:owner/name` names one, `push` puts one there.

A repository holds one patch under the name `patch.safetensors`; `hub:owner/name/other.safetensors`
names another file of it. huggingface_hub does the transport, the caching and the log-in.
"""

from pathlib import Path

from efface.core import EffaceError

SCHEME = "hub:"
FILE = "patch.safetensors"
"""Name of a repository's patch."""


def local(path: str | Path) -> Path:
    """The file itself; what `hub:` names is downloaded into the hub's cache first."""
    spec = str(path)
    return _download(spec) if spec.startswith(SCHEME) else Path(path)


def _download(spec: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    owner, _, rest = spec.removeprefix(SCHEME).partition("/")
    name, _, file = rest.partition("/")
    if not owner or not name:
        raise EffaceError(f"{spec!r} names no patch: write hub:owner/name")
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file or FILE))
    except LocalEntryNotFoundError as error:
        raise EffaceError(f"cannot reach the hub for {spec!r}: check the network") from error
    except EntryNotFoundError as error:
        raise EffaceError(
            f"{owner}/{name} holds no {file or FILE}: name another as hub:owner/name/file"
        ) from error
    except RepositoryNotFoundError as error:
        raise EffaceError(
            f"no repository {owner}/{name} on the hub, or it is private: check the name, log in"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EffaceError(f"cannot get {spec!r} from the hub ({_first(error)})") from error


def push(path: Path, repository: str, *, private: bool = False, file: str = FILE) -> str:
    """Upload a patch file to `owner/name`, which is made if it is not there; answers its address.

    The caller has checked that the file is a patch.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_file(
            path_or_fileobj=path,
            path_in_repo=file,
            repo_id=repository,
            commit_message=f"efface: {file}",
        )
    except LocalTokenNotFoundError as error:
        raise EffaceError("the hub does not know you: run `hf auth login` first") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EffaceError(f"cannot push to {repository!r} ({_first(error)})") from error
    return str(done.commit_url)


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
