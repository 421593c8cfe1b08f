"""Describes the modules of one package as JSON, in the interpreter that has it.

Runs as a script, on its own: the interpreter with stock Kombu has nothing of this repository.

    python collect.py kombu                      every public name
    python collect.py kombu_rs --like FILE       the names that are in the first one's output

A name of a module is public when it has no leading underscore and

* it is in the module's ``__all__``, or
* the module defines it: a class or function whose ``__module__`` it is, or a value that is not
  some other module's object under the same name, or
* Celery imports it from that module.

Whatever else is there was imported for the module's own use. Of a class everything without a
leading underscore is public, the special methods that it or a base defines, and the attributes
that its objects have when they are new (:data:`SAMPLES`).
"""

from __future__ import annotations

import argparse
import ast
import enum
import importlib
import importlib.util
import inspect
import json
import pkgutil
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

# Clients of brokers that Kombu's transports import. Stand-ins take their place, installed or not:
# the names in a transport do not depend on its client, and what is compared must not depend on
# what happens to be installed.
CLIENTS = (
    "Pyro4",
    "azure",
    "boto3",
    "botocore",
    "bson",
    "confluent_kafka",
    "consul",
    "etcd",
    "google",
    "isodate",
    "kazoo",
    "librabbitmq",
    "pgmq",
    "psycopg",
    "pymongo",
    "qpid",
    "qpidtoollibs",
    "requests",
    "softlayer_messaging",
)

# The internals of Kombu's SQS client; kombu_rs talks to SQS in another way.
LEFT_OUT = ("asynchronous.http", "asynchronous.aws")

# What is shown of a value that is not plain, or has something in it that is not.
OBJECT = "<object>"
PLAIN = (type(None), bool, int, float, str, bytes)

# Special names that say how a class was made, not what it can do.
TECHNICAL = {
    *("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__slots__"),
    *("__init__", "__new__", "__init_subclass__", "__class_getitem__", "__subclasshook__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "__parameters__", "__orig_bases__", "__match_args__"),
    *("__static_attributes__", "__firstlineno__", "__getstate__"),
    *("__dataclass_fields__", "__dataclass_params__"),
}

# How to make an object of a class: its attributes are compared, too. `virtual` is the module
# `transport.virtual`, `connection` one that is not opened yet.
SAMPLES = {
    "asynchronous.hub:Hub": "kombu.asynchronous.hub.Hub()",
    "asynchronous.semaphore:LaxBoundedSemaphore": (
        "kombu.asynchronous.semaphore.LaxBoundedSemaphore(1)"
    ),
    "asynchronous.timer:Timer": "kombu.asynchronous.timer.Timer()",
    "clocks:LamportClock": "kombu.clocks.LamportClock()",
    "common:Broadcast": "kombu.common.Broadcast('b', queue='q')",
    "common:QoS": "kombu.common.QoS(print, 1)",
    "compat:Consumer": "kombu.compat.Consumer(connection, 'queue')",
    "compat:ConsumerSet": "kombu.compat.ConsumerSet(connection)",
    "compat:Publisher": "kombu.compat.Publisher(connection, 'e')",
    "connection:ChannelPool": "connection.ChannelPool(2)",
    "connection:Connection": "connection",
    "connection:ConnectionPool": "connection.Pool(2)",
    "entity:Exchange": "kombu.Exchange('e')",
    "entity:Queue": "kombu.Queue('q')",
    "entity:binding": "kombu.binding()",
    "exceptions:HttpError": "kombu.exceptions.HttpError(500)",
    "exceptions:ChannelError": "kombu.exceptions.ChannelError('x')",
    "exceptions:ConnectionError": "kombu.exceptions.ConnectionError('x')",
    "message:Message": "kombu.Message(b'')",
    "messaging:Consumer": "kombu.Consumer(connection)",
    "messaging:Producer": "kombu.Producer(connection)",
    "mixins:ConsumerMixin": "kombu.mixins.ConsumerMixin()",
    "mixins:ConsumerProducerMixin": "kombu.mixins.ConsumerProducerMixin()",
    "pidbox:Mailbox": "kombu.pidbox.Mailbox('m')",
    "pidbox:Node": "kombu.pidbox.Mailbox('m').Node('n', channel=connection)",
    "pools:Connections": "kombu.pools.Connections()",
    "pools:PoolGroup": "kombu.pools.PoolGroup()",
    "pools:ProducerPool": "kombu.pools.ProducerPool(connection.Pool(2))",
    "serialization:SerializerRegistry": "kombu.serialization.SerializerRegistry()",
    "simple:SimpleBuffer": "connection.SimpleBuffer('q')",
    "simple:SimpleQueue": "connection.SimpleQueue('s')",
    "transport.base:Management": "kombu.transport.base.Management(connection.transport)",
    "transport.base:Transport": "kombu.transport.base.Transport(connection)",
    "transport.memory:Channel": "connection.channel()",
    "transport.memory:Transport": "connection.transport",
    "transport.virtual.base:BrokerState": "virtual.BrokerState()",
    "transport.virtual.base:Channel": "virtual.Channel(virtual.Transport(connection))",
    "transport.virtual.base:Message": "virtual.Message(MESSAGE)",
    "transport.virtual.base:QoS": "virtual.QoS(virtual.Channel(virtual.Transport(connection)))",
    "transport.virtual.base:Transport": "virtual.Transport(connection)",
    "transport.virtual.exchange:DirectExchange": (
        "virtual.exchange.DirectExchange(virtual.Channel(virtual.Transport(connection)))"
    ),
    "utils.functional:LRUCache": "kombu.utils.functional.LRUCache()",
    "utils.functional:lazy": "kombu.utils.functional.lazy(print)",
    "utils.limits:TokenBucket": "kombu.utils.limits.TokenBucket(1)",
    "utils.scheduling:FairCycle": "kombu.utils.scheduling.FairCycle(print, [])",
    "utils.scheduling:round_robin_cycle": "kombu.utils.scheduling.round_robin_cycle()",
}
MESSAGE = {
    "body": "",
    "content-type": "text/plain",
    "content-encoding": "utf-8",
    "properties": {"delivery_tag": "t", "delivery_info": {}},
    "headers": {},
}


class StandInClass(type):
    """A name of a client that begins with a capital: to derive from, to raise, to look into."""

    def __getattr__(cls, name: str) -> Any:
        return made_up(cls, name, cls.__module__)


class StandIn(types.ModuleType):
    """A client's module, or whatever else has a name in lower case, that is not there.

    It can be called: it is a decorator, with arguments or without, that changes nothing.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return made_up(self, name, self.__name__)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if arguments else self


def made_up(owner: Any, name: str, module: str) -> Any:
    """Give ``owner`` an attribute that will do for defining classes with it."""
    if name.startswith("_"):
        raise AttributeError(name)
    made: Any
    if name[0].isupper():
        made = StandInClass(name, (Exception,), {"__init__": lambda *_, **__: None})
        made.__module__ = module
    else:
        made = StandIn(f"{module}.{name}")
    setattr(owner, name, made)
    return made


class StandInFinder:
    """Finds a stand-in for every client and whatever is below it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in CLIENTS:
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class Collector:
    """Describes what one package has.

    Arguments:
        package: its name.
        like: what another call made; its names are described, instead of the public ones.
    """

    def __init__(self, package: str, like: dict[str, Any] | None = None) -> None:
        self.package = package
        self.like = like
        self.asked_for = celery_imports(package) if like is None else {}

    def modules(self) -> Iterator[str]:
        """The package's public modules, without the package's own name in front."""
        yield ""
        root = importlib.import_module(self.package)
        for info in pkgutil.walk_packages(
            root.__path__, f"{self.package}.", onerror=lambda name: None
        ):
            name = info.name[len(self.package) + 1 :]
            private = any(part.startswith("_") for part in name.split("."))
            if not private and not name.startswith(LEFT_OUT):
                yield name

    def collect(self) -> dict[str, Any]:
        """Every module: its names, or the error that importing it gave."""
        found: dict[str, Any] = {}
        for name in self.modules() if self.like is None else self.like:
            try:
                module = importlib.import_module(f"{self.package}.{name}".rstrip("."))
            except ImportError as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
                continue
            found[name] = self.module(name, module)
        return found

    def module(self, name: str, module: types.ModuleType) -> dict[str, Any]:
        """One module: its public names, and which of them ``import *`` takes."""
        listed = list(getattr(module, "__all__", ()))
        if self.like is None:
            names = [each for each in dir(module) if self.is_public(module, each, listed)]
        else:
            names = list(self.like[name].get("names", ()))
        described = {
            each: self.name(getattr(module, each), name, each)
            for each in sorted(names)
            if hasattr(module, each)
        }
        return {"names": described, "all": sorted(listed)}

    def is_public(self, module: types.ModuleType, name: str, listed: list[str]) -> bool:
        """Whether ``name`` is a public name of ``module``, see the head of this file."""
        if (
            name in listed
            or name == "__version__"
            or name in self.asked_for.get(module.__name__, ())
        ):
            return True
        value = getattr(module, name, None)
        if name.startswith("_") or name == "TYPE_CHECKING" or isinstance(value, types.ModuleType):
            return False
        if type(value).__module__ in ("__future__", "typing"):
            return False
        if isinstance(value, type) or inspect.isroutine(value):
            return getattr(value, "__module__", None) == module.__name__
        return not is_borrowed(value, name, self.package, module.__name__)

    def name(self, value: Any, module: str, name: str) -> dict[str, Any]:
        """One name: its kind, and what callers can see of it."""
        home = self.home(value, module, name)
        if home is not None:
            return {"kind": "the same", "value": home}
        if isinstance(value, type):
            return self.cls(value, f"{module}:{name}")
        if inspect.isroutine(value):
            return {"kind": "function", "signature": self.signature(value)}
        if isinstance(value, types.ModuleType):
            return {"kind": "module"}
        return {"kind": "value", "value": self.text(value)}

    def home(self, value: Any, module: str, name: str) -> str | None:
        """The public module that defines a name which ``module`` only hands on."""
        if self.like is not None:
            expected = self.like[module]["names"][name]
            home = expected["value"] if expected["kind"] == "the same" else None
        elif isinstance(value, type) or inspect.isroutine(value):
            home = getattr(value, "__module__", None) or ""
            home = home[len(self.package) + 1 :] if home.startswith(f"{self.package}.") else None
        else:
            return None
        if home is None or home == module or any(p.startswith("_") for p in home.split(".")):
            return None
        there = getattr(importlib.import_module(f"{self.package}.{home}"), name, None)
        return home if there is value else None

    def cls(self, cls: type, where: str) -> dict[str, Any]:
        """One class: its constructor, bases and members."""
        members = {}
        for name in dir(cls):
            special = name.startswith("__") and name.endswith("__")
            if name.startswith("_") and not special:
                continue
            owner = next((base for base in cls.__mro__ if name in vars(base)), None)
            if owner is None or is_builtin(owner):
                continue
            if special and (name in TECHNICAL or not is_call(vars(owner)[name])):
                continue
            members[name] = self.member(cls, name, special)
        for name, value in self.attributes(where).items():
            members.setdefault(name, {"kind": "attribute", "value": self.text(value)})
        return {
            "kind": "class",
            "signature": self.constructor(cls),
            "bases": sorted(self.bases(cls, where)),
            "members": members,
        }

    def bases(self, cls: type, where: str) -> set[str]:
        """The classes that a class is derived from, and names by which it is expected to be."""
        found = {self.path(base) for base in cls.__mro__[1:] if is_telling(base)}
        if self.like is None:
            return found
        module, _, name = where.partition(":")
        for expected in self.like[module]["names"][name].get("bases", ()):
            # A module may be a package here, whose parts define what it hands on.
            home, _, base = expected.rpartition(".")
            if home == "kombu" or home.startswith("kombu."):
                there = sys.modules.get(self.package + home[len("kombu") :])
                if getattr(there, base, None) in cls.__mro__:
                    found.add(expected)
        return found

    def attributes(self, where: str) -> dict[str, Any]:
        """The public attributes of a new object of the class at ``where``."""
        if where not in SAMPLES:
            return {}
        for module in {key.partition(":")[0] for key in SAMPLES}:
            importlib.import_module(f"{self.package}.{module}")
        root = importlib.import_module(self.package)
        names = {
            "kombu": root,
            "virtual": importlib.import_module(f"{self.package}.transport.virtual"),
            "connection": root.Connection("memory://"),
            "MESSAGE": MESSAGE,
        }
        made = eval(SAMPLES[where], names)
        found = getattr(made, "__dict__", {})
        return {name: value for name, value in found.items() if not name.startswith("_")}

    def member(self, cls: type, name: str, special: bool) -> dict[str, Any]:
        """One attribute of a class. What matters of a special method is that it is there."""
        if special:
            return {"kind": "special"}
        value = inspect.getattr_static(cls, name)
        if isinstance(value, (classmethod, staticmethod)):
            kind = type(value).__name__
            return {"kind": kind, "signature": self.signature(getattr(cls, name))}
        if isinstance(value, types.BuiltinFunctionType) and value.__self__ is cls:
            return {"kind": "classmethod", "signature": self.signature(value)}
        if callable(value) and inspect.isroutine(value) and not inspect.isdatadescriptor(value):
            if isinstance(value, types.BuiltinFunctionType):
                return {"kind": "staticmethod", "signature": self.signature(value)}
            return {"kind": "method", "signature": self.signature(value, bound=True)}
        if isinstance(value, type):
            return {"kind": "class", "value": value.__name__}
        if not isinstance(value, enum.Enum) and hasattr(type(value), "__get__"):
            return {"kind": "property"}
        return {"kind": "value", "value": self.text(value)}

    def constructor(self, cls: type) -> list[list[str]] | None:
        """The parameters of ``cls(...)``."""
        for base in cls.__mro__:
            if isinstance(vars(base).get("__init__"), types.FunctionType):
                return self.signature(vars(base)["__init__"], bound=True)
            if isinstance(vars(base).get("__new__"), (types.FunctionType, staticmethod)):
                return self.signature(vars(base)["__new__"], bound=True)
            if base.__module__ != "builtins" and vars(base).get("__new__") is not None:
                return self.signature(cls)
        return None

    def signature(self, call: Callable[..., Any], bound: bool = False) -> list[list[str]] | None:
        """Each parameter's name, kind and default; None where Python does not know them."""
        try:
            parameters = list(inspect.signature(call).parameters.values())
        except (ValueError, TypeError):
            return None
        if (
            bound
            and parameters
            and parameters[0].kind
            in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
        ):
            parameters = parameters[1:]
        # Nobody can see what the parameters for all the others are called.
        others = {"VAR_POSITIONAL": "args", "VAR_KEYWORD": "kwargs"}
        return [
            [
                others.get(parameter.kind.name, parameter.name),
                parameter.kind.name,
                "" if parameter.default is parameter.empty else self.text(parameter.default),
            ]
            for parameter in parameters
        ]

    def path(self, cls: type) -> str:
        """Where a class is, with Kombu's name for either package."""
        module = cls.__module__
        if module == self.package or module.startswith(f"{self.package}."):
            module = "kombu" + module[len(self.package) :]
        return f"{module}.{cls.__qualname__}"

    def text(self, value: Any, depth: int = 0) -> str:
        """A plain value as it is written; of anything else its type or name."""
        if isinstance(value, enum.Enum):
            return f"<{value.name}>"
        if isinstance(value, str):
            return repr(str(value).replace(f"{self.package}.", "kombu."))
        if isinstance(value, PLAIN):
            kinds: list[Any] = [kind for kind in PLAIN[1:] if isinstance(value, kind)]
            return repr(kinds[0](value) if kinds else value)
        if isinstance(value, type) or inspect.isroutine(value):
            called = getattr(value, "__name__", "")
            return f"<{called}>" if called.isidentifier() and called[0] != "_" else "<function>"
        if depth < 4 and isinstance(value, (list, tuple, set, frozenset)):
            items = [self.text(item, depth + 1) for item in value]
            if isinstance(value, (set, frozenset)):
                items.sort()
            kind = next((k for k in (list, tuple) if isinstance(value, k)), set)
            return OBJECT if OBJECT in items else f"{kind.__name__}({', '.join(items)})"
        if depth < 4 and isinstance(value, dict):
            pairs = {
                self.text(key, depth + 1): self.text(item, depth + 1) for key, item in value.items()
            }
            if OBJECT in (*pairs, *pairs.values()):
                return OBJECT
            return f"{{{', '.join(f'{key}: {item}' for key, item in sorted(pairs.items()))}}}"
        return OBJECT


def is_call(value: Any) -> bool:
    """Whether an attribute, as it is in the class, can be called there."""
    return callable(value) or isinstance(value, (classmethod, staticmethod))


def is_builtin(cls: type) -> bool:
    """Whether a class comes with Python: its members are known by naming it as a base."""
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names


def is_telling(cls: type) -> bool:
    """Whether somebody may ask ``isinstance`` of it, or name it in ``except``."""
    return (
        cls is not object
        and cls.__module__ not in ("typing", "abc", "typing_extensions")
        and not cls.__name__.startswith("_")
    )


def is_borrowed(value: Any, name: str, package: str, home: str) -> bool:
    """Whether a value has the same name in a module that ``home`` may have it from."""
    if type(value) in (type(None), bool, int, float):
        return False  # everybody's: it does not say where it comes from
    for where, module in list(sys.modules.items()):
        if where in (home, "__main__") or vars(module).get(name) is not value:
            continue
        inside = where == package or where.startswith(f"{package}.")
        if not inside or name in getattr(module, "__all__", ()):
            return True
    return False


def celery_imports(package: str) -> dict[str, set[str]]:
    """The names that Celery imports, by module; empty without Celery."""
    spec = importlib.util.find_spec("celery")
    found: dict[str, set[str]] = {}
    for home in (spec and spec.submodule_search_locations) or ():
        for path in Path(home).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if package not in text:
                continue
            for module, name in imported_names(ast.walk(ast.parse(text))):
                if module == package or module.startswith(f"{package}."):
                    found.setdefault(module, set()).add(name)
    return found


def imported_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """``(module, name)`` of every ``from module import name``."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.module, alias.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package")
    parser.add_argument("--like", type=Path, help="describe the names in this output")
    options = parser.parse_args()
    like = None if options.like is None else json.loads(options.like.read_text())
    warnings.simplefilter("ignore")
    sys.meta_path.insert(0, StandInFinder())
    # Our AMQP exceptions become those of py-amqp when that is imported; Kombu imports it itself.
    importlib.import_module("amqp.exceptions")
    json.dump(Collector(options.package, like).collect(), sys.stdout, sort_keys=True)


if __name__ == "__main__":
    main()
