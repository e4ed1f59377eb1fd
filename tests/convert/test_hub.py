"""The Hugging Face hub: a cache made by hand, and a small hub of our own on this machine."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from mobilevit_jax.convert.hub import is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = f"{SAFETENSORS}.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]

# huggingface_hub reads its settings when it is imported: each environment is a process.
SCRIPT = """
import json, sys
from mobilevit_jax.convert import hub
from mobilevit_jax.errors import MobileViTError

results = []
for repo_id, revision in json.loads(sys.argv[1]):
    try:
        directory = hub.fetch(repo_id, revision)
        results.append([str(directory), sorted(path.name for path in directory.iterdir())])
    except MobileViTError as error:
        results.append([type(error).__name__, str(error)])
print(json.dumps(results))
"""


class Fetched(NamedTuple):
    where: str  # directory, or name of the error
    what: list[str] | str  # names of files, or message


def fetch(home: Path, *calls: tuple[str, str | None], **environment: str) -> list[Fetched]:
    """Calls `hub.fetch` in a process that has the cache `home` and an environment of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)],
        env=kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return [Fetched(*found) for found in json.loads(result.stdout.splitlines()[-1])]


def snapshot(home: Path, repo_id: str, commit: str, *names: str, ref: str | None = None) -> Path:
    """Puts files into the cache as `huggingface_hub` lays them out."""
    folder = home / "hub" / f"models--{repo_id.replace('/', '--')}"
    directory = folder / "snapshots" / commit
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text(f"{repo_id} {commit} {name}")
    if ref is not None:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return directory


def test_offline(tmp_path):
    whole = snapshot(tmp_path, "a/whole", COMMIT, CONFIG, PROCESSOR, SAFETENSORS, ref="main")
    tag = snapshot(tmp_path, "a/whole", OTHER_COMMIT, CONFIG, PICKLED, ref="v1")
    snapshot(tmp_path, "a/partial", COMMIT, CONFIG, PROCESSOR, ref="main")
    found = fetch(
        tmp_path,
        ("a/whole", None),
        ("a/whole", "v1"),
        ("a/whole", OTHER_COMMIT),
        ("a/whole", "v2"),
        ("a/partial", None),
        ("a/absent", None),
        ("a--b/c", None),
        HF_HUB_OFFLINE="1",
    )
    assert found[0] == (str(whole), [CONFIG, SAFETENSORS, PROCESSOR])
    assert found[1] == found[2] == (str(tag), [CONFIG, PICKLED])
    whats = ["a/whole at revision v2", "a/partial", "a/absent"]
    for result, what in zip(found[3:6], whats, strict=True):
        assert result.where == "DataError"
        missing = f"there is no path {what.split()[0]} here, and HF_HUB_OFFLINE is set, while"
        assert str(result.what).startswith(missing) and "hf download" in result.what
        assert f"no whole copy of {what};" in result.what and str(tmp_path) in result.what
    assert found[6].where == "ConfigurationError"
    assert "'a--b/c' is not an id of the Hugging Face hub" in found[6].what


def test_no_network(tmp_path):
    whole = snapshot(tmp_path, "a/whole", COMMIT, CONFIG, SAFETENSORS, ref="main")
    # Nobody listens on port 9 ("discard") of this machine.
    nowhere = "http://127.0.0.1:9"
    cached, absent = fetch(tmp_path, ("a/whole", None), ("a/b", None), HF_ENDPOINT=nowhere)
    assert cached == (str(whole), [CONFIG, SAFETENSORS])
    assert absent.where == "DataError"
    assert str(absent.what).startswith(f"there is no path a/b here, and {nowhere} cannot be read")
    assert "check network" in absent.what
    assert "\n" not in absent.what


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does, for models made up here."""

    models = {
        "a/both": [CONFIG, PROCESSOR, SAFETENSORS, PICKLED, "README.md"],
        "a/pickled": [CONFIG, PICKLED],
        "a/weightless": [CONFIG],
        "a/configless": [SAFETENSORS],
        "a/gated": [CONFIG, SAFETENSORS],
        "a/broken": [CONFIG, SAFETENSORS],
        "a/sharded": [CONFIG, INDEX, *SHARDS],
        "a/half": [CONFIG, INDEX, SHARDS[0]],
        "a/elsewhere": [CONFIG, INDEX],
    }

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        listed = parts[:2] == ["api", "models"]
        if listed:
            parts = parts[2:]
        repo_id, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
        if repo_id not in self.models:
            self.answer(404, error="RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.answer(404, error="RevisionNotFound")
        elif listed:
            files = [{"rfilename": name} for name in self.models[repo_id]]
            body = json.dumps({"id": repo_id, "sha": COMMIT, "siblings": files}).encode()
            self.answer(200, body, kind="application/json")
        elif repo_id == "a/gated":
            self.answer(403, error="GatedRepo")
        elif repo_id == "a/broken":
            self.answer(400, error="Broken")
        elif parts[4] not in self.models[repo_id]:
            self.answer(404, error="EntryNotFound")
        elif parts[4] == INDEX:
            files = ["../x.bin"] if repo_id == "a/elsewhere" else SHARDS
            where = {file: file for file in files}
            self.answer(200, json.dumps({"weight_map": where}).encode())
        else:
            self.answer(200, f"{repo_id} {parts[4]}".encode())

    def answer(self, status, body=b"", *, kind="application/octet-stream", error=None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        self.send_header("ETag", f'"{abs(hash(body)):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error is not None:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format, *args) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_downloads_and_their_faults(tmp_path, endpoint):
    names = ["both", "pickled", "weightless", "configless", "gated", "broken", "nobody"]
    calls: list[tuple[str, str | None]] = [(f"a/{name}", None) for name in names]
    calls += [("a/both", "v9"), ("a/both", COMMIT)]
    found = dict(zip(calls, fetch(tmp_path, *calls, HF_ENDPOINT=endpoint), strict=True))
    both = found["a/both", None]
    assert both.what == [CONFIG, SAFETENSORS, PROCESSOR]
    assert (Path(both.where) / SAFETENSORS).read_text() == f"a/both {SAFETENSORS}"
    assert found["a/both", COMMIT] == both
    assert found["a/pickled", None].what == [CONFIG, PICKLED]
    for name, revision, message in (
        ("a/weightless", None, "a/weightless has no model.safetensors or pytorch_model.bin"),
        ("a/configless", None, "a/configless has no config.json on the hub"),
        ("a/gated", None, "a/gated is gated: accept its terms"),
        ("a/broken", None, f"{endpoint} cannot be read (Bad request"),
        ("a/nobody", None, "the Hugging Face hub has no model 'a/nobody', and no path here"),
        ("a/both", "v9", "a/both has no revision 'v9'; name one of its branches"),
    ):
        result = found[name, revision]
        assert result.where == "DataError"
        assert message in result.what and "\n" not in result.what

    # What was fetched is there without a network, under the name of the branch.
    again = fetch(tmp_path, ("a/both", None), ("a/pickled", None), HF_HUB_OFFLINE="1")
    assert again == [both, found["a/pickled", None]]


@pytest.mark.slow
def test_weights_in_several_files(tmp_path, endpoint):
    calls = [("a/sharded", None), ("a/half", None), ("a/elsewhere", None)]
    sharded, half, elsewhere = fetch(tmp_path, *calls, HF_ENDPOINT=endpoint)
    assert sharded.what == [CONFIG, *SHARDS, INDEX]
    assert half.where == "DataError" and SHARDS[1] in half.what
    assert elsewhere.where == "DataError" and "'../x.bin'" in elsewhere.what
    # Without a network a copy counts that has all of them.
    for shard in SHARDS[::-1]:
        again, half, _ = fetch(tmp_path, *calls, HF_HUB_OFFLINE="1")
        assert (again == sharded) == (shard == SHARDS[1])
        assert "no whole copy of a/half" in half.what
        (Path(sharded.where) / shard).unlink()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("apple/mobilevit-small", True),
        ("timm/mobilevit_s.cvnets_in1k", True),
        ("apple/mobilevitv2-1.0-imagenet1k-256", True),
        ("timm/mobilevitv2_150.cvnets_in22k_ft_in1k_384", True),
        ("runs/nothing-here", True),
        ("mobilevit-small", False),
        ("a/b/c", False),
        ("./model", False),
        ("../model", False),
        ("~/model", False),
        ("/model/x", False),
        ("runs/model.safetensors", False),
        ("runs/checkpoint.PT", False),
        ("a--b/c", False),
        ("a/b c", False),
        ("", False),
    ],
)
def test_ids(tmp_path, monkeypatch, source, expected):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(source) is expected


def test_an_existing_path_is_no_id(tmp_path, monkeypatch):
    (tmp_path / "runs" / "xs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("runs/xs")


def test_a_missing_path_in_a_directory_is_no_id(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "apple").touch()
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("runs/quikstart")
    assert is_hub_id("apple/mobilevit-small")
