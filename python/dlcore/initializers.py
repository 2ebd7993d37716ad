"""Initial weights: the formulas, and the random numbers they are drawn from.

The numbers come from the counter-based generator of the core (Philox 4x32-10), keyed by the
network's seed and the layer's place in the network, so the weights of one layer do not depend on
how those of another were drawn. They are drawn in float64 and rounded once to the network's dtype.

With ``in`` and ``out`` the numbers of input and output features of the layer:

================  ==========================================================  =========
name              distribution                                                source
================  ==========================================================  =========
he_normal         N(0, 2 / in)                                                [1]_
he_uniform        U(-sqrt(6 / in), sqrt(6 / in))                              [1]_
glorot_normal     N(0, 2 / (in + out))                                        [2]_
glorot_uniform    U(-sqrt(6 / (in + out)), sqrt(6 / (in + out)))              [2]_
lecun_normal      N(0, 1 / in)                                                [3]_
lecun_uniform     U(-sqrt(3 / in), sqrt(3 / in))                              [3]_
orthogonal        rows or columns orthonormal, uniform over such matrices     [4]_ [5]_
zeros             0
================  ==========================================================  =========

References
----------
.. [1] He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10; a uniform distribution on
   [-a, a] has the variance a^2 / 3.
.. [2] Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
   networks", AISTATS 2010, eq. 12 and 16.
.. [3] LeCun et al., "Efficient BackProp", 1998, section 4.6, eq. 16.
.. [4] Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in
   deep linear neural networks", ICLR 2014.
.. [5] Mezzadri, "How to generate random matrices from the classical compact groups", Notices of
   the AMS 54 (2007): the signs of the diagonal of R make the QR factor uniform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcore import _core
from dlcore._settings import choice, integer

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The names that ``Dense(initializer=...)`` takes.
NAMES = (
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
    "zeros",
)

_WEIGHTS = 2  # the purpose that keeps these numbers apart from shuffling and dropout


def draw(
    name: str, out_features: int, in_features: int, seed: int = 0, layer: int = 1
) -> NDArray[np.float64]:
    """Draw the initial weight of one dense layer.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    out_features, in_features : int
        Shape of the weight, each at least 1.
    seed : int, default 0
        The network's seed, from 0 to 2**64 - 1.
    layer : int, default 1
        Number of the layer's node in the network's graph, where the input is 0. Layers that
        compute nothing (``Identity``) have no node.

    Returns
    -------
    ndarray of float64, shape (out_features, in_features)
        The same numbers for the same arguments, on any machine and at any number of threads; for
        "orthogonal" up to the rounding of NumPy's QR factorisation.

    Raises
    ------
    ValueError
        If the name is unknown or a size is below 1.

    Examples
    --------
    >>> weight = draw("orthogonal", 2, 3)
    >>> np.allclose(weight @ weight.T, np.eye(2))
    True
    """
    choice("draw: initializer", name, NAMES)
    rows = integer("draw: out_features", out_features, 1)
    columns = integer("draw: in_features", in_features, 1)
    seed = integer("draw: seed", seed, 0, 2**64 - 1)
    layer = integer("draw: layer", layer, 0, 2**16 - 1)
    if name == "zeros":
        return np.zeros((rows, columns))
    if name == "orthogonal":
        return _orthogonal(rows, columns, seed, layer)
    scheme, distribution = name.split("_")
    features = {"he": columns / 2, "glorot": (rows + columns) / 2, "lecun": columns}[scheme]
    if distribution == "normal":
        weight = _core.random_normal(seed, _WEIGHTS, layer, rows * columns)
        weight *= np.sqrt(1 / features)
    else:
        weight = _core.random_uniform(seed, _WEIGHTS, layer, rows * columns)
        weight -= 0.5
        weight *= 2 * np.sqrt(3 / features)
    return weight.reshape(rows, columns)


def _orthogonal(rows: int, columns: int, seed: int, layer: int) -> NDArray[np.float64]:
    """Draw a matrix with orthonormal rows (or columns, when there are fewer of them)."""
    normal = _core.random_normal(seed, _WEIGHTS, layer, rows * columns).reshape(rows, columns)
    tall = normal if rows >= columns else normal.T
    q, r = np.linalg.qr(tall)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(q if rows >= columns else q.T)
