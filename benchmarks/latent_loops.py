"""Slow, obvious restatements of the latent metrics, one image, token and class at a time.

They share nothing with the library: numpy only, explicit inverses, Python loops. Tests compare
against them, the benchmark measures against them.
"""

import numpy as np
from scipy.fft import dctn


def z_scores(latents: np.ndarray) -> np.ndarray:
    """Z-score each channel of (N, C, H, W)."""
    out = np.empty(latents.shape)
    for c in range(latents.shape[1]):
        channel = latents[:, c].astype(np.float64)
        out[:, c] = (channel - channel.mean()) / channel.std(ddof=1)
    return out


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Cosine of two vectors."""
    return float(x @ y / (np.sqrt(x @ x) * np.sqrt(y @ y)))


def token_pairs(image: np.ndarray) -> dict[tuple[int, int], tuple[int, float]]:
    """Return {(i, j): (Manhattan distance, cosine)} for all ordered pairs of (C, H, W) tokens."""
    _, height, width = image.shape
    places = [(r, c) for r in range(height) for c in range(width)]
    pairs = {}
    for i, (r, c) in enumerate(places):
        for j, (s, d) in enumerate(places):
            pairs[i, j] = (abs(r - s) + abs(c - d), cosine(image[:, r, c], image[:, s, d]))
    return pairs


def lds(image: np.ndarray, far: int) -> float:
    """Mean cosine at distance 1 minus mean cosine at distance >= far."""
    pairs = token_pairs(image).values()
    near = [value for distance, value in pairs if distance == 1]
    distant = [value for distance, value in pairs if distance >= far]
    return float(np.mean(near) - np.mean(distant))


def cds(image: np.ndarray, decay: int) -> float:
    """Minus the slope of mean cosine over distances 1..decay."""
    pairs = token_pairs(image).values()
    steps = range(1, decay + 1)
    means = [np.mean([value for distance, value in pairs if distance == step]) for step in steps]
    return -float(np.polyfit(list(steps), means, 1)[0])


def rmsc(image: np.ndarray) -> float:
    """Root mean squared distance of unit tokens to their mean."""
    tokens = [t / np.sqrt(t @ t) for t in image.reshape(image.shape[0], -1).T]
    centre = sum(tokens) / len(tokens)
    return float(np.sqrt(np.mean([(t - centre) @ (t - centre) for t in tokens])))


def srss(image: np.ndarray, foreground: np.ndarray, far: int) -> float:
    """Mean over anchors of cosine to near foreground minus cosine to far background."""
    pairs, inside = token_pairs(image), foreground.flatten()
    contrasts = []
    for i in np.flatnonzero(inside):
        near = [v for (a, b), (d, v) in pairs.items() if a == i and d == 1 and inside[b]]
        away = [v for (a, b), (d, v) in pairs.items() if a == i and d >= far and not inside[b]]
        if near and away:
            contrasts.append(np.mean(near) - np.mean(away))
    return float(np.mean(contrasts)) if contrasts else float("nan")


def sec(scaled: np.ndarray, ratio: float) -> float:
    """Share of DCT energy at u + v above ratio * (H - 1 + W - 1)."""
    high = total = 0.0
    for image in scaled:
        for channel in image:
            energy = dctn(channel, type=2, norm="ortho") ** 2
            for (u, v), value in np.ndenumerate(energy):
                total += value
                if u + v > ratio * (channel.shape[0] - 1 + channel.shape[1] - 1):
                    high += value
    return high / total


def local_correlation(image: np.ndarray) -> float:
    """Mean Pearson correlation over the six pairs of every 2x2 window."""
    values = []
    for r in range(0, image.shape[1] - 1, 2):
        for c in range(0, image.shape[2] - 1, 2):
            pixels = image[:, r : r + 2, c : c + 2].reshape(image.shape[0], 4)
            for i in range(4):
                for j in range(i):
                    values.append(np.corrcoef(pixels[:, i], pixels[:, j])[0, 1])
    return float(np.mean(values))


def lnc(features: np.ndarray, labels: np.ndarray, k: int, distance: str) -> float:
    """Mean fraction of the k nearest neighbours with the same label."""
    fractions = []
    for i, point in enumerate(features):
        order = []
        for j, other in enumerate(features):
            if j != i:
                gap = (
                    -cosine(point, other) if distance == "cosine" else np.sum((point - other) ** 2)
                )
                order.append((gap, labels[j] == labels[i]))
        order.sort(key=lambda pair: pair[0])
        fractions.append(np.mean([same for _, same in order[:k]]))
    return float(np.mean(fractions))


def flip_flop(samples: np.ndarray, tolerance: float = 1e-12) -> tuple[np.ndarray, np.ndarray]:
    """Kronecker MLE of (n, p, q) samples, the mean estimated, by explicit inverses."""
    n, p, q = samples.shape
    centred = samples - samples.mean(axis=0)
    A, B = np.eye(p), np.eye(q)
    for _ in range(1000):
        previous = np.kron(A, B) if p * q <= 256 else np.outer(np.diag(A), np.diag(B))
        inverse = np.linalg.inv(B)
        A = sum(x @ inverse @ x.T for x in centred) / (n * q)
        inverse = np.linalg.inv(A)
        B = sum(x.T @ inverse @ x for x in centred) / (n * p)
        current = np.kron(A, B) if p * q <= 256 else np.outer(np.diag(A), np.diag(B))
        if np.linalg.norm(current - previous) < tolerance * np.linalg.norm(current):
            break
    return A, B


def viv(samples: np.ndarray, tolerance: float = 1e-12) -> dict[str, float]:
    """VIV of one class of (n, C, H, W): trace-rescaled, maximum likelihood, DCT-diagonal."""
    n, channels, height, width = samples.shape
    matrices = samples.reshape(n, channels, height * width)
    A, B = flip_flop(matrices, tolerance)
    eigenvalues = np.outer(np.linalg.eigvalsh(A), np.linalg.eigvalsh(B)).flatten()
    tau = matrices.reshape(n, -1).var(axis=0).sum()
    rescaled = eigenvalues * tau / eigenvalues.sum()
    spectra = dctn(samples - samples.mean(axis=0), type=2, norm="ortho", axes=(2, 3))
    roots = []
    for u in range(height):
        for v in range(width):
            covariance = spectra[:, :, u, v].T @ spectra[:, :, u, v] / n
            roots.extend(np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0, None)))
    return {
        "viv": np.pi / 2 * np.sqrt(rescaled).mean(),
        "viv_mle": np.pi / 2 * np.sqrt(eigenvalues).mean(),
        "viv_dct": np.pi / 2 * np.mean(roots),
    }
