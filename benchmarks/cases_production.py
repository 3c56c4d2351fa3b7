"""The small infer with features that production programs use, against the plain call and tritonclient.

The blocking cases also measure tritonhttp without the C extension. The asyncio cases keep 16 calls in flight.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases_blocking import SMALL
from contenders import AIO_PACKAGES, PACKAGES, PublicPath, aio, blocking, with_implementation
from harness import OURS, REFERENCE, Bound, Builder, Case, Site
from peers import Task, Tensor

PLAIN, IN_PYTHON = "plain call", "tritonhttp in Python"
IN_FLIGHT = 16


def small(**options: Any) -> Task:
    """Return the small infer with further arguments."""
    return dataclasses.replace(SMALL, options=options)


# Features that are not an argument of infer


class Authenticated(PublicPath):
    """A plugin authenticates each request."""

    def client(self, site: Site, **options: Any) -> Any:
        client = super().client(site, **options)
        auth = importlib.import_module(f"{self.module.__name__}.auth")
        client.register_plugin(auth.BasicAuth("user", "password"))
        return client


class Numbered(PublicPath):
    """Each request has its own id."""

    def caller(self, client: Any) -> Callable[[], Any]:
        numbers = itertools.count()
        return lambda: client.infer(**self.arguments(), request_id=f"request-{next(numbers)}")


class InSequence(PublicPath):
    """Concurrent requests belong to different sequences.

    The model keeps no state, so its answers equal those of the plain call.
    """

    _sequences = itertools.count(1)

    def caller(self, client: Any) -> Callable[[], Any]:
        sequence, starts = next(self._sequences), itertools.chain([True], itertools.repeat(False))
        return lambda: client.infer(**self.arguments(), sequence_id=sequence, sequence_start=next(starts))


class Retrying(PublicPath):
    """Failed calls would be retried."""

    def client(self, site: Site, **options: Any) -> Any:
        return super().client(site, retry=self.module.Retry(), **options)


class Watched(PublicPath):
    """A hook sees each response."""

    def client(self, site: Site, **options: Any) -> Any:
        return super().client(site, on_response=lambda call: None, **options)


class Balanced(PublicPath):
    """The client has two servers, or one server under two names."""

    def client(self, site: Site, **options: Any) -> Any:
        urls = [site.url, f"localhost:{site.address[1]}"]
        return self.module.InferenceServerClient(urls, **options)


class Function(PublicPath):
    """The model is a function of arrays."""

    def caller(self, client: Any) -> Callable[[], Any]:
        model = client.model(self.task.model)
        arrays = {name: values for name, _, values in self.tensors}
        return lambda: model(arrays)

    def read(self, result: Any) -> list[np.ndarray]:
        return [result[name] for name in self.task.outputs]


def two_strings() -> list[Tensor]:
    """Make the input of identity_bytes."""
    return [("INPUT0", "BYTES", np.array([b"to be", b"or not to be"], np.object_))]


def counted(inputs: list[Tensor], outputs: list[np.ndarray]) -> bool:
    """Return whether each output is the class of its largest element, which is its index."""
    expected = inputs[0][2] + inputs[1][2], inputs[0][2] - inputs[1][2]
    return all(
        output.dtype == np.object_ and output.size == 1 and int(output.item().split(b":")[1]) == sums.argmax()
        for output, sums in zip(outputs, expected, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One line of the table.

    ``at_most`` and ``aio_at_most`` bound the ratio to the plain call, blocking and on asyncio. ``theirs`` is
    tritonclient's form of the feature; None if it has none.
    """

    title: str
    task: Task = SMALL
    kind: type[PublicPath] = PublicPath
    at_most: float = 1.35
    aio_at_most: float = 1.25
    theirs: type[PublicPath] | None = PublicPath

    def contenders(
        self, build: Callable[..., Any], packages: dict[str, str], **options: Any
    ) -> dict[str, Builder]:
        """Return tritonhttp with and without the feature, and tritonclient with it."""

        def builder(name: str, task: Task, kind: type[PublicPath]) -> Builder:
            return functools.partial(build, packages[name], task, kind=kind, **options)

        builders = {OURS: builder(OURS, self.task, self.kind), PLAIN: builder(OURS, SMALL, PublicPath)}
        if self.theirs:
            builders[REFERENCE] = builder(REFERENCE, self.task, self.theirs)
        return builders


FEATURES = {
    "header": Feature(title="a header", task=small(headers={"Authorization": "Bearer 3f786850e387550f"})),
    "query": Feature(title="query_params", task=small(query_params={"tenant": "a", "trace": 1})),
    "plugin": Feature(title="a plugin (BasicAuth)", kind=Authenticated, theirs=Authenticated),
    "id": Feature(title="request_id", kind=Numbered, theirs=Numbered),
    "parameters": Feature(title="parameters", task=small(parameters={"tenant": "a", "level": 1})),
    "timeout": Feature(title="timeout and priority", task=small(timeout=1_000_000, priority=1)),
    "sequence": Feature(title="a sequence", kind=InSequence, theirs=InSequence),
    "retry": Feature(title="retry=Retry()", kind=Retrying, at_most=1.7, aio_at_most=1.5, theirs=None),
    "hook": Feature(title="one hook", kind=Watched, at_most=1.7, aio_at_most=1.5, theirs=None),
    "servers": Feature(title="two servers", kind=Balanced, at_most=1.7, aio_at_most=1.5, theirs=None),
    "deadline": Feature(title="deadline", task=small(deadline=30.0), at_most=1.15, theirs=None),
    "class-count": Feature(
        title="class_count",
        task=dataclasses.replace(SMALL, class_count=1, check=counted),
        at_most=1.15,
    ),
    "bytes": Feature(
        title="two BYTES elements", task=Task(model="identity_bytes", make=two_strings), at_most=1.4
    ),
    "json": Feature(title="JSON", task=dataclasses.replace(SMALL, binary=False), at_most=1.6),
    "function": Feature(title="the model as a function", kind=Function, at_most=1.3),
}


def bounds(at_most: float, of_reference: float | None) -> tuple[Bound, ...]:
    """Return tritonhttp's bounds against the plain call and tritonclient."""
    of_plain = Bound(metric="cpu", against=PLAIN, at_most=at_most)
    return (
        (of_plain, Bound(metric="cpu", against=REFERENCE, at_most=of_reference))
        if of_reference
        else (of_plain,)
    )


def blocking_case(name: str, feature: Feature) -> Case:
    """Return the case of a feature with the blocking client."""
    contenders = feature.contenders(blocking, PACKAGES)
    limits = bounds(feature.at_most, feature.theirs and 0.36)
    if feature.theirs:
        contenders[IN_PYTHON] = functools.partial(with_implementation, "python", contenders[OURS])
        limits += (Bound(metric="cpu", of=IN_PYTHON, against=REFERENCE, at_most=0.55),)
    return Case(
        name=f"production-{name}",
        title=f"small infer, {feature.title}, Triton",
        server="triton",
        contenders=contenders,
        bounds=limits,
        blocks=9,
        seconds=0.1,
    )


def aio_case(name: str, feature: Feature) -> Case:
    """Return the case of a feature on asyncio."""
    return Case(
        name=f"aio-production-{name}",
        title=f"asyncio, small infer, {feature.title}, {IN_FLIGHT} in flight, Triton",
        server="triton",
        contenders=feature.contenders(aio, AIO_PACKAGES, in_flight=IN_FLIGHT),
        metrics=("cpu", "rate"),
        bounds=bounds(feature.aio_at_most, feature.theirs and 0.5),
        blocks=9,
        seconds=0.1,
    )


CASES = [make(*item) for make in (blocking_case, aio_case) for item in FEATURES.items()]
