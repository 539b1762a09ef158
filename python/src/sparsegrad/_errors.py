"""The library's errors; each is a built-in exception too. The texts are the library's."""


class Error(Exception):
    """Root of the library's errors."""


class ShapeError(Error, ValueError):
    """Extents that do not fit together."""


class ArgumentError(Error, ValueError):
    """An argument outside its range."""


class NonFiniteError(Error, ArithmeticError):
    """NaN or Inf where finite numbers are required."""


class StateError(Error, RuntimeError):
    """A call in the wrong order: the object is not in the state that the call needs."""


class CapacityError(Error, RuntimeError):
    """A compact optimizer state that is full, under overflow="error"."""


class FileError(Error, OSError):
    """A file or saved state that cannot be read or written."""


for _error in (Error, ShapeError, ArgumentError, NonFiniteError, StateError, CapacityError, FileError):
    _error.__module__ = "sparsegrad"  # as tracebacks name it
