"""Every public function, constructor and method is annotated, so that editors complete and type checkers check."""

import importlib
import inspect
import pkgutil

import pytest

import keras_netvlad

PACKAGES = [
    "keras_netvlad",
    *(m.name for m in pkgutil.walk_packages(keras_netvlad.__path__, "keras_netvlad.") if m.ispkg),
]


def unannotated(name, function):
    """Yields what a function lacks: parameters, and the returned value."""
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls") and parameter.annotation is parameter.empty:
            yield f"{name}({parameter.name})"
    if signature.return_annotation is signature.empty:
        yield f"{name} -> ?"


def functions_of(name, thing):
    """Yields the functions behind a public name: itself; or of a class its constructor and public methods."""
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(value) and (attribute == "__init__" or not attribute.startswith("_")):
                yield f"{name}.{attribute}", value
    elif inspect.isfunction(thing):
        yield name, thing


def public_names():
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", []):
            if name != "__version__":
                yield f"{package}.{name}", getattr(module, name)


PUBLIC = dict(public_names())


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_no_public_signature_lacks_an_annotation(name):
    missing = [
        part
        for function_name, function in functions_of(name, PUBLIC[name])
        for part in unannotated(function_name, function)
    ]
    assert missing == []


def test_a_removed_annotation_is_found():
    class Planted:
        def __init__(self, size, name: str = "") -> None: ...

        @property
        def width(self): ...

        def call(self, x: int): ...

    missing = [part for name, function in functions_of("Planted", Planted) for part in unannotated(name, function)]
    assert missing == ["Planted.__init__(size)", "Planted.width -> ?", "Planted.call -> ?"]


def test_every_package_with_public_names_is_checked():
    assert len(PUBLIC) > 60
