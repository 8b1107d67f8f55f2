"""`NamedTuple` as in `typing`, for classes that take 15 µs to define instead of 120: a start defines more than a
hundred of them.

`collections.namedtuple` compiles a constructor for each class, and `typing` each annotation that is a text. Here all
have the same constructor, and no annotation is looked at. With names it takes 0.7 µs longer; with all values in their
order it is as fast. A module that has such classes begins with `from __future__ import annotations`.

Runs in: any.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    _new = tuple.__new__

    class _Instance(tuple):
        __slots__ = ()

        def __new__(cls, /, *values, **named):
            if named or len(values) != len(cls._fields):
                values = _completed(cls, values, named)
            return _new(cls, values)

        @classmethod
        def _make(cls, values):
            made = _new(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} is made of {len(cls._fields)} values, not {len(made)}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, /, **changes):
            members = {**self._asdict(), **changes}
            if len(members) != len(self):
                raise TypeError(f"{type(self).__name__} has no such field: {', '.join(changes.keys() - self._fields)}")
            return _new(type(self), members.values())

        def __repr__(self):
            members = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({members})"

        def __getnewargs__(self):
            return tuple(self)

    def _completed(cls, values, named):
        """Return the values with those that have a name or a default behind them."""
        defaults, left = cls._field_defaults, cls._fields[len(values) :]
        if not named and 0 < len(left) <= len(defaults):
            return (*values, *list(defaults.values())[-len(left) :])
        members = {**defaults, **named}
        try:
            if len(members) == len(left):  # mostly: all of those, and nothing else
                return (*values, *map(members.__getitem__, left))
            values = (*values, *map(members.pop, left))
        except KeyError as missing:
            raise TypeError(f"{cls.__name__} is made without {missing}") from None
        if len(values) != len(cls._fields):
            raise TypeError(f"{cls.__name__} is made of {len(values)} values: it has {len(cls._fields)}")
        if not members.keys().isdisjoint(named):
            raise TypeError(f"{cls.__name__} has no such field, or has it twice: {', '.join(members.keys() & named)}")
        return values

    class _Definition(type):
        def __new__(kind, name, bases, members):
            if "__annotate__" in members or "__annotate_func__" in members:
                raise TypeError(f"the module of {name} needs `from __future__ import annotations`")  # Python 3.14
            fields = tuple(members.get("__annotations__", ()))
            defaults = {field: members[field] for field in fields if field in members}
            if list(defaults) != list(fields[len(fields) - len(defaults) :]):
                raise TypeError(f"a field of {name} without a default follows one that has one")
            members.update(__slots__=(), __match_args__=fields, _fields=fields, _field_defaults=defaults)
            for index, field in enumerate(fields):
                members[field] = _tuplegetter(index, None)
            return type.__new__(type, name, (_Instance,), members)

    NamedTuple = type.__new__(_Definition, "NamedTuple", (), {})
