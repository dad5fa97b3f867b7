"""What modules on the hook path need of `typing` at run time.

To import `typing` takes a tenth of a hook's time, and so do the NamedTuples that it makes: it compiles source text for
each class, and for each annotation of one (decision 75). Type checkers see typing's own names.
"""

from __future__ import annotations

# For type checkers alone: importing typing for its TYPE_CHECKING would be what this module avoids.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generic, Literal, NamedTuple, NewType, Self, TypeAlias, TypeVar
else:
    from _collections import _tuplegetter

    Any = Literal = Self = TypeAlias = object

    def TypeVar(*_words, **_limits):
        """Only annotations, which nobody evaluates, and brackets after Generic use it."""

    def NewType(_name, kind):
        """The type itself."""
        return kind

    class Generic:
        """A base class that may be followed by brackets."""

        def __class_getitem__(cls, _kinds):
            return cls

    class _NamedTupleMeta(type):
        def __new__(cls, name, bases, space):
            if getattr(bases[-1], "_fields", None) == ():  # derived from NamedTuple itself
                fields = tuple(space["__annotations__"])
                space.update(_fields=fields, __match_args__=fields, __slots__=())
                space["_field_defaults"] = {field: space[field] for field in fields if field in space}
                space.update((field, _tuplegetter(index, None)) for index, field in enumerate(fields))
            return type.__new__(cls, name, bases, space)

    class NamedTuple(tuple, metaclass=_NamedTupleMeta):
        """As typing's, for classes whose annotations are not evaluated; those derived from them have the same
        fields."""

        __slots__ = ()
        _fields = ()

        def __new__(cls, /, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._completed(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _completed(cls, values, named):
            """The values of all fields. Raises TypeError if they are not given so, or twice."""
            given = dict(zip(cls._fields, values, strict=False)) | named
            found = cls._field_defaults | given
            if len(given) != len(values) + len(named) or found.keys() != set(cls._fields):
                raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}")
            return map(found.get, cls._fields)

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} has {len(cls._fields)} fields")
            return made

        def _replace(self, /, **named):
            return self.__class__(**self._asdict() | named)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            words = (f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{self.__class__.__name__}({', '.join(words)})"

        def __getnewargs__(self):
            return tuple(self)


__all__ = ["TYPE_CHECKING", "Any", "Generic", "Literal", "NamedTuple", "NewType", "Self", "TypeAlias", "TypeVar"]
