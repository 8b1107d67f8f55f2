"""Idioms of programs that run under ProcessPoolExecutor or loky, each as a script writes it.

Runs in: a program of its own, as `__main__`: `python idioms.py killable` (or fork, spawn, loky) prints a line of JSON
for each idiom: its title and "" or what went wrong.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import copy
import dataclasses
import enum
import functools
import importlib.util
import inspect
import io
import json
import logging
import math
import multiprocessing
import operator
import os
import pathlib
import pickle
import random
import re
import sys
import tempfile
import threading
import types
import typing
import weakref
import xml.sax.saxutils
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar

Call = Callable[..., Any]
T = TypeVar("T")
P = ParamSpec("P")
IDIOMS: dict[str, Callable[[Call], None]] = {}
"""By title. Each gets `call(function, *args)`, which runs a function in the executor's one worker."""


def idiom(title: str) -> Callable[[Callable[[Call], None]], Callable[[Call], None]]:
    def add(check: Callable[[Call], None]) -> Callable[[Call], None]:
        assert title not in IDIOMS
        IDIOMS[title] = check
        return check

    return add


# ── functions ──


def square(x: int) -> int:
    return x * x


def cube(x: int, *, power: int = 3, offsets: tuple[int, ...] = (0,)) -> int:
    return int(x**power) + sum(offsets)


@idiom("a function, with defaults and keywords")
def _(call: Call) -> None:
    assert call(square, 3) == 9
    assert call(cube, 2, power=4) == 16


@idiom("a lambda")
def _(call: Call) -> None:
    assert call(lambda x: square(x) + 1, 3) == 10


@idiom("a closure")
def _(call: Call) -> None:
    factor = 7

    def times(x: int) -> int:
        return factor * x

    assert call(times, 3) == 21


@idiom("closures that share a variable")
def _(call: Call) -> None:
    count = 0

    def add() -> None:
        nonlocal count
        count += 1

    def read() -> int:
        add()
        return count

    assert call(read) == 1


@idiom("a recursive inner function")
def _(call: Call) -> None:
    def depth(tree: Any) -> int:
        return 1 + max(map(depth, tree), default=0)

    assert call(depth, [[[]], []]) == 3


@idiom("a function that returns a closure")
def _(call: Call) -> None:
    assert call(make_adder, 3)(4) == 7


def make_adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def is_even(n: int) -> bool:
    return n == 0 or is_odd(n - 1)


def is_odd(n: int) -> bool:
    return n != 0 and is_even(n - 1)


@idiom("functions that call each other")
def _(call: Call) -> None:
    assert call(is_even, 10) and not call(is_odd, 10)


@idiom("`functools.partial`")
def _(call: Call) -> None:
    assert call(functools.partial(cube, power=2), 5) == 25


def timed(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        wrapper.calls += 1  # type: ignore[attr-defined]
        return function(*args, **kwargs)

    wrapper.calls = 0  # type: ignore[attr-defined]
    return wrapper


@timed
def decorated(x: int) -> tuple[int, int]:
    """Double it."""
    return 2 * x, decorated.calls  # type: ignore[attr-defined]


@idiom("a function under a decorator, with `functools.wraps`")
def _(call: Call) -> None:
    before = call(decorated, 2)[1]
    assert call(decorated, 2) == (4, before + 1)


class Memo:
    """A class as a decorator."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.known: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        if args not in self.known:
            self.known[args] = self.function(*args)
        return self.known[args]


@Memo
def remembered(x: int) -> int:
    return x if x < 2 else remembered(x - 1) + remembered(x - 2)


def use_remembered(x: int) -> int:
    return int(remembered(x))


@idiom("a class as a decorator")
def _(call: Call) -> None:
    assert call(use_remembered, 30) == 832040


@functools.cache
def model(name: str) -> dict[str, int]:
    return {"pid": os.getpid()}


def use_model() -> tuple[int, int]:
    model("bert")
    return model.cache_info().hits, id(model("bert"))


@idiom("`functools.lru_cache`, called by the function that is submitted")
def _(call: Call) -> None:
    assert call(model, "bert")["pid"] != os.getpid()
    first, second = call(use_model), call(use_model)
    assert second[0] > first[0] and first[1] == second[1]


@functools.singledispatch
def area(shape: Any) -> float:
    raise TypeError(shape)


@area.register
def _(shape: int) -> float:
    return float(shape * shape)


@area.register(tuple)
def area_of_tuple(shape: tuple[int, int]) -> float:
    return float(shape[0] * shape[1])


def areas(*shapes: Any) -> list[float]:
    return [area(shape) for shape in shapes]


@idiom("`functools.singledispatch`")
def _(call: Call) -> None:
    assert call(area, 3) == 9.0
    assert call(areas, 2, (2, 3)) == [4.0, 6.0]


class Dispatching:
    @functools.singledispatchmethod
    def show(self, value: Any) -> str:
        return "?"

    @show.register
    def _(self, value: int) -> str:
        return f"int {value}"


class Lazy:
    @functools.cached_property
    def costly(self) -> int:
        return os.getpid()


class Formatter:
    def shout(self, text: str, times: int) -> str:
        return text.upper() * times

    twice = functools.partialmethod(shout, times=2)

    @classmethod
    def named(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    @staticmethod
    def plain(x: int) -> int:
        return -x

    @functools.lru_cache  # noqa: B019
    def cached(self, x: int) -> int:
        return x + 1


@idiom("`functools.singledispatchmethod`")
def _(call: Call) -> None:
    assert call(Dispatching().show, 1) == "int 1" and call(Dispatching().show, "") == "?"


@idiom("`functools.cached_property`")
def _(call: Call) -> None:
    assert call(operator.attrgetter("costly"), Lazy()) != os.getpid()


@idiom("a bound method")
def _(call: Call) -> None:
    assert call(Formatter().shout, "a", 3) == "AAA"


@idiom("`functools.partialmethod`")
def _(call: Call) -> None:
    assert call(Formatter().twice, "b") == "BB"


@idiom("a method under `lru_cache`")
def _(call: Call) -> None:
    assert call(operator.methodcaller("cached", 1), Formatter()) == 2


@idiom("class methods and static methods")
def _(call: Call) -> None:
    assert call(Formatter.named, "x") == "Formatter x" and call(Formatter.plain, 1) == -1


@idiom("a method of a class, called with its object")
def _(call: Call) -> None:
    assert call(Formatter.shout, Formatter(), "c", 1) == "C"


@idiom("an object with `__call__`")
def _(call: Call) -> None:
    assert call(Scaler(3), 4) == 12


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x


@contextlib.contextmanager
def doubled(x: int) -> Iterator[int]:
    yield 2 * x


def use_doubled(x: int) -> int:
    with doubled(x) as found:
        return found


@idiom("`contextlib.contextmanager`")
def _(call: Call) -> None:
    assert call(use_doubled, 4) == 8


async def wait_for(x: int) -> int:
    await asyncio.sleep(0)
    return x


def run_async(x: int) -> int:
    return asyncio.run(wait_for(x))


@idiom("`asyncio.run` in a function")
def _(call: Call) -> None:
    assert call(run_async, 5) == 5


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


def total(n: int) -> int:
    return sum(numbers(n))


@idiom("a generator in a function")
def _(call: Call) -> None:
    assert call(total, 5) == 10


OPERATIONS = {"square": square, "cube": cube, "neg": operator.neg, "lambda": lambda x: x}


def dispatch(name: str, x: int) -> int:
    return int(OPERATIONS[name](x))


@idiom("a dict of functions")
def _(call: Call) -> None:
    assert [call(dispatch, name, 2) for name in OPERATIONS] == [4, 8, -2, 2]


def by_name(name: str, x: int) -> int:
    return int(globals()[name](x))


@idiom("functions found by name, through `globals()`")
def _(call: Call) -> None:
    assert call(by_name, "square", 3) == 9


def through_main(x: int) -> int:
    import __main__

    return int(__main__.square(x)) + int(sys.modules[__name__].square(x))


@idiom("functions found through the module `__main__`")
def _(call: Call) -> None:
    assert call(through_main, 3) == 18


# ── classes ──


class Point:
    made = 0

    def __init__(self, x: int) -> None:
        self.x = x

    def moved(self) -> Point:
        return Point(self.x + 1)


@idiom("an object there and back is of the program's class")
def _(call: Call) -> None:
    assert type(call(Point(1).moved)) is Point and call(Point, 3).x == 3


def is_point(value: Any, cls: type) -> bool:
    return isinstance(value, Point) and cls is Point and type(value) is cls


@idiom("`isinstance` in the function")
def _(call: Call) -> None:
    assert call(is_point, Point(1), Point)


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    left: int
    right: list[int] = field(default_factory=list)
    kind: ClassVar[str] = "pair"


def replace(pair: Pair) -> tuple[Pair, dict[str, Any], int]:
    new = dataclasses.replace(pair, left=pair.left + 1)
    required = sum(each.default is dataclasses.MISSING for each in dataclasses.fields(pair))
    return new, dataclasses.asdict(new), required


@idiom("a dataclass, frozen and with slots, and `dataclasses.fields`")
def _(call: Call) -> None:
    new, as_dict, required = call(replace, Pair(1, [2]))
    assert new == Pair(2, [2]) and as_dict == {"left": 2, "right": [2]} and required == 2


class Slotted:
    __slots__ = ("__dict__", "_b", "a")

    def __init__(self) -> None:
        self.a, self._b = 1, 2


class Tight:
    __slots__ = ("a", "b")


def fill() -> Tight:
    made = Tight()
    made.a, made.b = 1, 2
    try:
        made.c = 3  # type: ignore[attr-defined]
    except AttributeError:
        return made
    raise AssertionError("it has a __dict__")


@idiom("`__slots__`")
def _(call: Call) -> None:
    assert call(fill).b == 2 and call(Slotted)._b == 2


Size = collections.namedtuple("Size", "width height", defaults=[1])


class Place(NamedTuple):
    name: str
    size: Size = Size(1, 2)

    def describe(self) -> str:
        return f"{self.name} {self.size.width}"


@idiom("`collections.namedtuple` and `typing.NamedTuple`")
def _(call: Call) -> None:
    assert call(Size, 3) == Size(3, 1) and type(call(Place, "here")) is Place
    assert call(Place("there").describe) == "there 1"


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"

    @property
    def first(self) -> str:
        return str(self.value[0])


class Mode(enum.IntFlag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE


class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)
    MARS = (6.42e23, 3.39e6)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass, self.radius = mass, radius


def look(color: Color, mode: Mode, planet: Planet) -> tuple[bool, bool, float, str]:
    return color is Color.RED, mode == Mode.READ | Mode.WRITE, planet.radius, Color.BLUE.first + str(Mode.BOTH.value)


@idiom("enumerations, with a constructor too")
def _(call: Call) -> None:
    assert call(look, Color.RED, Mode.READ | Mode.WRITE, Planet.MARS) == (True, True, 3.39e6, "b3")
    assert call(Color, "red") is Color.RED


class Outer:
    class Inner:
        class Innermost:
            deep = 3

        def make(self) -> Outer.Inner.Innermost:
            return Outer.Inner.Innermost()


@idiom("nested classes")
def _(call: Call) -> None:
    assert type(call(Outer.Inner().make)) is Outer.Inner.Innermost and call(Outer.Inner.Innermost).deep == 3


class Base(abc.ABC):
    @abc.abstractmethod
    def name(self) -> str: ...

    def greet(self) -> str:
        return f"I am {self.name()}"


class Derived(Base):
    def name(self) -> str:
        return "derived"

    def greet(self) -> str:
        return super().greet() + "!"


def try_base() -> str:
    try:
        Base()  # type: ignore[abstract]
    except TypeError:
        return "abstract"
    return "made"


@idiom("abstract classes and `super()`")
def _(call: Call) -> None:
    assert call(Derived().greet) == "I am derived!" and call(try_base) == "abstract"


class Registered(type):
    known: ClassVar[dict[str, type]] = {}

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any) -> Registered:
        cls = super().__new__(mcs, name, bases, body)
        if options["tag"] in mcs.known:
            raise TypeError(f"{name} is there already")
        mcs.known[options["tag"]] = cls
        return cls

    def __init__(cls, *args: Any, **options: Any) -> None:
        super().__init__(*args)


class WithTag(metaclass=Registered, tag="one"):
    pass


def of_tag(tag: str) -> Any:
    return Registered.known[tag]()


@idiom("a metaclass that registers its classes")
def _(call: Call) -> None:
    assert type(call(of_tag, "one")) is WithTag


PLUGINS: list[type] = []


class Plugin:
    def __init_subclass__(cls, *, weight: int, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.weight = weight  # type: ignore[attr-defined]
        PLUGINS.append(cls)


class Heavy(Plugin, weight=10):
    pass


class Light(Plugin, weight=1):
    pass


def heaviest() -> tuple[str, int]:
    return max(PLUGINS, key=lambda cls: cls.weight).__name__, len(PLUGINS)  # type: ignore[attr-defined, no-any-return]


@idiom("`__init_subclass__` with a keyword, and a list of plugins")
def _(call: Call) -> None:
    assert call(heaviest) == ("Heavy", 2)


class Positive:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance, self.name)

    def __set__(self, instance: Any, value: int) -> None:
        if value <= 0:
            raise ValueError(value)
        setattr(instance, self.name, value)


class Order:
    amount = Positive()

    def __init__(self, amount: int) -> None:
        self.amount = amount

    @property
    def half(self) -> float:
        return float(self.amount / 2)

    @half.setter
    def half(self, value: float) -> None:
        self.amount = int(value * 2)


def set_half(order: Order) -> Order:
    order.half = 8
    return order


@idiom("properties and descriptors")
def _(call: Call) -> None:
    assert call(set_half, Order(3)).amount == 16


class Guarded:
    def __init__(self) -> None:
        self.lock, self.value = threading.Lock(), 5

    def __getstate__(self) -> dict[str, int]:
        return {"value": self.value}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__()  # type: ignore[misc]
        self.value = state["value"] + 1


class Reduced:
    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        return Reduced, (self.text + "!",)


def same(value: Any) -> Any:
    return value


@idiom("`__getstate__`, `__setstate__` and `__reduce__`")
def _(call: Call) -> None:
    assert call(same, Guarded()).value == 7 and call(same, Reduced("a")).text == "a!!"


class Proxy:
    def __init__(self, target: Any) -> None:
        self.__dict__["target"] = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["target"], name)


@idiom("a proxy with `__getattr__`")
def _(call: Call) -> None:
    assert call(operator.attrgetter("x"), Proxy(Point(4))) == 4


class Settings:
    _instance: ClassVar[Any] = None

    def __new__(cls) -> Settings:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
            cls._instance.level = 1
        return cls._instance  # type: ignore[no-any-return]


SETTINGS = Settings()


def is_single() -> tuple[bool, int]:
    return Settings() is SETTINGS, SETTINGS.level  # type: ignore[attr-defined]


@idiom("a singleton")
def _(call: Call) -> None:
    assert call(is_single) == (True, 1)


class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content


class Sized(Protocol):
    def size(self) -> int: ...


@typing.runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


class Movie(TypedDict, total=False):
    title: str
    year: int


UserId = typing.NewType("UserId", int)


def typed(box: Box[int], user: UserId) -> tuple[Any, ...]:
    hints = typing.get_type_hints(Movie)
    return typing.get_type_hints(typed)["box"], hints, isinstance(io.BytesIO(), Closable), UserId(3), Box[T]


@idiom("generics, protocols, `TypedDict`, `NewType`, `get_type_hints`")
def _(call: Call) -> None:
    box, movie, closable, user, generic = call(typed, Box(1), UserId(1))
    assert (box, closable, user, generic) == (Box[int], True, 3, Box[T]) and movie == {"title": str, "year": int}


def hints_of_pair() -> dict[str, Any]:
    return typing.get_type_hints(Node)


@dataclass
class Node:
    value: Point
    parent: Node | None = None


@idiom("`get_type_hints` of annotations that are text")
def _(call: Call) -> None:
    assert call(hints_of_pair) == {"value": Point, "parent": Node | None}


MISSING = object()


def given(value: Any = MISSING) -> bool:
    return value is not MISSING


@idiom("a sentinel as default")
def _(call: Call) -> None:
    assert call(given) is False and call(given, 1) is True


if importlib.util.find_spec("pydantic"):
    import pydantic

    class Address(pydantic.BaseModel):
        city: str = "Bern"

    class User(pydantic.BaseModel):
        name: str
        age: int = pydantic.Field(gt=0)
        address: Address = Address()

        @pydantic.field_validator("name")
        @classmethod
        def titled(cls, value: str) -> str:
            return value.title()

    def older(user: User) -> User:
        return User(name=user.name.lower(), age=user.age + 1, address=Address(city="Basel"))

    def invalid() -> str:
        try:
            User(name="x", age=-1)
        except pydantic.ValidationError as error:
            return str(error.errors()[0]["loc"][0])
        return ""

    @idiom("pydantic models")
    def _(call: Call) -> None:
        user = call(older, User(name="ada", age=3))
        assert type(user) is User and user == User(name="ada", age=4, address=Address(city="Basel"))
        assert call(invalid) == "age"


# ── globals ──

LIMIT, NAMES = 5, frozenset({"a", "b"})
WORDS = re.compile(r"\w+")
HERE = pathlib.Path("/tmp")
LOG = logging.getLogger("idioms")
LOCK = threading.RLock()
CONDITION = threading.Condition()
LOCAL = threading.local()
REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
LIVING: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
RNG = random.Random(4)
CACHE: dict[str, int] = {}
COUNTS: collections.Counter[str] = collections.Counter()
loaded: str | None = None


def use_constants() -> tuple[Any, ...]:
    return LIMIT, sorted(NAMES), WORDS.findall("a b"), HERE / "x", math.pi > 3


@idiom("constants, patterns, paths and modules in globals")
def _(call: Call) -> None:
    assert call(use_constants) == (5, ["a", "b"], ["a", "b"], HERE / "x", True)


def use_locks() -> str:
    with LOCK, CONDITION:
        LOCAL.value = REQUEST.get()
        return str(LOCAL.value)


@idiom("locks, thread-local and context variables in globals")
def _(call: Call) -> None:
    assert call(use_locks) == "none"


def use_living() -> int:
    point = Point(1)
    LIVING["it"] = point
    return len(LIVING)


@idiom("weak dictionaries in globals")
def _(call: Call) -> None:
    assert call(use_living) == 1


def use_log() -> str:
    LOG.debug("not shown")
    return LOG.name


@idiom("loggers in globals")
def _(call: Call) -> None:
    assert call(use_log) == "idioms"


@idiom("random generators in globals")
def _(call: Call) -> None:
    assert 0 <= call(draw) < 1


def draw() -> float:
    return RNG.random()


def remember(name: str) -> int:
    COUNTS[name] += 1
    return CACHE.setdefault(name, os.getpid() + len(CACHE)) + COUNTS[name] * 0 + COUNTS[name]


@idiom("a cache in a global dict is kept")
def _(call: Call) -> None:
    first = call(remember, "a")
    assert call(remember, "a") == first + 1


def load() -> tuple[str, int]:
    global loaded
    if loaded is None:
        loaded, COUNTS["loads"] = "loaded", COUNTS["loads"] + 1
    return loaded, COUNTS["loads"]


@idiom("a global that a call sets is kept")
def _(call: Call) -> None:
    assert call(load) == call(load) == ("loaded", 1)


class Store:
    known: ClassVar[dict[str, int]] = {}

    @classmethod
    def get(cls, name: str) -> int:
        cls.known[name] = cls.known.get(name, 0) + 1
        return cls.known[name]


@idiom("a cache in a class attribute is kept")
def _(call: Call) -> None:
    first = call(Store.get, "a")
    assert call(Store.get, "a") == first + 1


class App:
    def __init__(self) -> None:
        self.debug = False


class Router:
    def __init__(self, app: App) -> None:
        self.app = app
        app.router = self  # type: ignore[attr-defined]


APP = App()
ROUTER = Router(APP)


def turn_on() -> tuple[bool, bool]:
    APP.debug = True
    return ROUTER.app is APP and APP.router is ROUTER, ROUTER.app.debug  # type: ignore[attr-defined]


@idiom("globals that refer to each other")
def _(call: Call) -> None:
    assert call(turn_on) == (True, True)


# ── inside a call ──


def pickle_there() -> tuple[bool, bool]:
    point, pair = pickle.loads(pickle.dumps((Point(1), Pair(1))))
    return type(point) is Point and point.x == 1, pair == Pair(1) and pickle.loads(pickle.dumps(square)) is square


@idiom("`pickle.dumps` in a function (`joblib.dump`, `torch.save`)")
def _(call: Call) -> None:
    assert call(pickle_there) == (True, True)


def load_there(data: bytes) -> int:
    return int(pickle.loads(data).x)


@idiom("`pickle.loads` of what the program has pickled (`joblib.load`)")
def _(call: Call) -> None:
    assert call(load_there, pickle.dumps(Point(6))) == 6


def save(path: str) -> None:
    pathlib.Path(path).write_bytes(pickle.dumps([Point(8), Color.RED]))


@idiom("a file that a call has pickled, read by the program")
def _(call: Call) -> None:
    with tempfile.NamedTemporaryFile() as file:
        call(save, file.name)
        point, color = pickle.load(file)
    assert type(point) is Point and color is Color.RED


@idiom("`copy.deepcopy`")
def _(call: Call) -> None:
    assert call(copy.deepcopy, Pair(1, [2])) == Pair(1, [2])


def pool_there() -> list[int]:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return [point.x for point in pool.map(Point, pool.map(square, [1, 2]))]


@idiom("`multiprocessing.Pool` in a function")
def _(call: Call) -> None:
    assert call(pool_there) == [1, 4]


def threads_there() -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(square, [1, 2, 3]))


@idiom("threads in a function")
def _(call: Call) -> None:
    assert call(threads_there) == [1, 4, 9]


def source_there() -> str:
    return inspect.getsource(square)


@idiom("`inspect.getsource`")
def _(call: Call) -> None:
    assert "return x * x" in call(source_there)


def about_main() -> tuple[str, str, str]:
    return __name__, str(__file__), sys.argv[0]


@idiom("`__file__` and `sys.argv`")
def _(call: Call) -> None:
    assert call(about_main)[1:] == (__file__, sys.argv[0])


# ── values ──


def returned(kind: str) -> Any:
    values = {"a": [1]}
    made: dict[str, Any] = {
        "keys": values.keys(),
        "ordered": collections.OrderedDict(values).items(),
        "proxy": types.MappingProxyType(values),
        "view": memoryview(b"abc"),
        "method": str.upper,
        "module": math,
        "ellipsis": ...,
        "alias": list[int],
        "space": types.SimpleNamespace(a=1),
    }
    return made[kind]


@idiom("views of dicts, memory views, read-only dicts as results")
def _(call: Call) -> None:
    assert list(call(returned, "keys")) == ["a"] and list(call(returned, "ordered")) == [("a", [1])]
    assert dict(call(returned, "proxy")) == {"a": [1]} and bytes(call(returned, "view")) == b"abc"


@idiom("functions of built-in types, modules, aliases of types as results")
def _(call: Call) -> None:
    assert call(returned, "method") is str.upper and call(returned, "alias") == list[int]
    assert call(returned, "module") is math and call(returned, "ellipsis") is ... and call(returned, "space").a == 1


def with_submodule() -> str:
    return xml.sax.saxutils.escape("<")


@idiom("a module that is named through its package")
def _(call: Call) -> None:
    assert call(with_submodule) == "&lt;"


class Tree:
    def __init__(self) -> None:
        self.children: list[Tree] = []
        self.parent: Tree | None = None


def grown(tree: Tree) -> Tree:
    child = Tree()
    child.parent, child.children = tree, [tree]
    tree.children.append(child)
    return tree


@idiom("objects that refer to each other")
def _(call: Call) -> None:
    tree = call(grown, Tree())
    assert tree.children[0].parent is tree and tree.children[0].children[0] is tree


# ── exceptions ──


class ServiceError(Exception):
    def __init__(self, code: int, message: str, *, retry: bool) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.retry = code, retry


class Doubling(ValueError):
    def __init__(self, text: str = "nothing") -> None:
        super().__init__(f"<{text}>")


def fail(error: BaseException, cause: BaseException | None = None) -> None:
    error.add_note("a note")
    raise error from cause


def fail_service() -> None:
    fail(ServiceError(7, "down", retry=True))


def fail_doubling() -> None:
    fail(Doubling("x"))


def fail_group() -> None:
    fail(ExceptionGroup("both", [ServiceError(1, "a", retry=False), OSError(2, "gone", "/x")]), KeyError("why"))


@idiom("an exception whose constructor takes more than its arguments")
def _(call: Call) -> None:
    try:
        call(fail_service)
    except ServiceError as error:
        assert (error.code, error.retry, error.args, error.__notes__) == (7, True, ("7: down",), ["a note"])
    else:
        raise AssertionError


@idiom("an exception whose constructor changes its argument")
def _(call: Call) -> None:
    try:
        call(fail_doubling)
    except Doubling as error:
        assert str(error) == "<x>"
    else:
        raise AssertionError


@idiom("an exception group")
def _(call: Call) -> None:
    try:
        call(fail_group)
    except ExceptionGroup as group:
        first, second = group.exceptions
        assert isinstance(first, ServiceError) and first.code == 1
        assert isinstance(second, FileNotFoundError) and second.filename == "/x"
    else:
        raise AssertionError


@contextlib.contextmanager
def executor(kind: str) -> Iterator[concurrent.futures.Executor]:
    if kind == "killable":
        from killable import Executor

        with Executor(1) as made:
            yield made
    elif kind == "loky":
        import loky

        with loky.ProcessPoolExecutor(1) as made:
            yield made
    else:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind)) as made:
            yield made


def main(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        made: concurrent.futures.Executor | None = None
        for title, check in IDIOMS.items():
            made = made or stack.enter_context(executor(kind))

            def call(*args: Any, **kwargs: Any) -> Any:
                return made.submit(*args, **kwargs).result(timeout=100)  # noqa: B023

            try:
                check(call)
                print(json.dumps([title, ""]), flush=True)
            except BaseException as error:
                print(json.dumps([title, f"{type(error).__name__}: {error}"]), flush=True)
                if isinstance(error, concurrent.futures.BrokenExecutor):
                    made = None


if __name__ == "__main__":
    if sys.argv[2:] == ["spawned"]:  # there the script is a module `__mp_main__`
        process = multiprocessing.get_context("spawn").Process(target=main, args=(sys.argv[1],))
        process.start()
        process.join()
        sys.exit(process.exitcode)
    main(sys.argv[1])
