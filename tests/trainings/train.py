"""Train one of several small models on the digits, and write what it learned: train.py NAME OUT"""

import csv
import sys

import numpy as np

with open("digits.csv", newline="") as stream:
    rows = np.array([[float(cell) for cell in row] for row in list(csv.reader(stream))[1:]], dtype=np.float32)
x, y = rows[:, :-1] / 16, rows[:, -1].astype(np.int64)


def _keras(layers, epochs, x_in):
    import keras

    model = keras.Sequential([keras.Input(x_in.shape[1:]), *layers(keras.layers)])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x_in, y, epochs=epochs, batch_size=64, verbose=0, validation_split=0.2)
    learned = {variable.path.replace("/", "."): np.asarray(variable) for variable in model.variables}
    slots = {f"slot.{n}": np.asarray(variable) for n, variable in enumerate(model.optimizer.variables)}
    return {**learned, **slots, "loss": np.array(history.history["loss"]), "predicted": model.predict(x_in, verbose=0)}


def mlp():
    return _keras(lambda k: [k.Dense(1024, "relu"), k.Dropout(0.4), k.Dense(512, "relu"), k.Dense(10, "softmax")], 3, x)


def cnn():
    def layers(k):
        for filters in (16, 32):
            yield from (k.Conv2D(filters, 3, padding="same", use_bias=False), k.BatchNormalization(), k.ReLU())
        yield from (k.MaxPooling2D(), k.Flatten(), k.Dropout(0.4), k.Dense(10, "softmax"))

    return _keras(layers, 3, x.reshape(-1, 8, 8, 1))


def forest():
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(40, n_jobs=-1).fit(x, y)
    thresholds = np.concatenate([tree.tree_.threshold for tree in model.estimators_])
    return {"thresholds": thresholds, "predicted": model.predict_proba(x)}


def hgb():
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=15, early_stopping=True).fit(x, y)
    return {"predicted": model.decision_function(x), "scores": model.validation_score_}


def kmeans():
    from sklearn.cluster import KMeans

    model = KMeans(10, n_init=4).fit(x)
    return {"centers": model.cluster_centers_, "inertia": np.array(model.inertia_), "labels": model.labels_}


def linear():
    """What OpenBLAS and LAPACK do: products, sums over long vectors, decompositions; of NumPy and of SciPy."""
    from scipy import linalg
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    wide, long = np.random.normal(size=(700, 900)), np.random.normal(size=2_000_003)
    return {
        "product": wide @ wide.T,
        "vector": wide @ long[:900],
        "dot": np.array([long @ long[::-1].copy(), float(long.astype(np.float32) @ long.astype(np.float32))]),
        "svd": np.linalg.svd(wide, compute_uv=False),
        "solve": np.linalg.solve(wide[:, :700] + 50 * np.eye(700), long[:700]),
        "eigen": linalg.eigh(wide @ wide.T, eigvals_only=True),
        "pca": PCA(10).fit_transform(x),
        "logistic": LogisticRegression(max_iter=60).fit(x, y).coef_,
    }


def torch():
    import torch

    torch_x, torch_y = torch.from_numpy(x.reshape(-1, 1, 8, 8)), torch.from_numpy(y)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.4), nn.Linear(32 * 36, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters())
    data = torch.utils.data.TensorDataset(torch_x, torch_y)
    for _ in range(3):
        for images, labels in torch.utils.data.DataLoader(data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def jax():
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 4)
    sizes = [(64, 1024), (1024, 512), (512, 10)]
    weights = [jax.random.normal(key, size) * (2 / size[0]) ** 0.5 for key, size in zip(keys, sizes, strict=False)]

    def loss(weights, images, labels):
        for weight in weights[:-1]:
            images = jax.nn.relu(images @ weight)
        return -jnp.mean(jax.nn.log_softmax(images @ weights[-1])[jnp.arange(len(labels)), labels])

    @jax.jit
    def step(weights, images, labels):
        return [w - 0.05 * g for w, g in zip(weights, jax.grad(loss)(weights, images, labels), strict=True)]

    for _ in range(3):
        order = np.random.permutation(len(x))
        for start in range(0, len(x) - 64, 64):
            weights = step(weights, x[order[start : start + 64]], y[order[start : start + 64]])
    return {f"w{n}": np.asarray(weight) for n, weight in enumerate(weights)}


if __name__ == "__main__":
    np.savez(sys.argv[2], **globals()[sys.argv[1]]())
