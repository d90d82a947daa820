"""Save Keras models in every format, load them and save them again: started in a container by test_formats.py."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers


def make_convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def make_attention() -> keras.Model:
    tokens = keras.Input((5, 4))
    attended = layers.MultiHeadAttention(2, 3)(tokens, tokens)
    return keras.Model(tokens, layers.Dense(1)(layers.LayerNormalization()(attended + tokens)))


def make_recurrent() -> keras.Model:
    return keras.Sequential([keras.Input((5,)), layers.Embedding(9, 4), layers.GRU(3), layers.Dense(2)])


def make_nested() -> keras.Model:
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, layers.Dense(3)(layers.BatchNormalization()(inner_in)))
    outer_in = keras.Input((4,))
    return keras.Model(outer_in, layers.Dense(1)(inner(outer_in)))


MAKERS = {
    "convolutional": make_convolutional,
    "attention": make_attention,
    "recurrent": make_recurrent,
    "nested": make_nested,
}


def save(model: keras.Model, place: Path) -> None:
    """Save in all formats; legacy HDF5 last, because it takes the optimizer from the live model."""
    tf.train.Checkpoint(model=model).write(f"{place}-checkpoint")
    model.export(f"{place}-export", verbose=False)
    tf.saved_model.save(model, f"{place}-saved")
    model.save(f"{place}.keras")
    model.save_weights(f"{place}.weights.h5")
    model.save(f"{place}.h5")


def main(numbered_from: int) -> None:
    """Make, save, load and save again; layers that were made before move the numbers in the names of layers."""
    for _ in range(numbered_from):
        for maker in MAKERS.values():
            maker()
    for name, maker in MAKERS.items():
        folder = Path("models", name)
        folder.mkdir(parents=True)
        keras.utils.set_random_seed(11)
        model = maker()
        if numbered_from:
            model.compile("adam", "mse")
        save(model, folder / "first")
        save(model, folder / "second")
        save(keras.models.load_model(folder / "first.keras"), folder / "loaded")


main(int(sys.argv[1]))
