"""Damaged files out of whole ones: bytes for any format, values for JSON."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

# What readers trip over where they expect a length, a size or an offset.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**30, 0.5, -2.5, 1e308),
    *(float("nan"), float("inf"), "", "0", "mobilevit_s", "x" * 5000, "é\u2028\n\x00", "\ud800"),
    *("F8_E4M3", "F4", "C64", "F6_E2M3"),
    *([], [1], [0, -1], [[]], [None, "a", 1.5], [2**40] * 3, list(range(2000))),
    *({}, {"a": 1}, {"height": 1}, {"0": {}}, {"shortest_edge": [1]}),
)


def damage(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Returns a file with one to six changes of random kinds.

    Args:
        data: A whole file.
        rng: Source of every draw.
        others: More files, out of which pieces may come.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        # Headers decide more than what follows them, so half of all changes are there.
        reach = len(changed) if rng.random() < 0.5 else min(len(changed), 160)
        _change(changed, rng.randrange(max(reach, 1)), rng, others)
    return bytes(changed)


def _change(data: bytearray, place: int, rng: random.Random, others: Sequence[bytes]) -> None:
    match rng.randrange(8):
        case 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        case 1 if data:
            data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        case 2 | 3:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(_NUMBERS) % 256**size
            data[place : place + size] = number.to_bytes(size, rng.choice(("big", "little")))
        case 4:
            del data[place:]
        case 5:
            del data[place : place + rng.randrange(1, 40)]
        case 6:
            data[place:place] = rng.randbytes(rng.randrange(1, 40))
        case _:
            source = rng.choice(others) if others else bytes(data)
            start = rng.randrange(max(len(source), 1))
            piece = source[start : start + rng.randrange(1, 200)]
            data[place : place + rng.choice((0, len(piece)))] = piece


def damage_json(value: Any, rng: random.Random) -> bytes:
    """Returns a JSON text with some values replaced, taken away or added; a few are no JSON."""
    changed = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed = _change_value(changed, rng)
    text = json.dumps(changed).encode()
    return damage(text, rng) if rng.random() < 0.15 else text


def _change_value(value: Any, rng: random.Random) -> Any:
    """Changes one thing somewhere in a value, which may be the value itself."""
    places = list(value) if isinstance(value, dict) else range(len(value)) if _many(value) else ()
    if not places or rng.random() < 0.05:
        return _value(rng)
    place: Any = rng.choice(list(places))
    if rng.random() < 0.1:
        del value[place]
    elif isinstance(value, dict) and rng.random() < 0.1:
        value[rng.choice((place + "s", "", "type", "é"))] = _value(rng)
    elif rng.random() < 0.15:
        value[place] = _value(rng)
    else:
        value[place] = _change_value(value[place], rng)
    return value


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_VALUES))


def _many(value: Any) -> bool:
    return isinstance(value, list)
