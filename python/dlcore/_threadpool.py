"""Makes dlcore's threads known to threadpoolctl, without importing it.

``threadpoolctl.threadpool_limits(1)``, which joblib, Dask and scikit-learn use around nested
parallel work, then limits dlcore like a BLAS. Where threadpoolctl is imported after dlcore, a
finder on ``sys.meta_path`` sees it come and steps aside.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlcore import _core

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec


def register(threadpoolctl: ModuleType) -> None:
    """Add dlcore's controller to an imported threadpoolctl, once."""
    if not hasattr(threadpoolctl, "register") or not hasattr(threadpoolctl, "LibController"):
        return  # before version 3.2

    class DlcoreController(threadpoolctl.LibController):  # type: ignore[misc, name-defined]
        user_api = "dlcore"
        internal_api = "dlcore"
        filename_prefixes = ("_core.",)
        check_symbols = ("dlcore_default_threads",)

        def get_num_threads(self) -> int:
            return _core.default_threads()

        def set_num_threads(self, num_threads: int) -> None:
            _core.set_threads(num_threads)

        def get_version(self) -> str:
            return _core.__version__

        def set_additional_attributes(self) -> None:
            self.kernels = _core.kernels()

    threadpoolctl.register(DlcoreController)


class _Watch:
    """Registers as soon as threadpoolctl has been imported by somebody else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "threadpoolctl":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        if hasattr(loader, "exec_module"):
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                register(module)

            loader.exec_module = exec_module
        return spec


def watch() -> None:
    """Register with threadpoolctl now if it is imported, else when it is."""
    loaded = sys.modules.get("threadpoolctl")
    if loaded is not None:
        register(loaded)
    else:
        sys.meta_path.insert(0, _Watch())
