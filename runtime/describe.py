"""An artifact's contents, as text for people and as JSON for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mwc.runtime.artifact import Artifact, installed_max, missing_features
from mwc.runtime.manifest import PARITY_NAME, TargetEntry
from mwc.runtime.spec import GraphSignature, TensorSpec, to_json

Rows = list[tuple[str, str]]


def describe(artifact: Artifact) -> str:
    """Describe an artifact in aligned lines under one heading per part."""
    parts: list[tuple[str, Rows]] = [
        ("Artifact", _artifact_rows(artifact)),
        ("Model", _model_rows(artifact)),
        ("Tokens", _token_rows(artifact)),
        ("Source", _source_rows(artifact)),
        ("Speech detector", _detector_rows(artifact)),
    ]
    parts += [(f"Target {t.name}", _target_rows(t)) for t in artifact.manifest.targets]
    parts += [
        ("Weights", _weight_rows(artifact)),
        (
            "Parity",
            _parity_rows(read_parity(artifact), [t.name for t in artifact.manifest.targets]),
        ),
        ("Files", [(e.path, f"{e.size:,} bytes, {e.sha256}") for e in artifact.manifest.files]),
    ]
    return "\n\n".join(_section(title, rows) for title, rows in parts if rows)


def describe_json(artifact: Artifact) -> dict[str, Any]:
    """Describe an artifact as plain JSON values.

    The manifest's own fields, and: `path`; `size`, bytes of all files; `installed_max`; `parity`,
    the stored report or None; `missing_cpu_features`, by CPU target, empty where it can run here.
    """
    described: dict[str, Any] = json.loads(json.dumps(to_json(artifact.manifest)))
    described["path"] = str(artifact.path)
    described["size"] = _total_size(artifact)
    described["installed_max"] = installed_max()
    described["parity"] = read_parity(artifact)
    described["missing_cpu_features"] = {
        target.name: list(missing_features(target))
        for target in artifact.manifest.targets
        if target.device == "cpu"
    }
    return described


def read_parity(artifact: Artifact) -> dict[str, Any] | None:
    """The verification report stored in the artifact, or None where it was not verified."""
    if not artifact.holds(PARITY_NAME):
        return None
    try:
        data = json.loads(artifact.file(PARITY_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _section(title: str, rows: Rows) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _total_size(artifact: Artifact) -> int:
    return sum(entry.size for entry in artifact.manifest.files)


def _artifact_rows(artifact: Artifact) -> Rows:
    manifest = artifact.manifest
    compiled, installed = manifest.provenance.max_version, installed_max()
    here = "installed" if compiled == installed else f"installed here: {installed or 'none'}"
    return [
        ("path", str(artifact.path)),
        ("format", f"{manifest.format} revision {manifest.revision}"),
        ("size", f"{_total_size(artifact):,} bytes in {len(manifest.files)} files"),
        ("written", f"{manifest.provenance.created} by mwc {manifest.provenance.mwc_version}"),
        ("compiled with", f"MAX {compiled} ({here})" + _mojo(manifest.provenance.mojo_version)),
    ]


def _mojo(version: str | None) -> str:
    return "" if version is None else f", Mojo {version}"


def _model_rows(artifact: Artifact) -> Rows:
    model, audio = artifact.manifest.spec.model, artifact.manifest.spec.audio
    encoder = (model.n_audio_layer, model.n_audio_state, model.n_audio_head, model.n_audio_mlp)
    decoder = (model.n_text_layer, model.n_text_state, model.n_text_head, model.n_text_mlp)
    shape = "{} layers, width {}, {} heads, feed-forward {}"
    return [
        ("encoder", f"{shape.format(*encoder)}, {model.n_audio_ctx} positions"),
        ("decoder", f"{shape.format(*decoder)}, {model.n_text_ctx} positions"),
        ("vocabulary", f"{model.n_vocab} tokens"),
        (
            "audio",
            f"{audio.sample_rate} Hz, {model.n_mels} mels, windows of {audio.chunk_length} s, "
            f"frames of {audio.n_fft} samples every {audio.hop_length}",
        ),
        ("log-mel maximum", f"of the {audio.log_mel_max}"),
        ("padding", audio.padding),
    ]


def _token_rows(artifact: Artifact) -> Rows:
    tokens = artifact.manifest.spec.tokens
    languages = ", ".join(code for code, _ in tokens.languages) or "English only"
    derived = ", derived" if tokens.alignment_heads_derived else ""
    heads = " ".join(f"{layer}.{head}" for layer, head in tokens.alignment_heads)
    return [
        ("languages", f"{len(tokens.languages) or 1}: {languages}"),
        ("tasks", "transcribe" if tokens.translate is None else "transcribe, translate"),
        ("eot, sot", f"{tokens.eot}, {tokens.sot}"),
        ("timestamps from", str(tokens.timestamp_begin)),
        ("suppressed", f"{len(tokens.suppress_tokens)} tokens"),
        ("alignment heads", f"{heads} (layer.head{derived})"),
    ]


def _source_rows(artifact: Artifact) -> Rows:
    source = artifact.manifest.provenance
    rows = [("checkpoint", f"{source.source} ({source.kind})")]
    if source.revision is not None:
        rows.append(("revision", source.revision))
    rows.append(("licence", source.licence or "not stated"))
    rows += [(name, f"SHA-256 {sha256}") for name, sha256 in source.files]
    rows += [("option", f"{name} = {value}") for name, value in sorted(source.options.items())]
    return rows + [("note", note) for note in source.notes]


def _detector_rows(artifact: Artifact) -> Rows:
    detector = artifact.manifest.detector
    return [
        ("network", f"{detector.name} {detector.version}"),
        ("package", f"{detector.package} {detector.package_version}"),
        ("weights", f"SHA-256 {detector.sha256}"),
    ]


def _target_rows(target: TargetEntry) -> Rows:
    rows = [("device", f"{target.device} {target.arch}")]
    if target.cpu_model is not None:
        rows.append(("compiled on", target.cpu_model))
    if target.device == "cpu":
        missing = missing_features(target)
        rows.append(("needs", ", ".join(target.cpu_features) or "no CPU feature in particular"))
        rows.append(("runs here", f"no: lacks {', '.join(missing)}" if missing else "yes"))
    rows.append(("precision", f"{target.precision}, caches in {target.kv_dtype}"))
    rows.append(("file", target.mef))
    return rows + [(f"graph {graph.name}", _graph(graph)) for graph in target.graphs]


def _graph(graph: GraphSignature) -> str:
    inputs = ", ".join(_tensor(tensor) for tensor in graph.inputs)
    outputs = ", ".join(_tensor(tensor) for tensor in graph.outputs)
    return f"({inputs}) -> ({outputs}), {len(graph.weights)} weights"


def _tensor(tensor: TensorSpec) -> str:
    mutable = " mutable" if tensor.mutable else ""
    return f"{tensor.name}: {tensor.dtype}[{', '.join(map(str, tensor.shape))}]{mutable}"


def _weight_rows(artifact: Artifact) -> Rows:
    sizes = {entry.path: entry.size for entry in artifact.manifest.files}
    rows = []
    for weights in artifact.manifest.weights:
        counts = Counter(tensor.dtype for tensor in weights.tensors)
        held = ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common())
        size = f"{sizes[weights.path]:,} bytes"
        tensors = f"{len(weights.tensors)} tensors ({held})"
        rows.append((weights.precision, f"{tensors}, {size}, {weights.path}"))
    return rows


def _unverified_rows(parity: dict[str, Any], targets: Sequence[str]) -> Rows:
    """The targets that the report is not about: another machine's, or added later."""
    left = [name for name in targets if name not in (parity.get("targets") or targets)]
    return [("not verified", ", ".join(left))] if left else []


def _parity_rows(parity: dict[str, Any] | None, targets: Sequence[str] = ()) -> Rows:
    """The report's verdict and its stages; every field is optional, as another mwc wrote it."""
    if parity is None:
        return [("verified", "no (mwc verify compares it with its checkpoint)")]
    verdict = "passed" if parity.get("ok") else "FAILED"
    rows = [
        ("verified", f"{verdict}, against {parity.get('reference', 'an unnamed reference')}"),
        *_unverified_rows(parity, targets),
        ("bound", f"{parity.get('bound', '?')} relative, {parity.get('precision', '?')}"),
        (
            "greedy tokens",
            f"{parity.get('tokens_equal', '?')} of {parity.get('tokens_compared', '?')} equal",
        ),
    ]
    for measured in parity.get("calibration", ()):
        rate, errors = measured.get("rate"), measured.get("errors", {})
        shown = f"{100 * rate:.2f} %" if isinstance(rate, int | float) else "?"
        words = f"{measured.get('recordings', '?')} recordings, {errors.get('words', '?')} words"
        rows.append((f"word errors, {measured.get('language', '?')}", f"{shown} ({words})"))
    for stage in parity.get("stages", ()):
        error = f"max abs {_number(stage.get('max_abs'))}, rel {_number(stage.get('max_rel'))}"
        error += f" (bound {_number(stage.get('bound'))})"
        rows.append((str(stage.get("name")), error + ("" if stage.get("ok") else "  FAILED")))
    return rows


def _number(value: object) -> str:
    return f"{value:.2e}" if isinstance(value, int | float) else "?"
