"""Many networks trained in one native call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _device, _inputs
from dlcore._settings import describe
from dlcore.history import DivergenceWarning, FleetLine, History
from dlcore.network import Network
from dlcore.training import Arrays, Training, remembering

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from dlcore._core import FitResult
    from dlcore.history import EarlyStopping
    from dlcore.losses import Loss
    from dlcore.optimizers import Optimizer

    ClassWeight = Mapping[int, float] | str | None

# Options that are sequences themselves: one per network only as a list.
_SEQUENCES = ("subsets", "validation_data", "sample_weight")


def fit_many(
    networks: Sequence[Network],
    x: ArrayLike,
    y: ArrayLike,
    *,
    subsets: Any = None,
    loss: str | Loss | Sequence[str | Loss | None] | None = None,
    optimizers: Optimizer | Sequence[Optimizer | None] | None = None,
    optimizer: Optimizer | Sequence[Optimizer | None] | None = None,
    epochs: int | Sequence[int] = 10,
    batch_size: int | Sequence[int] = 128,
    validation_data: tuple[ArrayLike, ...] | list[tuple[ArrayLike, ...] | None] | None = None,
    seed: int | Sequence[int] = 0,
    threads: int | None = None,
    shuffle: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | list[ArrayLike | None] | None = None,
    class_weight: ClassWeight | Sequence[ClassWeight] = None,
    early_stopping: EarlyStopping | Sequence[EarlyStopping | None] | None = None,
    on_epoch: Callable[[dict[str, Any]], object] | Sequence[Any] | None = None,
    clip_norm: float | Sequence[float | None] | None = None,
    precision: str | Sequence[str | None] | None = None,
    input_scale: float | Sequence[float | None] | None = None,
    statistics: bool | Sequence[bool] = False,
    checkpoint: Sequence[str | os.PathLike[str] | None] | None = None,
    device: str | None = None,
    progress: bool | Callable[[int, int], object] = False,
    on_finish: Callable[[int, History], object] | None = None,
) -> list[History]:
    """Train many networks on the same data in one native call, one network a core at a time.

    Each member gets the same bits as ``networks[k].fit(x[subset], y[subset], ...)`` alone, with
    its own options; the data is shared and not copied. The networks may differ in everything:
    width, depth, activation, dtype, loss, optimizer, epochs. The one that takes longest starts
    first.

    On a GPU eight small networks or more are trained together, each by one multiprocessor; they
    add in another order than a fit alone, in the same one whichever networks are beside them. Of
    the others, those that are alike train side by side, as each would alone, and the rest one after
    the other. `History.engine` says which.

    Every option is that of `Network.fit`, and is either one value for all networks or a list, a
    tuple, a range or an array with one value per network. `subsets`, `validation_data` and
    `sample_weight` are sequences themselves: a list of them has one entry per network, anything
    else is one value for all. Those that are not explained here mean what they mean there.

    Parameters
    ----------
    networks : sequence of Network
        Each of them once.
    x, y : array_like
        As for `Network.fit`, the same for all. Both are checked as a whole, also in rows that no
        subset has.
    subsets : list of (slice, array_like of int or bool, or None), or one of these
        The rows to train on: integers, which may repeat and count from the end where negative, a
        mask, a slice, or None for all.
    optimizers, optimizer : Optimizer or sequence of it, optional
        Two names of one option; give one of them.
    sample_weight : array_like, shape (n,), or list of it, optional
        Weight of each row of `x`, in a subset or not.
    class_weight : dict, "balanced", or sequence of these, optional
        "balanced" counts the classes of the subset.
    threads : int, optional
        Number of networks that train at the same time, as in `Network.fit`.
    device : str, optional
        Where to train, as for `Network`: networks elsewhere are moved there first. Left out, where
        they are, which has to be one place.
    on_epoch : callable or sequence of it, optional
        As for `Network.fit`; its dict also holds "network", the member's index. It is called in
        the thread that trains the network, and False stops that network alone.
    checkpoint : sequence of path or None, optional
        As for `Network.fit`, one file for each network; those of networks that have finished stay
        until all have.
    progress : bool or callable, default False
        True shows a bar on the standard error stream. A callable gets (networks finished, number
        of networks), at most every 50 ms.
    on_finish : callable, optional
        Called with (index, `History`) soon after a network has finished, in the calling thread.

    Returns
    -------
    list of History
        In the order of `networks`.

    Warns
    -----
    DivergenceWarning
        Once, if any network's loss stops being finite; it names them. Each of these stops alone,
        at its last finite state, and its history says "diverged".

    Raises
    ------
    TypeError, ValueError
        As `Network.fit`, with the network's index; then none has been trained.
    RuntimeError
        If one of the networks is being trained already.
    KeyboardInterrupt
        On Ctrl-C, within 100 ms or at the end of the running steps; every network stays usable, at
        its last whole step. The same holds when a callback raises.

    Examples
    --------
    >>> import numpy as np
    >>> import dlcore
    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
    >>> networks = [
    ...     dlcore.Network([dlcore.Dense(width), dlcore.ReLU(), dlcore.Dense(2)], 2, seed=width)
    ...     for width in (4, 16)
    ... ]
    >>> histories = dlcore.fit_many(
    ...     networks, x, y, subsets=[slice(100), None], optimizers=dlcore.Adam(0.01), seed=range(2)
    ... )
    >>> [history.stopped for history in histories]
    ['completed', 'completed']
    """
    members = _members(networks)
    if optimizer is not None:
        if optimizers is not None:
            raise TypeError("fit_many: optimizer and optimizers are one option; give one of them")
        optimizers = optimizer
    if on_finish is not None and not callable(on_finish):
        raise TypeError(f"fit_many: on_finish needs a callable, found {describe(on_finish)}")
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"fit_many: progress needs True, False or a callable, found {describe(progress)}"
        )
    if isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError("fit_many: checkpoint needs a list with one path for each network")
    thread_count = _inputs.threads(threads, "fit_many")
    extension = _device.load(_place(members, device), "fit_many: device")[0]
    given = {
        "subsets": subsets,
        "loss": loss,
        "optimizers": optimizers,
        "epochs": epochs,
        "batch_size": batch_size,
        "validation_data": validation_data,
        "seed": seed,
        "shuffle": shuffle,
        "sample_weight": sample_weight,
        "class_weight": class_weight,
        "early_stopping": early_stopping,
        "on_epoch": on_epoch,
        "clip_norm": clip_norm,
        "precision": precision,
        "input_scale": input_scale,
        "statistics": statistics,
        "checkpoint": checkpoint,
    }
    options = {name: _each(name, value, len(members)) for name, value in given.items()}
    options["subset"], options["optimizer"] = options.pop("subsets"), options.pop("optimizers")
    options["on_epoch"] = [_with_index(i, call) for i, call in enumerate(options["on_epoch"])]
    arrays = Arrays()
    trainings = [
        Training(
            network,
            x,
            y,
            f"fit_many: network {i}",
            arrays,
            **{name: values[i] for name, values in options.items()},
        )
        for i, network in enumerate(members)
    ]

    def finished(index: int, result: FitResult) -> None:
        if on_finish is not None:
            on_finish(index, trainings[index].finish(result))

    listener = FleetLine().step if progress is True else progress
    with remembering(trainings):
        results = extension.fit_many(
            [network._core for network in members],
            [training.x for training in trainings],
            [training.y for training in trainings],
            [{**training.settings, "threads": 1} for training in trainings],
            thread_count,
            None if on_finish is None else finished,
            listener if callable(listener) else None,
        )
    histories = [
        training.finish(result) for training, result in zip(trainings, results, strict=True)
    ]
    for training in trainings:
        training.forget()
    _warn_of_divergence(histories)
    return histories


def _members(networks: object) -> list[Network]:
    if isinstance(networks, Network) or not isinstance(networks, Sequence | np.ndarray):
        raise TypeError(f"fit_many: networks needs a list of them, found {describe(networks)}")
    members = list(networks)
    for i, network in enumerate(members):
        if not isinstance(network, Network):
            raise TypeError(
                f"fit_many: networks needs dlcore.Network objects, found {describe(network)} at "
                f"index {i}"
            )
        if network._core.training:
            raise RuntimeError(
                f"fit_many: network {i} is training already; wait for that fit or train a copy"
            )
    return members


def _place(members: list[Network], device: str | None) -> str:
    """Move the networks to one device, and return it."""
    if device is not None:
        for member in members:
            member.to(device)
    places = sorted({member.device for member in members})
    if len(places) > 1:
        raise ValueError(
            f"fit_many: networks needs networks on one device, found some on each of "
            f"{', '.join(places)}; pass device="
        )
    return places[0] if places else "cpu"


def _each(name: str, value: Any, count: int) -> list[Any]:
    """Return an option's value for each network."""
    one_each = isinstance(value, list)
    if name not in _SEQUENCES:
        one_each = isinstance(value, (list, tuple, range)) or np.ndim(value) == 1
    if not one_each:
        return [value] * count
    if len(value) != count:
        advice = "; pass an array for one value for all" if name in _SEQUENCES else ""
        raise ValueError(
            f"fit_many: {name} needs one entry for each of the {count} networks, found "
            f"{len(value)}{advice}"
        )
    return list(value)


def _with_index(index: int, on_epoch: Any) -> Any:
    """Return a listener whose dict says which network it is about."""
    if not callable(on_epoch):
        return on_epoch  # nothing, or what Training refuses
    return lambda record: on_epoch({"network": index, **record})


def _warn_of_divergence(histories: list[History]) -> None:
    diverged = [i for i, history in enumerate(histories) if history.stopped == "diverged"]
    if not diverged:
        return
    names = ", ".join(map(str, diverged[:20])) + (", ..." if len(diverged) > 20 else "")
    warnings.warn(
        f"fit_many: {len(diverged)} of {len(histories)} networks diverged ({names}); network "
        f"{diverged[0]}: {histories[diverged[0]].message.removeprefix('fit: ')}",
        DivergenceWarning,
        stacklevel=3,
    )
