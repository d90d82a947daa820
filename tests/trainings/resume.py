"""Train a CNN with dropout, batch normalisation and shuffled data; killed at a step or a moment, resumed from a checkpoint.

resume.py OUT CHECKPOINT EVERY KILL: KILL is "never", "step:N" or "after:SECONDS" from the first step on.
"""

import csv
import json
import os
import signal
import sys
import threading

import keras
import numpy as np

from reprobox.runtime.keras import BackupAndRestore

OUT, CHECKPOINT, EVERY, KILL = sys.argv[1:]
EPOCHS = 4


class Killer(keras.callbacks.Callback):
    """Ends the process as the kernel would when memory runs out: nothing of Python runs after it."""

    steps = 0

    def on_train_batch_end(self, batch, logs=None):
        Killer.steps += 1
        kind, _, value = KILL.partition(":")
        if kind == "step" and Killer.steps == int(value):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "after" and Killer.steps == 1:
            timer = threading.Timer(float(value), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()


with open("digits.csv", newline="") as stream:
    rows = np.array([[float(cell) for cell in row] for row in list(csv.reader(stream))[1:]], dtype=np.float32)
x, y = rows[:, :-1].reshape(-1, 8, 8, 1) / 16, rows[:, -1].astype(np.int64)

layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(16, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.GaussianNoise(0.1),
        layers.Flatten(),
        layers.Dropout(0.4),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
callbacks = [
    Killer(),
    # Its best value, and the learning rate that it sets, must survive as well.
    keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=0, min_delta=0.2),
    keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
    BackupAndRestore(CHECKPOINT, every=EVERY if EVERY == "epoch" else int(EVERY)),
]
history = model.fit(x, y, epochs=EPOCHS, batch_size=32, verbose=0, validation_split=0.2, callbacks=callbacks)
slots = {f"slot{n}": np.asarray(variable) for n, variable in enumerate(model.optimizer.variables)}
seeds = {f"state{n}": np.asarray(variable) for n, variable in enumerate(model.variables)}
# What comes after the training depends on generators too.
after = {"numpy": np.random.normal(size=3), "keras": np.asarray(keras.random.normal((3,)))}
np.savez(OUT, **slots, **seeds, **after)
with open(OUT + ".json", "w") as stream:
    json.dump(history.history, stream)
print("trained")
