"""Train a small network on 8x8 images of handwritten digits, and save all that is needed to use it."""

import json
from pathlib import Path

import joblib
import keras
import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

table = pd.read_csv("data/digits.csv")
pixels = table.drop(columns="label").to_numpy(dtype=np.float32)
labels = table["label"].to_numpy()

# Every 5th row (0, 5, 10, …) is a test row; the other four of five train the model.
is_test = np.arange(len(table)) % 5 == 0

# The scaler sees training rows only, and is saved: refitting it elsewhere would give the model other inputs.
scaler = StandardScaler().fit(pixels[~is_test])
joblib.dump(scaler, "scaler.joblib")

x_train = scaler.transform(pixels[~is_test]).reshape(-1, 8, 8, 1)
x_test = scaler.transform(pixels[is_test]).reshape(-1, 8, 8, 1)
y_train, y_test = labels[~is_test], labels[is_test]

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Conv2D(64, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.4),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=64, epochs=15, verbose=2)
model.save("model.keras")

probabilities = model.predict(x_test, verbose=0).astype(np.float64)
probability_of_truth = probabilities[np.arange(len(y_test)), y_test]
metrics = {
    "accuracy": float(np.mean(probabilities.argmax(axis=1) == y_test)),
    "loss": float(-np.mean(np.log(np.maximum(probability_of_truth, 1e-12)))),
    "n_test": len(y_test),
}
Path("metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
print(f"trained: accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f} on {len(y_test)} test rows")
