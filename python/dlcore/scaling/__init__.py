"""Studies and scaling: how error falls with data, size and computation, and what to do about it.

Names are looked up on first use, so that ``import dlcore.scaling`` costs nothing and the ``lab``
extra is needed only by what uses it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcore.scaling.advice import SurfaceAdvice as SurfaceAdvice
    from dlcore.scaling.advice import advise as advise
    from dlcore.scaling.compute import OptimalSplit as OptimalSplit
    from dlcore.scaling.compute import isoflop_parabola as isoflop_parabola
    from dlcore.scaling.curves import WARNINGS as WARNINGS
    from dlcore.scaling.curves import Forecast as Forecast
    from dlcore.scaling.curves import LearningCurve as LearningCurve
    from dlcore.scaling.decisions import Choice as Choice
    from dlcore.scaling.decisions import Crossing as Crossing
    from dlcore.scaling.decisions import Plateau as Plateau
    from dlcore.scaling.decisions import Requirement as Requirement
    from dlcore.scaling.decisions import cheapest as cheapest
    from dlcore.scaling.estimates import Estimate as Estimate
    from dlcore.scaling.fits import CurveFit as CurveFit
    from dlcore.scaling.fits import fit as fit
    from dlcore.scaling.forms import FORMS as FORMS
    from dlcore.scaling.study import Outcome as Outcome
    from dlcore.scaling.study import Study as Study
    from dlcore.scaling.summary import Advice as Advice
    from dlcore.scaling.summary import Curve as Curve
    from dlcore.scaling.surface import LossSurface as LossSurface
    from dlcore.scaling.surface import SurfaceFit as SurfaceFit
    from dlcore.scaling.surface import fit_surface as fit_surface

# Public name -> module of this package that has it.
_WHERE = {
    "Advice": "summary",
    "Choice": "decisions",
    "Crossing": "decisions",
    "Curve": "summary",
    "CurveFit": "fits",
    "Estimate": "estimates",
    "FORMS": "forms",
    "Forecast": "curves",
    "LearningCurve": "curves",
    "LossSurface": "surface",
    "OptimalSplit": "compute",
    "Outcome": "study",
    "Plateau": "decisions",
    "Requirement": "decisions",
    "Study": "study",
    "SurfaceAdvice": "advice",
    "SurfaceFit": "surface",
    "WARNINGS": "curves",
    "advise": "advice",
    "cheapest": "decisions",
    "fit": "fits",
    "fit_surface": "surface",
    "isoflop_parabola": "compute",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
