"""depers: remove personal data from photographs at archive scale, and build the detector that finds it.

Everything public is a name of this package, imported when it is first used: `import depers` itself takes milliseconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depers.api import (
        Detection,
        Detector,
        anonymize,
        audit,
        demo,
        detect,
        evaluate,
        experiment,
        export,
        extract,
        find_metadata,
        label,
        mission,
        normalize,
        redact,
        synthesize,
        train,
    )
    from depers.errors import UserError

__version__ = "0.1.0"

__all__ = (
    "Detection",
    "Detector",
    "UserError",
    "anonymize",
    "audit",
    "demo",
    "detect",
    "evaluate",
    "experiment",
    "export",
    "extract",
    "find_metadata",
    "label",
    "mission",
    "normalize",
    "redact",
    "synthesize",
    "train",
)


def __getattr__(name: str) -> Any:
    """Return a public name, from the module that defines it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'depers' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("depers.errors" if name == "UserError" else "depers.api"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
