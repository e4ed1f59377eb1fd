"""Stand-ins for what a pickle holds besides tensors: they know their name, keep and do nothing.

Checkpoints of a training hold whatever their program had at hand: NumPy's scalars, `argparse`'s
namespaces, paths, dates, members of enumerations, configurations of other packages. None of it is
needed to read weights, and none of it is made.
"""

import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, Final, NoReturn

# Errors of any version of Python, so that each reads the same files.
_ERRORS: Final = (
    "Arithmetic Assertion Attribute BlockingIO BrokenPipe Buffer ChildProcess Connection "
    "ConnectionAborted ConnectionRefused ConnectionReset EOF Environment FileExists FileNotFound "
    "FloatingPoint IO Import Indentation Index Interrupted IsADirectory Key Lookup Memory "
    "ModuleNotFound Name NotADirectory NotImplemented OS Overflow Permission ProcessLookup "
    "PythonFinalization Recursion Reference Runtime Syntax System Tab Timeout Type UnboundLocal "
    "Unicode UnicodeDecode UnicodeEncode UnicodeTranslate Value ZeroDivision"
).split()
_WARNINGS: Final = (
    "Bytes Deprecation Encoding Future Import PendingDeprecation Resource Runtime Syntax Unicode "
    "User"
).split()
# What a pickle may call of the standard library. Nothing that is named is ever reached, so this is
# no matter of safety: a file that would call anything else is no checkpoint but an attempt.
_STANDARD: Final = {
    "argparse": "Namespace",
    "array": "array _array_reconstructor",
    "builtins": " ".join(
        (
            *(f"{name}Error" for name in _ERRORS),
            *(f"{name}Warning" for name in (*_WARNINGS, "")),
            "BaseException BaseExceptionGroup Exception ExceptionGroup GeneratorExit",
            "KeyboardInterrupt StopAsyncIteration StopIteration SystemExit",
            "bool bytearray bytes complex dict float frozenset int list object range set slice str",
            "tuple type enumerate filter map reversed zip classmethod property staticmethod super",
            "memoryview",
        )
    ),
    "collections": "ChainMap UserDict UserList UserString deque",
    "calendar": "Day Month",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "enum": "Enum EnumMeta EnumType Flag FlagBoundary IntEnum IntFlag ReprEnum StrEnum",
    "fractions": "Fraction",
    "functools": "partial reduce",
    "_functools": "reduce",
    "http": "HTTPMethod HTTPStatus",
    "inspect": "BufferFlags _ParameterKind",
    "ipaddress": "IPv4Address IPv6Address",
    "logging": "Logger getLogger",
    "_io": "BytesIO StringIO",
    "itertools": "chain count cycle repeat",
    "_operator": "or_",
    "operator": "attrgetter itemgetter methodcaller",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "plistlib": "PlistFormat",
    "pstats": "SortKey",
    "py_compile": "PycInvalidationMode",
    "random": "Random",
    "re": "RegexFlag _compile",
    "signal": "Handlers Sigmasks Signals",
    "socket": "AddressFamily AddressInfo MsgFlag SocketKind",
    "string": "Template",
    "ssl": "AlertDescription Options SSLErrorNumber TLSVersion VerifyFlags VerifyMode _SSLMethod",
    "time": "struct_time",
    "types": "GenericAlias MappingProxyType NoneType SimpleNamespace",
    "uuid": "SafeUUID UUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
# Characters of a name: a few bytes of a pickle may name the same one thousands of times.
_LONGEST: Final = 500
# Functions of NumPy that rebuild its scalars and types; those of others begin with "_".
_REBUILDING: Final = ("dtype", "ndarray", "scalar")


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that weights do not need; the message says for what."""


class Sealed:
    """Base of what a pickle can get hold of: it may not change the state of any of it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise RefusedError(f"it sets the state of a {type(self).__name__.strip('_').lower()}")


class Thing(dict):
    """An object of any class: what it is given is left out, but for entries of a dictionary.

    Those are kept since a state dict may be of a class of its own.

    Attributes:
        kind: Its class, or what made it.
    """

    __slots__ = ("kind",)
    # As a key, each is itself; looking at what it holds could take long.
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __init__(self, kind: "Named"):
        super().__init__()
        self.kind = kind

    @property
    def name(self) -> str:
        """The name of its class, with the module."""
        return self.kind.name

    def __eq__(self, other: object) -> bool:
        return self is other

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Leaves an item of a list out."""

    def extend(self, items: object) -> None:
        """Leaves the items of a list out."""

    def add(self, item: object) -> None:
        """Leaves a member of a set out."""

    def __call__(self, *args: object) -> "Thing":
        """Refuses to be called: what it would make nobody can tell."""
        raise RefusedError(f"it calls an object of {self.name[:80]!r}")


class _Partial(Thing):
    """A `functools.partial`, by which older protocols make objects with arguments by name."""

    __slots__ = ("_function", "_given")

    def __init__(self, kind: "Named", *args: object):
        super().__init__(kind)
        self.__setstate__((args[0] if args else None, args[1:]))

    def __setstate__(self, state: object) -> None:
        # The first argument is enough, which for "__new__" is the class.
        match state:
            case (function, tuple(given), *_):
                self._function, self._given = function, given[:1]

    def __call__(self, *args: object) -> Thing:
        """Makes an object, if its function does."""
        if not isinstance(self._function, Named):
            raise RefusedError(f"it calls an object of {self.name!r}")
        return self._function(*(self._given or args[:1]))


class Named(Sealed):
    """A class or a function, by its name.

    Attributes:
        module: Where it is.
        name: With its module.
    """

    __slots__ = ("_callable", "module", "name")

    def __init__(self, module: str, name: str, callable: bool):
        self.module, self.name, self._callable = module, f"{module}.{name}", callable

    def __call__(self, *args: Any) -> Thing:
        """Makes an object, whatever the arguments, unless Python would make a tensor of them."""
        if self.name == "functools.partial":
            return _Partial(self, *args)
        first = args[0] if args else None
        is_standard = self.module.partition(".")[0] in sys.stdlib_module_names
        if is_standard and isinstance(first, Named) and first.is_tensor:
            raise RefusedError(f"it asks for {first.name[:80]!r}")
        if not self._callable:
            raise RefusedError(f"it asks for {self.name[:80]!r}")
        return Thing(self)

    @property
    def is_tensor(self) -> bool:
        """Whether it is a class of PyTorch's tensors; those of a kind that is not read."""
        return _is_tensor(self.module.partition(".")[0], self.name)


def named(module: str, name: str) -> Named:
    """Returns the stand-in for a name of any module.

    Classes of other packages can be called, which gives a `Thing`, and of the standard library what
    is kept for later. Everything else may stand as a value.

    Raises:
        RefusedError: If it is a storage of PyTorch's, whose elements are unknown.
    """
    if len(module) + len(name) > _LONGEST:
        raise RefusedError(f"it asks for {name[:80]!r}")
    # The names of Python 2, which are those of the protocol that PyTorch writes.
    module, name = NAME_MAPPING.get((module, name), (module, name))
    module = IMPORT_MAPPING.get(module, module)
    full, package = f"{module}.{name}", module.partition(".")[0]
    if package == "pathlib":  # its classes have moved to pathlib._local and back
        module = package
    if package in sys.stdlib_module_names:
        return Named(module, name, callable=name in _STANDARD.get(module, "").split())
    if package == "torch" and name.endswith("Storage"):
        raise RefusedError(f"it asks for {full[:80]!r}")
    return Named(module, name, _is_rebuilt(package, name))


def _is_tensor(package: str, name: str) -> bool:
    return package == "torch" and name.endswith(("Tensor", "Parameter"))


def _is_rebuilt(package: str, name: str) -> bool:
    """Whether calling a name stands for making an object, as far as names tell."""
    *owners, last = (part.lstrip("_")[:1].isupper() for part in name.split("."))
    if package == "torch":  # a tensor of a kind that is not read must not be left out
        return last and not _is_tensor(package, name)
    # Classes have methods that make objects, as "Config.load".
    is_private = name.rpartition(".")[2].startswith("_")
    return last or any(owners) or is_private or (package == "numpy" and name in _REBUILDING)


def attribute(owner: Any, name: Any) -> Named:
    """Stands for `getattr`, by which members of enumerations and nested classes are pickled.

    Raises:
        RefusedError: If it is not one of a stand-in.
    """
    owner = owner.kind if isinstance(owner, Thing) else owner
    known = isinstance(owner, Named) and isinstance(name, str)
    if not known or len(owner.name) + len(name) > _LONGEST:
        raise RefusedError("it asks for 'builtins.getattr'")
    package = owner.module.partition(".")[0]
    within = f"{owner.name}.{name}".removeprefix(f"{owner.module}.")
    is_standard = package in sys.stdlib_module_names
    return Named(owner.module, within, _is_rebuilt(package, name if is_standard else within))
