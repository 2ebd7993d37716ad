"""Training any learners: networks as one fleet, the others by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlcore.scaling.baselines import train_baseline
from dlcore.scaling.networks import train_networks
from dlcore.scaling.work import Job, Stopped, Trained, Work


def train(
    work: Work, jobs: Sequence[Job], done: Callable[[int, Trained | Exception], object]
) -> None:
    """Train models, networks as one fleet.

    Parameters
    ----------
    work : Work
        The data and the metric.
    jobs : sequence of Job
        What to train.
    done : callable
        Called with the index of a job and its model, or what went wrong with it, soon after the
        training has ended.

    Raises
    ------
    Stopped
        If ``work.stop`` was set before the end.
    """
    networks = [k for k, job in enumerate(jobs) if job.learner.is_network]
    train_networks(work, [jobs[k] for k in networks], lambda i, found: done(networks[i], found))
    for k, job in enumerate(jobs):
        work.check_stop()
        if job.learner.is_network:
            continue
        try:
            trained = train_baseline(work, job)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one training dies of, others go on
            done(k, error)
        else:
            done(k, trained)


def train_one(work: Work, job: Job) -> Trained:
    """Train one model.

    Parameters
    ----------
    work : Work
        The data and the metric.
    job : Job
        What to train.

    Returns
    -------
    Trained

    Raises
    ------
    Exception
        Whatever went wrong.
    """
    found: list[Trained | Exception] = []
    train(work, [job], lambda _, trained: found.append(trained))
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]
