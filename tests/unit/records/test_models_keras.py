"""Keras models: one digest in all of its formats."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import RecordError
from reprobox.records.models.content import (
    detect_format,
    digest_content,
)
from reprobox.records.models.keras import LegacyLayer, is_model_weight, name_legacy_weights, name_weights
from tests.unit.records.model_files import (
    KerasModel,
    digest,
    make_model,
    write_keras,
    write_legacy,
    write_weights,
)


class TestKeras:
    def write_all(self, folder: Path, model: KerasModel, tag: str) -> list[Path]:
        """One model in every container, layout and history that Keras gives it."""
        deflated = {"compression": zipfile.ZIP_DEFLATED, "reverse": True, "with_optimizer": True}
        paths = [
            write_keras(folder / f"{tag}.keras", model),
            write_keras(folder / f"{tag}-deflated.keras", model, **deflated),
        ]
        layouts: dict[str, Callable[[h5py.File], None]] = {
            ".weights.h5": lambda file: write_weights(file, model),
            "-packed.weights.h5": lambda file: write_weights(
                file, model, reverse=True, dataset_options={"compression": "gzip", "chunks": True}
            ),
            ".h5": lambda file: write_legacy(file, model, with_optimizer=True),
            "-built.h5": lambda file: write_legacy(file, model, scope=lambda chain: ("sequential_9", *chain)),
            "-loaded.h5": lambda file: write_legacy(file, model, scope=lambda chain: chain[1:] or chain),
            "-weights.h5": lambda file: write_legacy(file, model, root=""),
        }
        for suffix, write in layouts.items():
            with h5py.File(folder / f"{tag}{suffix}", "w") as file:
                write(file)
            paths.append(folder / f"{tag}{suffix}")
        return paths

    def test_all_formats_of_a_model_agree(self, tmp_path: Path) -> None:
        """One digest for .keras, .weights.h5 and .h5, saved, loaded, compiled, and numbered by another process."""
        first = self.write_all(tmp_path, make_model(), "a")
        later = self.write_all(tmp_path, make_model(number_from=9), "b")
        formats = {path.name[1:]: detect_format(path) for path in first}
        assert set(formats.values()) == {"keras", "keras-weights-h5", "keras-h5"}
        digests = {path.name: digest(path) for path in (*first, *later)}
        assert len(set(digests.values())) == 1, digests

    def test_other_weights_are_other_content(self, tmp_path: Path) -> None:
        """Models that differ in their weights differ in every format."""
        a = self.write_all(tmp_path, make_model(seed=0), "a")
        b = self.write_all(tmp_path, make_model(seed=1), "b")
        assert {digest(path) for path in a}.isdisjoint(digest(path) for path in b)

    def test_every_weight_counts(self, tmp_path: Path) -> None:
        """Flipping a bit in any dataset of the model changes the digest; in the optimizer's it does not."""
        path = tmp_path / "m.weights.h5"
        with h5py.File(path, "w") as file:
            write_weights(file, make_model(), with_optimizer=True)
        before = digest(path)
        datasets: list[str] = []
        with h5py.File(path) as file:
            file.visititems(lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in datasets:
            with h5py.File(path, "r+") as file:
                old = file[name][()]
                file[name][...] = (np.asarray(old).view(f"i{old.itemsize}") ^ 1).view(old.dtype)
            assert (digest(path) == before) is name.startswith("optimizer/"), name
            with h5py.File(path, "r+") as file:
                file[name][...] = old
        assert digest(path) == before

    def test_a_vocabulary_counts(self, tmp_path: Path) -> None:
        """Files that a layer keeps beside its weights are content: an order by hash seed shows in them."""
        found = set()
        for vocabulary in ("", "a\nb", "b\na"):
            path = write_keras(tmp_path / "m.keras", make_model())
            if vocabulary:
                with zipfile.ZipFile(path, "a") as archive:
                    archive.writestr("assets/layers/text_vectorization/vocabulary.txt", vocabulary)
            found.add(digest(path))
        assert len(found) == 3

    def test_bfloat16_is_known_in_each_format(self, tmp_path: Path) -> None:
        """Keras writes bfloat16 as two opaque bytes, with and without a note; safetensors names it."""
        raw = np.array([b"\x80\x3f", b"\x00\xc0"], "V2")
        with h5py.File(tmp_path / "m.weights.h5", "w") as file:
            file.create_dataset("layers/dense/vars/0", data=raw).attrs["dtype"] = "bfloat16"
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file.attrs["layer_names"] = [b"dense"]
            file.create_dataset("dense/dense/kernel", data=raw)
            file["dense"].attrs["weight_names"] = [b"dense/kernel"]
        header = b'{"dense/0":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw.tobytes())
        assert len({digest(path) for path in tmp_path.iterdir()}) == 1

    def test_long_lists_of_names_are_joined(self, tmp_path: Path) -> None:
        """HDF5 limits an attribute to 64 KiB, so Keras splits long lists into name0, name1, …"""
        model = make_model()
        for path in (tmp_path / "whole.h5", tmp_path / "split.h5"):
            with h5py.File(path, "w") as file:
                write_legacy(file, model)
                if path.stem == "split":
                    attributes = file["model_weights"].attrs
                    layers = list(attributes.pop("layer_names"))
                    attributes["layer_names0"], attributes["layer_names1"] = layers[:2], layers[2:]
        assert digest(tmp_path / "whole.h5") == digest(tmp_path / "split.h5")

    def test_a_list_that_names_what_is_missing_is_damage(self, tmp_path: Path) -> None:
        """A legacy file from which a weight was lost, as by a save that failed, is an error that names it."""
        path = tmp_path / "m.h5"
        with h5py.File(path, "w") as file:
            write_legacy(file, make_model())
            del file["model_weights/dense_2/dense_2/bias"]
        with pytest.raises(RecordError, match=r"dense_2/dense_2/bias.*not there"):
            digest_content(path)

    def test_the_state_of_training_is_told_from_the_model(self) -> None:
        """Optimizers, metrics and random generators are not the model; what only sounds like them is."""
        state = ["optimizer/vars/0", "_optimizer/vars/1", "d_optimizer/vars/0", "metrics/mean/vars/0"]
        state += ["layers/dropout/seed_generator/vars/0"]
        model = ["layers/dense/vars/0", "layers/optimizer/vars/0", "optimizer_net/vars/0", "seed/vars/0", "vars/0"]
        assert [is_model_weight(path) for path in state + model] == [False] * len(state) + [True] * len(model)

    def test_numbers_are_counted_anew_within_their_level(self) -> None:
        """The number that a process reached does not show; the order of the numbers does."""
        layers = {"a": "dense_7", "b": "dense_10", "c": "block_2_3", "d": "block_12_1", "e": "dense"}
        named = name_weights([f"{path}/vars/0" for path in layers], layers)
        assert named == {
            "e/vars/0": "dense/0",
            "a/vars/0": "dense_1/0",
            "b/vars/0": "dense_2/0",
            "c/vars/0": "block/0",
            "d/vars/0": "block_1/0",
        }

    def test_names_that_would_coincide_stay_as_in_the_file(self) -> None:
        """Two layers of one name, as only a damaged or strange file has them, keep their own paths."""
        assert name_weights(["a/vars/0", "b/vars/0"], {"a": "x", "b": "x"}) == {p: p for p in ("a/vars/0", "b/vars/0")}
        twins = [LegacyLayer(name="a", weights=("v:0",)), LegacyLayer(name="a/v:0", weights=("w",))]
        assert len(set(name_legacy_weights(twins).values())) == 2

    @given(
        st.lists(
            st.lists(st.sampled_from(["d", "d_1", "d_2", "e", "enc", "seq", "seq_1"]), min_size=1, max_size=4).map(
                tuple
            ),
            min_size=1,
            max_size=8,
            unique=True,
        )
    )
    def test_both_layouts_give_the_same_names(self, chains: list[tuple[str, ...]]) -> None:
        """Any tree of layers gets the same names from both layouts, and no two variables get one name."""
        paths = {"/".join(chain): chain for chain in chains}
        prefixes = {"/".join(chain[:end]) for chain in chains for end in range(1, len(chain) + 1)}
        layer_names = {prefix: prefix.rpartition("/")[2] for prefix in prefixes}
        new = name_weights([f"{path}/vars/{i}" for path in paths for i in range(2)], layer_names)
        tops = dict.fromkeys(chain[0] for chain in chains)
        legacy = name_legacy_weights(
            [
                LegacyLayer(
                    name=top,
                    weights=tuple(f"{path}/{v}" for path, chain in paths.items() if chain[0] == top for v in "kb"),
                )
                for top in tops
            ]
        )
        assert len(set(new.values())) == len(new)
        assert set(new.values()) == set(legacy.values())
        for path, chain in paths.items():
            assert new[f"{path}/vars/1"] == legacy[chain[0], f"{path}/b"]
