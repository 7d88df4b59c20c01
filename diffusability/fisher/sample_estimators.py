"""FI, FIR and MMSE rate of a sample without a network, from distances between its points alone.

A permutation, rotation or isometric embedding of the data changes no distance, so it changes none
of these estimates. All of them are of the gain, the Jacobian G of the posterior mean (see
``fisher.information``): E tr G and E|G|_F^2 do not change if directions without variance are added
(Lemma B.1 of arXiv 2604.02751). With them v FI = n - E tr G and v^2 FIR = n - 2 E tr G + E|G|_F^2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_USABLE = 0.9  # share of the degrees of freedom that tr G may use before a sample is too small
_NOTHING = 1e-10  # variance relative to the largest that is rounding
_NEGLIGIBLE = 1e-12  # class probability
_BISECTIONS = 40


def principal_coordinates(data: Tensor) -> Tensor:
    """Return the (N, r) float64 coordinates of (N, n) data along their principal axes.

    They are centred, uncorrelated and of falling variance, r is the rank (1 if all points are
    equal), and distances are those of the data. The sign of an axis makes its largest coordinate
    positive, so that equal distances give equal coordinates.
    """
    centred = data.to(torch.float64)
    centred = centred - centred.mean(dim=0)
    if centred.shape[0] > centred.shape[1]:
        values, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
        points = centred @ vectors
    else:
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        points = vectors * values.clamp(min=0).sqrt()
    kept = values > _NOTHING * values[-1]
    kept[-1] = True
    points = points[:, kept].flip(1)
    largest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))  # (1, r)
    return torch.where(largest < 0, -points, points)


def sample_spectra(points: Tensor, block: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Return sample covariance eigenvalues (1 + B, r), of all points and without each block.

    Args:
        points: (N, r) principal coordinates.
        block: (N,) int64 block of each point.
        blocks: B.

    Returns:
        Eigenvalues, padded with zeros, and (1 + B,) degrees of freedom N - 1.
    """
    count, rank = points.shape
    kept = [block != b for b in range(blocks)]
    found = points.new_zeros(1 + blocks, rank)
    sizes = torch.tensor([count, *(int(rows.sum()) for rows in kept)], device=points.device)
    degrees = (sizes - 1).clamp(min=1).to(points)  # (1 + B,)
    found[0] = points.square().sum(dim=0) / degrees[0]  # the coordinates are uncorrelated
    few = count <= rank + 1
    products = points @ points.T if few else points.T @ points  # once, not per block
    for row, rows in enumerate(kept, start=1):
        part = _centred(products[rows][:, rows]) if few else products - _lost(points, rows)
        values = torch.linalg.eigvalsh(part / degrees[row]).clamp(min=0)[-rank:]
        found[row, : len(values)] = values
    return found, degrees


def _centred(products: Tensor) -> Tensor:
    """Return the inner products (n, n) of points from their mean, from those of the points."""
    mean = products.mean(dim=0)  # (n,)
    return products - mean - mean[:, None] + mean.mean()


def _lost(points: Tensor, kept: Tensor) -> Tensor:
    """Return what the scatter (r, r) of points, of mean zero, loses if only some are kept."""
    others, number = points[~kept], kept.sum().clamp(min=1)
    total = others.sum(dim=0)  # (r,), minus the sum of those that are kept
    return others.T @ others + torch.outer(total, total) / number


def gaussian_gains(values: Tensor, degrees: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return E tr G and |G|_F^2 of the Gaussian behind sample covariances.

    Sample eigenvalues l_i spread more than those of the covariance. Their effect on tr G is known:
    tr S (S + v)^-1 = df(lam) = sum l_i / (l_i + lam) at the lam with lam = v (1 - df(lam) / nu) for
    nu degrees of freedom, up to terms that vanish as dimensions and nu grow (Marchenko and Pastur
    1967; Silverstein 1995). |G|^2 = tr G + v d tr G / dv. No target is shrunk to, because none is
    invariant under an embedding.

    Args:
        values: (R, r) sample eigenvalues, zeros where there are fewer.
        degrees: (R,) nu.
        levels: (R, V) noise variances in the unit of the eigenvalues.

    Returns:
        (R, V, 2), and (R, V) bool: the sample is too small, tr G would use more than 0.9 nu. The
        value is then that of the smallest v that is not too small, and v FI / n an upper bound.
    """
    nu = degrees[:, None]  # (R, 1)
    least = _least_level(values, nu)
    too_small, v = levels < least, levels.maximum(least)
    low, high = _bisected(
        torch.zeros_like(v), v, lambda lam: lam > v * (1 - _freedom(values, lam) / nu)
    )
    lam = (low + high) / 2  # (R, V)
    trace = _freedom(values, lam)
    slope = -(values[:, None] / (values[:, None] + lam[..., None]).square()).sum(-1)
    fall = slope * (1 - trace / nu) / (1 + v * slope / nu)  # d tr G / dv
    return torch.stack((trace, (trace + v * fall).clamp(min=0)), dim=-1), too_small


def _least_level(values: Tensor, nu: Tensor) -> Tensor:
    """Return the (R, 1) smallest v at which tr G uses no more than ``_USABLE`` of nu (R, 1)."""
    if not bool((values.count_nonzero(dim=1)[:, None] > _USABLE * nu).any()):
        return torch.zeros_like(nu)
    most = values.sum(dim=1, keepdim=True)
    lam, _ = _bisected(
        torch.zeros_like(nu), most, lambda lam: _freedom(values, lam) <= _USABLE * nu
    )
    return lam / (1 - _USABLE)  # lam = v (1 - df / nu)


def _bisected(
    low: Tensor, high: Tensor, is_above: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the ends of intervals that hold a root, narrowed 2^40 times.

    Args:
        low, high: ends. is_above: whether a point lies above the root, elementwise.
    """
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = is_above(middle)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low, high


def _freedom(values: Tensor, lam: Tensor) -> Tensor:
    """Return (R, V) sum_i l_i / (l_i + lam), where lam > 0 or l_i > 0."""
    total = values[:, None] + lam[..., None]  # (R, V, r)
    return (values[:, None] / total.clamp(min=1e-300)).sum(-1)


@dataclass(frozen=True)
class MixtureDraws:
    """Random numbers that become noisy points of a mixture, M of them.

    Attributes:
        own: (M,) position of the class of each point.
        inner: (M, q) standard normal, along the axes of the data; the point is a function of them
            that changes little where the covariance does.
        noise: (M, q) standard normal.
    """

    own: Tensor
    inner: Tensor
    noise: Tensor


@dataclass(frozen=True)
class ClassGaussians:
    """A Gaussian of every class in the coordinates of all data.

    Attributes:
        means: (K, q). values: (K, q) covariance eigenvalues. vectors: (K, q, q) columns.
    """

    means: Tensor
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, points: Tensor, labels: Tensor) -> "ClassGaussians":
        """Fit every class, shrunk to the mean covariance within classes.

        The share of the mean is that of Ledoit and Wolf (2004): the error of the class's own
        covariance over its distance from the mean. The mean of the classes turns with the data, so
        the fit is invariant, which shrinking to a multiple of the identity would not be under an
        embedding.

        Args:
            points: (N, q). labels: (N,).
        """
        groups = [points[labels == name] for name in labels.unique()]
        means = torch.stack([group.mean(dim=0) for group in groups])
        centred = [group - mean for group, mean in zip(groups, means, strict=True)]
        degrees = max(1, len(points) - len(groups))
        within = torch.stack([c.T @ c for c in centred]).sum(dim=0) / degrees  # (q, q)
        fitted = torch.stack([_shrunk(c, within) for c in centred])
        values, vectors = torch.linalg.eigh(fitted)
        return cls(means, values.clamp(min=0), vectors)

    def draw(self, samples: int, generator: torch.Generator) -> MixtureDraws:
        """Draw the random numbers of ``overlap`` with a generator on the CPU."""
        classes, q = self.means.shape
        device = self.means.device
        own = torch.randint(classes, (samples,), generator=generator).to(device)
        z = torch.randn(2, q, samples, generator=generator, dtype=torch.float64).to(device).mT
        return MixtureDraws(own, torch.einsum("mij,mj->mi", self.vectors[own], z[0]), z[1])

    def overlap(self, levels: Tensor, draws: MixtureDraws) -> Tensor:
        """Estimate how much larger the gain is when the class is not known.

        At a point with class probabilities r_k, G = sum r_k G_k + Cov_k(D_k) / v. The mean of
        tr G_k under r_k is that over classes, so only the covariance adds to the trace.

        Args:
            levels: (V,) noise variances.
            draws: of these classes, or of others that are like them.

        Returns:
            (M, V, 2) unbiased for the differences of tr G (>= 0) and |G|_F^2 between the mixture of
            equally likely classes and the mean over its classes.
        """
        root = self.vectors * self.values[:, None].sqrt() @ self.vectors.mT  # (K, q, q)
        x = self.means[draws.own] + torch.einsum("mij,mj->mi", root[draws.own], draws.inner)
        noisy = (x + v.sqrt() * draws.noise for v in levels)
        return torch.stack(
            [self._overlap(y, v) for y, v in zip(noisy, levels, strict=True)], 1
        ).cpu()

    def _overlap(self, y: Tensor, v: Tensor) -> Tensor:
        total = self.values + v  # (K, q)
        along = torch.einsum("mkn,knq->mkq", y[:, None] - self.means, self.vectors)
        log = -((along.square() / total).sum(dim=2) + total.log().sum(dim=1)) / 2
        share = log.softmax(dim=1)  # (M, K)
        found = y.new_zeros(len(y), 2)
        near = share.max(dim=1).values < 1 - _NEGLIGIBLE  # elsewhere there is nothing to add
        if not bool(near.any()):
            return found
        share, along = share[near], along[near]
        shrink = self.values / total
        gains = self.vectors * shrink[:, None] @ self.vectors.mT  # (K, q, q), G_k
        denoised = self.means + torch.einsum("mkq,knq->mkn", along * shrink, self.vectors)
        centred = denoised - torch.einsum("mk,mkn->mn", share, denoised)[:, None]
        centred = centred * (share[..., None] / v).sqrt()  # Cov_k(D_k) / v = sum_k c_k c_k'
        inner = centred @ centred.mT  # (m, K, K)
        products = torch.einsum("kij,lij->kl", gains, gains)  # tr G_k G_l
        within = (share @ gains.flatten(1)).unflatten(1, gains.shape[1:])  # (m, q, q)
        square = ((share @ products) * share).sum(dim=1) - share @ products.diagonal()
        square = square + inner.square().sum(dim=(1, 2))
        square = square + 2 * ((centred @ within) * centred).sum(dim=(1, 2))
        trace = torch.diagonal(inner, dim1=1, dim2=2).sum(dim=1)
        found[near] = torch.stack((trace, square), dim=1)
        return found


def _shrunk(centred: Tensor, within: Tensor) -> Tensor:
    """Return the covariance of (m, q) centred points, moved towards that within classes."""
    count = len(centred)
    own = centred.T @ centred / max(1, count - 1)
    distance = float((own - within).square().sum())
    # sum_i |x_i x_i' - S|^2 without a (m, q, q) array
    norms = centred.square().sum(dim=1)  # (m,)
    total = norms.square().sum() - 2 * ((centred @ own) * centred).sum()
    error = float(total + count * own.square().sum()) / max(1, count - 1) ** 2
    share = 1.0 if error >= distance else error / distance
    return share * within + (1 - share) * own


@dataclass(frozen=True)
class EmpiricalGains:
    """Gains of the smoothed empirical measure at V noise variances, one row per noisy point.

    Attributes:
        gains: (M, V, 2) tr G and |G|_F^2 at y = x_i + sqrt(v) z. FI is convex, so the mean of tr G
            is a LOWER bound in expectation: FI <= (n - tr G) / v. |G|^2 is no bound.
        most: (M, V) |x_i - D(y)|^2 / v, D of the measure without x_i; its mean is an UPPER bound
            of E tr G for any distribution, so FI >= (n - most) / v.
    """

    gains: Tensor
    most: Tensor


def empirical_gains(
    points: Tensor, levels: Tensor, asked: Tensor, generator: torch.Generator
) -> EmpiricalGains:
    """Return the gains of the empirical measure of points, exact for it, at noisy points of it.

    No shape is assumed. Below v ~ (distance to the nearest neighbour)^2 / (2 log N) the measure is
    that of separate atoms: tr G tends to 0 whatever the distribution, and ``most`` - tr G grows,
    which says so.

    Args:
        points: (N, r) centred, N at least 3.
        levels: (V,) noise variances, in squared units of the points.
        asked: (M,) positions of the points that noise is added to.
        generator: noise, one draw per point for all levels; on the CPU.
    """
    queries, rank = len(asked), points.shape[1]
    asked = asked.to(points.device)
    noise = torch.randn(rank, queries, generator=generator, dtype=torch.float64).to(points).T
    squares = points.square().sum(dim=1)  # (N,)
    products = (points @ points.T).square()  # (N, N)
    gains, most = [], []
    for v in levels:
        y = points[asked] + v.sqrt() * noise
        log = (y @ points.T - squares / 2) / v  # (M, N)
        weights = log.softmax(dim=1)
        mean = weights @ points  # (M, r)
        trace = weights @ squares - mean.square().sum(dim=1)
        # |Cov|_F^2 = sum_ij w_i w_j ((x_i - m) (x_j - m))^2, multiplied out
        along = mean @ points.T  # (M, N)
        square = ((weights @ products) * weights).sum(1) - 2 * (weights * along.square()).sum(1)
        square = square + mean.square().sum(dim=1).square()
        gains.append(torch.stack((trace / v, square / v**2), dim=1).clamp(min=0))
        log[torch.arange(queries), asked] = -torch.inf
        left_out = log.softmax(dim=1) @ points
        most.append((points[asked] - left_out).square().sum(dim=1) / v)
    return EmpiricalGains(torch.stack(gains, dim=1).cpu(), torch.stack(most, dim=1).cpu())
