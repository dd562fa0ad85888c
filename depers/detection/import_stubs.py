"""Stubs of libraries that a package imports and does not need here: inert modules, while it is imported."""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np


class _Stub(ModuleType):
    """A module that has every attribute, callable as a function or a decorator that changes nothing."""

    __path__: list[str] = []  # noqa: RUF012 (a module attribute: it makes the stub a package)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Stub(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args and callable(args[0]) else self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (object,)  # as a base class


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stub for every one of the libraries that has not really been imported already."""

    def __init__(self, libraries: Mapping[str, Mapping[str, Any]]) -> None:
        self._libraries = libraries

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        top = name.split(".")[0]
        real = top in sys.modules and not isinstance(sys.modules[top], _Stub)
        if top not in self._libraries or real:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _Stub(spec.name)
        vars(module).update(self._libraries.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def stub_imports(libraries: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Put stubs in the place of `libraries` while the block imports what would import them, and remove them after it.

    Each library maps to the attributes that it must really have. What imports change in the module path, the
    environment and numpy's printing is undone.
    """
    path, environment, printing = list(sys.path), dict(os.environ), np.get_printoptions()
    finder = _Finder(libraries)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Stub)]:
            del sys.modules[name]
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        np.set_printoptions(**printing)
