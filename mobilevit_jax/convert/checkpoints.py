"""Where in a checkpoint of a training the network's tensors are, and under which prefix.

Every program has its own place for them, but the networks' names are known: a network is where a
dictionary has a name that each of its kind has once. Tensors of other names are looked for where
programs usually have them.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from mobilevit_jax.convert import layouts, torch_file
from mobilevit_jax.convert.stand_ins import Thing
from mobilevit_jax.convert.tensors import listed
from mobilevit_jax.errors import DataError

# Where checkpoints keep their state dict: CVNets; timm and Lightning; torchvision's scripts.
_AVERAGED: Final = ("ema_state_dict", "state_dict_ema", "model_ema")
_RAW: Final = ("model_state_dict", "state_dict", "model")
# What torch.nn.DataParallel and Lightning put before every name.
_PREFIXES: Final = ("module.", "model.")
# What torch.compile and FSDP put into names, wherever the module that they wrap stands.
_WRAPPERS: Final = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# torch.optim.swa_utils.AveragedModel counts its updates in a tensor beside the "module." ones.
_AVERAGE_COUNTER: Final = "n_averaged"
# Words by which programs call averaged weights.
_AVERAGING: Final = re.compile(r"(?<![a-z])(ema|swa|avg|averag\w*)(?![a-z])", re.IGNORECASE)
# Dictionaries within one another; a pickle may nest without end.
_DEPTH: Final = 4

Tensors = dict[str, Any]


class _Network(NamedTuple):
    """A network in a checkpoint.

    Attributes:
        place: The keys of the dictionary that it is in.
        prefix: Of its names there.
        tensors: By their names without it.
        beside: Names in the same dictionary that are of no network.
    """

    place: tuple[str, ...]
    prefix: str
    tensors: Tensors
    beside: tuple[str, ...]

    @property
    def title(self) -> str:
        return ".".join([*self.place, self.prefix.rstrip(".")]).strip(".") or "the top"

    @property
    def averaged(self) -> bool:
        return bool(_AVERAGING.search(f"{'.'.join(self.place)}.{self.prefix}"))

    @property
    def usual(self) -> bool:
        """Whether it is where most programs have the network that counts."""
        prefix = self.prefix
        for wrapper in _PREFIXES:
            prefix = prefix.replace(wrapper, "")
        return not prefix and all(key in _AVERAGED + _RAW for key in self.place)


def find_state_dict(contents: Any, averaged: bool, path: Path) -> Tensors:
    """Finds the state dict in what a weight file holds.

    Args:
        contents: Tensors by their names, or a checkpoint of a training, with any other objects; or
            a list of that alone.
        averaged: Whether the averaged weights (EMA) of a checkpoint that has both are taken.
        path: Of the file, for messages.

    Returns:
        {name: tensor}, without what wrappers put before the names.

    Raises:
        DataError: If there is none, there are several, or only averaged weights where raw ones are
            wanted.
    """
    for _ in range(_DEPTH):
        if isinstance(contents, list | tuple) and len(contents) == 1:
            contents = contents[0]
    networks = list(_networks(contents))
    if not networks:
        return _without_prefixes(_usual_state_dict(contents, averaged, path))
    network = _chosen(networks, averaged, path)
    if network.prefix:
        _check_whole(network, path)
    return network.tensors


def _networks(contents: Any) -> Iterator[_Network]:
    """Yields the networks of known names in nested dictionaries, each dictionary looked at once."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), contents)]
    for _ in range(_DEPTH + 1):
        inner = []
        for place, value in level:
            if not isinstance(value, Mapping) or id(value) in seen:
                continue
            seen.add(id(value))
            yield from _networks_in(value, place)
            inner += [
                ((*place, str(key)[:40]), entry)
                for key, entry in value.items()
                if isinstance(entry, Mapping)
            ]
        level = inner


def _networks_in(contents: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[_Network]:
    tensors = {
        _WRAPPERS.sub("", name): value
        for name, value in contents.items()
        if isinstance(name, str) and is_tensor(value)
    }
    found: dict[str, Tensors] = {prefix: {} for prefix in layouts.prefixes(tensors)}
    beside = []
    for name, tensor in tensors.items():
        # Of "model." and "model.ema.", the longer one is meant.
        within = [prefix for prefix in found if name.startswith(prefix)]
        if within:
            prefix = max(within, key=len)
            found[prefix][name.removeprefix(prefix)] = tensor
        else:
            beside.append(name)
    for prefix, own in found.items():
        yield _Network(place, prefix, own, tuple(beside))


def _chosen(networks: list[_Network], averaged: bool, path: Path) -> _Network:
    mean = [network for network in networks if network.averaged]
    raw = [network for network in networks if not network.averaged]
    if not averaged and not raw:
        raise DataError(f"{path} holds averaged weights alone; ask for those, not for raw ones")
    wanted = mean if averaged and mean else raw
    usual = [network for network in wanted if network.usual]
    if len(wanted) > 1 and len(usual) != 1:
        raise DataError(
            f"{path} holds several networks, at {listed(network.title for network in wanted)}; "
            "save the state dict of one alone"
        )
    return (usual if len(wanted) > 1 else wanted)[0]


def _check_whole(network: _Network, path: Path) -> None:
    """Makes sure that the tensors beside a network, which are left out, are not its head."""
    layout, prefix = layouts.detect(network.tensors)
    beside = [n for n in network.beside if n != _AVERAGE_COUNTER and not layouts.is_counter(n)]
    if beside and not any(layout.is_of_head(name, prefix) for name in network.tensors):
        raise DataError(
            f"{path} holds a {layout.family.name} without a head at {network.title}, and beside it "
            f"{listed(beside, 3)}; save the network alone, its head named as in "
            f"{layout.title}"
        )


def is_tensor(value: Any) -> bool:
    """Whether what a file holds is a tensor, read or not."""
    return isinstance(value, torch_file.Tensor | np.ndarray) and value.dtype != object


def _holds_tensors(value: Any, known: dict[tuple[int, int], bool], depth: int = _DEPTH) -> bool:
    """Whether a value is a tensor or a dictionary with one; a pickle may nest without end.

    `known` has the answers so far, by identity and depth: a few bytes of a pickle can put the same
    dictionary in thousands of places, and it is walked once.
    """
    if not isinstance(value, Mapping) or not depth:
        return is_tensor(value)
    key = id(value), depth
    if key not in known:
        known[key] = any(_holds_tensors(inner, known, depth - 1) for inner in value.values())
    return known[key]


def _usual_state_dict(contents: Any, averaged: bool, path: Path, depth: int = _DEPTH) -> Tensors:
    """Returns the tensors of names that are not known, from the usual places."""
    if not isinstance(contents, Mapping) or not depth:
        raise DataError(f"{path} holds {_describe(contents)}, no state dict")
    known: dict[tuple[int, int], bool] = {}
    for key in (*(_AVERAGED if averaged else ()), *_RAW):
        inner = contents.get(key)
        if isinstance(inner, Mapping) and _holds_tensors(inner, known):
            return _usual_state_dict(inner, averaged, path, depth - 1)
    tensors = {name: value for name, value in contents.items() if is_tensor(value)}
    nested = [
        name
        for name, value in contents.items()
        if isinstance(value, Mapping) and _holds_tensors(value, known)
    ]
    if not averaged and any(key in nested for key in _AVERAGED):
        raise DataError(f"{path} holds averaged weights alone; ask for those, not for raw ones")
    if nested or not tensors or not all(isinstance(name, str) for name in tensors):
        raise DataError(
            f"{path} holds {_describe(contents)}, no state dict; save the one of the model alone, "
            "{name: tensor}"
        )
    return {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}


def _describe(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"one {_kind_of_entry(value, {})}"
    if not value:
        return "an empty dictionary"
    known: dict[tuple[int, int], bool] = {}
    kinds = [
        f"{str(key)[:40]!r} ({_kind_of_entry(inner, known)})"
        for key, inner in itertools.islice(value.items(), 6)
    ]
    return f"a dictionary of {', '.join(kinds)}{', ...' if len(value) > 6 else ''}"


def _kind_of_entry(value: Any, known: dict[tuple[int, int], bool]) -> str:
    if is_tensor(value):
        return "tensor"
    if isinstance(value, Thing) and not value:
        return f"object of {value.name[:80]}"
    if isinstance(value, Mapping):
        return f"dictionary {'with' if _holds_tensors(value, known) else 'without'} tensors"
    return type(value).__name__.lower()


def _without_prefixes(tensors: Tensors) -> Tensors:
    """Takes away what stands before every name."""
    for prefix in _PREFIXES:
        kept = [name for name in tensors if name != _AVERAGE_COUNTER]
        if kept and all(name.startswith(prefix) for name in kept):
            stripped = {name.removeprefix(prefix): tensors[name] for name in kept}
            return _without_prefixes(stripped)
    return tensors
