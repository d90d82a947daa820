"""Load the saved model and scaler, and measure them on the test rows again."""

import json
from pathlib import Path

import joblib
import keras
import numpy as np
import pandas as pd

table = pd.read_csv("data/digits.csv").iloc[::5]  # every 5th row is a test row, as in train.py
pixels = table.drop(columns="label").to_numpy(dtype=np.float32)
y_test = table["label"].to_numpy()

scaler = joblib.load("scaler.joblib")
model = keras.models.load_model("model.keras")

x_test = scaler.transform(pixels).reshape(-1, 8, 8, 1)
probabilities = model.predict(x_test, verbose=0).astype(np.float64)
probability_of_truth = probabilities[np.arange(len(y_test)), y_test]
metrics = {
    "accuracy": float(np.mean(probabilities.argmax(axis=1) == y_test)),
    "loss": float(-np.mean(np.log(np.maximum(probability_of_truth, 1e-12)))),
    "n_test": len(y_test),
}
Path("eval_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
print(f"loaded: accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f} on {len(y_test)} test rows")
