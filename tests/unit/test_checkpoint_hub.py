"""Hub ids through the real huggingface-hub client, against a local server.

The client reads its environment when it is imported, so each opening runs in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import FakeHub, serve
from tiny_checkpoint import write_tiny_checkpoint

OPEN = """
import json, sys
from mwc.compiler.checkpoint import open_checkpoint
from mwc.runtime.errors import MwcError
source, revision = sys.argv[1], sys.argv[2] or None
events = []
try:
    opened = open_checkpoint(source, revision=revision, progress=events.append)
except MwcError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
else:
    origin = opened.origin
    print(json.dumps({
        "kind": origin.kind, "source": origin.source, "revision": origin.revision,
        "files": [name for name, _ in origin.files], "licence": origin.licence,
        "tensors": len(opened.tensors.shapes),
        "values": float(opened.tensors.read("encoder.conv1.bias").sum()),
        "downloaded": [[e.done, e.total] for e in events if e.stage == "download"],
    }))
"""


@dataclass
class Client:
    """Opens Hub ids in a fresh process with a cache of its own."""

    hub: FakeHub
    home: Path

    def open(self, source: str, revision: str = "", **environment: str) -> dict[str, Any]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "HF_TOKEN"}
        env |= {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home), "NO_PROXY": "127.0.0.1"}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", **environment}
        done = subprocess.run(
            [sys.executable, "-c", OPEN, source, revision],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    small = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 64, "heads": 1}
    result = {}
    for layout in ("hf-safetensors", "hf-safetensors-sharded", "hf-bin"):
        if layout == "hf-bin":
            pytest.importorskip("torch")
        result[f"someone/{layout}"] = write_tiny_checkpoint(root / layout, layout=layout, **small)
    plain = result["someone/hf-safetensors"]
    (plain / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    (plain / "flax_model.msgpack").write_bytes(b"not needed")
    # Both layouts: safetensors are preferred.
    (plain / "pytorch_model.bin").write_bytes(b"not needed")
    return result


@pytest.fixture
def client(models: dict[str, Path], tmp_path: Path) -> Iterator[Client]:
    with serve(FakeHub(dict(models))) as hub:
        yield Client(hub, tmp_path / "home")


def test_hub_id_is_pinned_and_only_what_is_needed_is_fetched(client: Client) -> None:
    result = client.open("someone/hf-safetensors")
    assert (result["kind"], result["source"]) == ("hub", "someone/hf-safetensors")
    assert result["revision"] == "a" * 40
    assert result["licence"] == "apache-2.0"
    assert {"config.json", "model.safetensors", "vocab.json"} <= set(result["files"])
    for unneeded in ("flax_model.msgpack", "pytorch_model.bin"):
        assert client.hub.downloads(unneeded) == 0
    assert client.hub.downloads("model.safetensors") == 1


def test_download_progress_ends_at_its_total(client: Client) -> None:
    events = client.open("someone/hf-safetensors")["downloaded"]
    done = [d for d, _ in events]
    assert done == sorted(done)
    assert events[-1][0] == events[-1][1] > 100_000


@pytest.mark.parametrize("layout", ["hf-safetensors-sharded", "hf-bin"])
def test_other_layouts(client: Client, layout: str) -> None:
    result = client.open(f"someone/{layout}")
    assert result["tensors"] == client.open("someone/hf-safetensors")["tensors"]


def test_revision_is_resolved(client: Client) -> None:
    assert client.open("someone/hf-safetensors", "v1")["revision"] == "b" * 40
    assert client.open("someone/hf-safetensors", "b" * 40)["revision"] == "b" * 40


def test_second_opening_downloads_nothing(client: Client) -> None:
    first = client.open("someone/hf-safetensors")
    assert client.open("someone/hf-safetensors")["values"] == first["values"]
    assert client.hub.downloads("model.safetensors") == 1


def test_offline_uses_the_cache_without_a_request(client: Client) -> None:
    first = client.open("someone/hf-safetensors")
    seen = len(client.hub.requests)
    again = client.open("someone/hf-safetensors", HF_HUB_OFFLINE="1")
    assert {**again, "downloaded": []} == {**first, "downloaded": []}
    assert len(client.hub.requests) == seen


def test_offline_without_a_cached_copy(client: Client) -> None:
    result = client.open("someone/hf-safetensors", HF_HUB_OFFLINE="1")
    assert result["error"] == "CheckpointError"
    assert "HF_HUB_OFFLINE" in result["message"]
    assert client.hub.requests == []


def test_interrupted_download_leaves_nothing_half(client: Client) -> None:
    client.hub.cut.add("model.safetensors")
    broken = client.open("someone/hf-safetensors")
    assert broken["error"] == "CheckpointError"
    assert "cannot download someone/hf-safetensors" in broken["message"]
    client.hub.cut.clear()
    whole = client.open("someone/hf-safetensors")
    assert whole["revision"] == "a" * 40
    assert client.hub.downloads("vocab.json") == 1
    cached = (client.home / "hub").rglob("model.safetensors")
    assert [path.stat().st_size for path in cached] == [
        (client.hub.models["someone/hf-safetensors"] / "model.safetensors").stat().st_size
    ]


def test_unknown_model(client: Client) -> None:
    result = client.open("someone/nothing")
    assert result["error"] == "CheckpointError"
    assert "no model someone/nothing" in result["message"]


def test_unknown_revision(client: Client) -> None:
    result = client.open("someone/hf-safetensors", "v9")
    assert result["error"] == "CheckpointError"
    assert "'v9'" in result["message"]


def test_gated_model(client: Client) -> None:
    client.hub.gated.add("someone/hf-safetensors")
    result = client.open("someone/hf-safetensors")
    assert result["error"] == "CheckpointError"
    assert "gated" in result["message"]
    assert "HF_TOKEN" in result["message"]


def test_server_that_does_not_answer(client: Client) -> None:
    result = client.open("someone/hf-safetensors", HF_ENDPOINT="http://127.0.0.1:9")
    assert result["error"] == "CheckpointError"
    assert "HF_HUB_OFFLINE=1" in result["message"]


def test_model_without_readable_weights(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "flax"
    shutil.copytree(client.hub.models["someone/hf-safetensors"], folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").unlink()
    client.hub.models["someone/flax"] = folder
    result = client.open("someone/flax")
    assert result["error"] == "CheckpointError"
    assert "no weights that mwc reads" in result["message"]


def test_index_that_names_a_shard_the_model_lacks(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(client.hub.models["someone/hf-safetensors-sharded"], folder)
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.unlink()
    client.hub.models["someone/cut"] = folder
    result = client.open("someone/cut")
    assert result["error"] == "CheckpointError"
    assert f"someone/cut lacks {shard.name}, which model.safetensors.index" in result["message"]


def test_the_whole_is_fetched_and_not_the_shards_it_replaced(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    shutil.copytree(client.hub.models["someone/hf-safetensors"], folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}')
    client.hub.models["someone/both"] = folder
    assert "model.safetensors" in client.open("someone/both")["files"]


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(client.hub.models["someone/hf-safetensors"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "wav2vec2"}))
    client.hub.models["someone/other"] = folder
    result = client.open("someone/other")
    assert result["error"] == "UnsupportedModel"
    assert (
        "someone/other is no Whisper: its config.json has model_type 'wav2vec2'"
        in (result["message"])
    )
    assert client.hub.downloads("model.safetensors") == 0


@pytest.mark.parametrize("source", ["a--b/c", "a/b.git"])
def test_what_cannot_be_an_id(client: Client, source: str) -> None:
    for offline in ("0", "1"):
        result = client.open(source, HF_HUB_OFFLINE=offline)
        assert result["error"] == "CheckpointError"
        assert f"{source} is no Hub id" in result["message"]
