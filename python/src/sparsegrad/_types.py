"""Types of arguments."""

import os
from typing import Any, Protocol, Union


class Array(Protocol):
    """A numpy array, or any other array on the CPU that lends its memory by DLPack."""

    def __dlpack__(self, *args: Any, **keywords: Any) -> Any: ...

    def __dlpack_device__(self) -> Any: ...


Path = Union[str, "os.PathLike[str]"]
