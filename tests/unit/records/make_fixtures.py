"""Write the files of `fixtures/` with the frameworks themselves; the tests only read them.

Run it in an environment of its own, with CPU builds of torch, tensorflow, onnx, gguf and safetensors:

    python tests/unit/records/make_fixtures.py [torch] [onnx] [gguf] [keras]

Each set of tensors is also written as an `.npz` of the names and values that a reader has to find.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "fixtures"


def _reset(name: str) -> Path:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _arrays() -> dict[str, Any]:
    dice = np.random.default_rng(7)
    return {
        "dense.weight": dice.standard_normal((3, 5), "f4"),
        "dense.bias": np.array([0.0, -0.0, np.nan, np.inf, 1e-45], "f4"),
        "steps": np.array(12, "i8"),
        "nothing": np.zeros((0, 4), "f8"),
        "mask": np.array([[True, False], [False, True]]),
        "half": np.arange(6, dtype="f2").reshape(1, 2, 3) / 3,
        "wave": np.array([1 + 2j, -3j], "c8"),
        "bytes": np.arange(7, dtype="u1"),
    }


def make_torch() -> None:
    """State dicts, nested containers, views, a module, and a file of the old format."""
    import safetensors.torch
    import torch

    folder = _reset("torch")
    arrays = _arrays()
    np.savez(folder / "plain.npz", **arrays)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(tensors, folder / "plain.pt")
    torch.save(dict(reversed(tensors.items())), folder / "reversed.pt")
    torch.save(tensors, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    views = {
        "base": base,
        "transposed": base.transpose(0, 2),
        "middle": base[:, 1, ::2],
        "row": base[1],
        "repeated": base[0, 0].expand(3, 4),
        "shared_twice": base,
        "brain": torch.arange(4, dtype=torch.bfloat16).t() / 3,
        "small": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
        "wide": torch.tensor([1, 2**63], dtype=torch.uint64),
    }
    torch.save(views, folder / "views.pt")
    safetensors.torch.save_file(
        {name: tensor.contiguous().clone() for name, tensor in views.items()}, folder / "views.safetensors"
    )
    nested = {
        "epoch": 3,
        "model": tensors["dense.weight"],
        "list": [base, {"deep": tensors["steps"]}, (base, None, "x")],
    }
    torch.save(nested, folder / "nested.pt")
    torch.save({"lazy": torch.ones(2, dtype=torch.complex64).conj()}, folder / "conjugated.pt")
    torch.save(tensors["dense.weight"], folder / "alone.pt")
    np.save(folder / "alone.npy", arrays["dense.weight"])
    torch.manual_seed(3)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Sequential(torch.nn.LSTM(2, 2))
    )
    # Neither is in a state_dict; an LSTM has its weights in a list, too.
    module.register_buffer("transient", torch.ones(2), persistent=False)
    torch.save(module, folder / "module.pt")
    torch.save(module.state_dict(), folder / "module-state.pt")
    torch.save(
        {"module": module.state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "lr": 0.1}},
        folder / "checkpoint.pt",
    )


def make_onnx() -> None:
    """One set of tensors in the fields of their types, as raw bytes, and in a file beside the model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = _reset("onnx")
    arrays = _arrays() | {
        "small": np.array([-3, 5, 127, -128], "i1"),
        "unsigned": np.array([0, 2**32 - 1], "u4"),
        "huge": np.array([2**64 - 1, 1], "u8"),
        "double": np.array([1.5, -2.5]),
        "negative": np.array([-1, 2**31 - 1, -(2**31)], "i4"),
        "short": np.array([-5, 7], "i2"),
    }
    np.savez(folder / "model.npz", **arrays)

    def typed(name: str, array: Any) -> Any:
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor(name, dtype, array.shape, array.reshape(-1))

    for kind in ("typed", "raw", "external"):
        make = typed if kind == "typed" else lambda name, array: numpy_helper.from_array(array, name)
        initializers = [make(name, array) for name, array in arrays.items() if name != "dense.weight"]
        constant = helper.make_node("Constant", [], ["dense.weight"], value=make("ignored", arrays["dense.weight"]))
        graph = helper.make_graph([constant], "g", [], [], initializer=initializers)
        model = helper.make_model(graph)
        options: dict[str, Any] = {}
        if kind == "external":
            options = {
                "save_as_external_data": True,
                "location": "weights.bin",
                "size_threshold": 0,
                "convert_attribute": True,
            }
        onnx.save_model(model, folder / f"{kind}.onnx", **options)
    body = helper.make_graph([], "then", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])],
                             initializer=[typed("w", np.ones(2, "f4"))])  # fmt: skip
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    numbers = helper.make_node("Constant", [], ["ints"], value_ints=[1, -2])
    text = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", "ü".encode()])
    graph = helper.make_graph([branch, numbers], "g", [], [], initializer=[text])
    onnx.save_model(helper.make_model(graph), folder / "nested.onnx")


def make_gguf() -> None:
    """Plain and quantised tensors."""
    import gguf

    folder = _reset("gguf")
    dice = np.random.default_rng(5)
    plain = {
        "token_embd.weight": dice.standard_normal((4, 64), "f4"),
        "output_norm.weight": np.arange(8, dtype="f2"),
        "counts": np.arange(5, dtype="i4"),
    }
    np.savez(folder / "plain.npz", **plain)
    writer = gguf.GGUFWriter(folder / "plain.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_uint32("llama.context_length", 512)
    for name, array in plain.items():
        writer.add_tensor(name, array)
    _write(writer)
    writer = gguf.GGUFWriter(folder / "quantised.gguf", "llama")
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.BF16):
        data = gguf.quants.quantize(plain["token_embd.weight"], kind)
        writer.add_tensor(f"w.{kind.name}", data, raw_dtype=kind)
    _write(writer)
    sizes = {kind.value: gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGMLQuantizationType}
    (folder / "sizes.txt").write_text("".join(f"{kind} {a} {b}\n" for kind, (a, b) in sorted(sizes.items())))


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_keras() -> None:
    """One small model in all of Keras's formats."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import keras
    import tensorflow as tf

    folder = _reset("keras")
    keras.utils.set_random_seed(5)
    nested = keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((4,)), nested, keras.layers.Dropout(0.1), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 4), "f4"), np.ones((4, 2), "f4"), verbose=0)
    model.save(folder / "m.keras")
    model.save_weights(folder / "m.weights.h5")
    tf.train.Checkpoint(model=model).write(str(folder / "checkpoint" / "m"))
    model.export(folder / "export", verbose=False)
    tf.saved_model.save(model, str(folder / "saved"))
    model.save(folder / "m.h5")
    module = tf.Module()
    module.v = [tf.Variable([1.0, 2.0], name="w"), tf.Variable([b"a", b"bc"], name="words")]
    tf.train.Checkpoint(module=module, step=tf.Variable(3)).write(str(folder / "checkpoint" / "plain"))


MAKERS = {"torch": make_torch, "onnx": make_onnx, "gguf": make_gguf, "keras": make_keras}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", choices=[*MAKERS, []])
    for chosen in parser.parse_args().sets or MAKERS:
        MAKERS[chosen]()
        sys.stderr.write(f"{chosen}: written\n")
