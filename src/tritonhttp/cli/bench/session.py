"""What follows from the options of ``tritonhttp bench``: the checks, the requests, the run, and its results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import BOUND, INTERRUPTED, SERVER, Failure, Setup

if TYPE_CHECKING:
    from ..._protocol.signature import Signature
    from .compare import Bound, Measured
    from .data import Requests, Wanted
    from .measure import Rule
    from .run import Outcome, Plan
    from .schedule import Level
    from .search import Slo

__all__ = ["Session"]


class Session:
    """One run of the command. `given` has its options by the names of the parameters."""

    def __init__(self, setup: Setup, given: Mapping[str, Any]) -> None:
        self.setup, self.given = setup, dict(given)
        self.model, self.version = given["model"], given["version"]
        self._check()
        self.slo = self._slo()
        self.levels = self._levels()
        self.rule = self._rule()
        self.bounds = self._bounds()
        self.before = self._before()

    # -- options --

    def _check(self) -> None:
        given = self.given
        modes = [name for name in ("concurrency", "rate", "intervals") if given[name] is not None]
        if len(modes) > 1:
            raise Failure(f"--{modes[0]} and --{modes[1]}: expected one of them")
        if given["poisson"] and given["rate"] is None and given["slo"] is None:
            raise Failure("--poisson needs --rate")
        for name, least in (("window", 0.05), ("stability", 0.01)):
            if not least <= given[name] < 1e6:
                raise Failure(f"--{name}: expected {least:g} or more, got {given[name]:g}")
        if given["shared_memory"] not in ("none", "auto"):
            raise Failure(f"--shared-memory: expected none or auto, got {given['shared_memory']!r}")
        if given["slo"] is not None and (given["intervals"] is not None or given["count"]):
            raise Failure("--slo: expected --rate or --concurrency beside it, and no --intervals or --count")
        for name in ("csv", "profile_export_file", "report"):
            path = given[name]
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise Failure(f"--{name.replace('_', '-')}: no file can be written at {path}")

    def _slo(self) -> Slo | None:
        from .search import parse_slo

        return None if self.given["slo"] is None else parse_slo(self.given["slo"])

    def _levels(self) -> list[Level]:
        from .schedule import Level, parse_levels, parse_range, read_intervals

        given = self.given
        parse = parse_levels if self.slo is None else parse_range
        same: dict[str, Any] = {"count": given["count"], "seed": given["seed"]}
        if given["intervals"] is not None:
            intervals = read_intervals(
                given["intervals"].read_text("utf-8").splitlines(), str(given["intervals"])
            )
            mean = len(intervals) * 1e9 / sum(intervals)
            return [Level(rate=mean, distribution="intervals", intervals=intervals, **same)]
        if given["rate"] is not None or (self.slo is not None and given["concurrency"] is None):
            rates = [0.0] if given["rate"] is None else parse(given["rate"], "--rate", whole=False)
            kind: Any = "poisson" if given["poisson"] else "constant"
            return [Level(rate=each, distribution=kind, **same) for each in rates]
        numbers = parse(given["concurrency"] or "1", "--concurrency", whole=True)
        if given["processes"] > numbers[0]:
            raise Failure(
                f"--processes {given['processes']}: each needs a request in flight; raise --concurrency"
            )
        return [Level(concurrency=int(each), **same) for each in numbers]

    def _rule(self) -> Rule:
        from .measure import Rule

        given = self.given
        return Rule(
            window=given["window"],
            window_count=given["window_count"],
            warm_up=given["warm_up"],
            trials=given["windows"],
            stability=given["stability"],
            percentile=given["percentile"],
        )

    def _bounds(self) -> list[Bound]:
        from .compare import parse_bound

        found = [parse_bound(text) for text in self.given["fail_if"] or ()]
        for bound in found:
            if bound.relative and self.given["compare"] is None:
                raise Failure(f"--fail-if {bound.text!r} needs --compare FILE, the earlier result")
        return found

    def _before(self) -> list[Measured] | None:
        from .compare import read_result

        path = self.given["compare"]
        return None if path is None else read_result(path)

    # -- requests --

    def _requests(self) -> tuple[Requests, Signature]:
        """Return the calls to make, after one of them has worked."""
        from ..infer import parameters_of
        from .data import Requests, make_payloads

        given = self.given
        with self.setup.client() as client:
            signature = client.model(self.model, self.version).refresh().signature
            assert signature is not None
            config = self._config(client)
            wanted = self._wanted(signature)
            payloads = make_payloads(signature, wanted)
            sequential = "sequence_batching" in config or given["sequences"] > 0
            ids = self._ids()
            parameters = parameters_of(given["param"])
            requests = Requests(
                model=self.model,
                version=self.version,
                payloads=payloads,
                sequence_length=given["sequence_length"] if sequential else 0,
                sequence_variation=given["sequence_length_variation"] / 100,
                first_sequence=ids[0],
                last_sequence=ids[1],
                streaming=given["streaming"],
                binary_inputs=not given["json_input"],
                binary_outputs=not given["json_output"],
                outputs=tuple(info.name for info in signature.outputs) if given["json_output"] else (),
                options={"parameters": parameters} if parameters else {},
            )
            self._try(client, requests)
        return requests, signature

    def _try(self, client: Any, requests: Requests) -> None:
        """Make one call of each kind, so that a mistake is told before the load begins."""
        from ...errors import ServerError
        from .load import Recorder, WrongAnswer

        recorder = Recorder()
        calls = requests.calls(client, recorder, 0)
        try:
            next(calls)()
        except WrongAnswer:
            pass  # it will be counted
        except ServerError as error:
            if "decoupled" in str(error):
                raise Failure(f"{error.message()}: --streaming asks by generate_stream", SERVER) from error
            raise
        finally:
            if recorder.finish is not None:
                recorder.finish()

    def _config(self, client: Any) -> Mapping[str, Any]:
        from ...errors import ServerError

        try:
            found: Mapping[str, Any] = client.get_model_config(self.model, self.version)
        except ServerError:  # other servers of the protocol have none
            return {}
        return found

    def _ids(self) -> tuple[int, int]:
        text = self.given["sequence_ids"]
        try:
            first, _, last = text.partition(":")
            found = int(first), int(last or 0)
        except ValueError:
            found = (0, 0)
        if found[0] < 1 or (found[1] and found[1] <= found[0]):
            raise Failure(f"--sequence-ids: expected FROM or FROM:TO, from 1 on, got {text!r}")
        most = self.given["sequences"] or max(level.concurrency for level in self.levels)
        if found[1] and found[1] - found[0] < most:
            raise Failure(f"--sequence-ids {text}: {most} sequences at a time need as many ids")
        return found

    def _wanted(self, signature: Signature) -> Wanted:
        import numpy as np

        from ..inputs import Reader, shapes_of
        from .data import Wanted

        given = self.given
        shapes = shapes_of(given["shape"] or ())
        values = Reader(signature, shapes).read(given["input"] or ())
        arrays = (
            signature.arrays({**values, **self._placeholders(signature, values)}, casts=True)
            if values
            else {}
        )
        data = tuple(given["input_data"] or ("random",))
        words = [each for each in data if each in ("random", "zero")]
        if words and len(data) > 1:
            raise Failure(f"--input-data: {words[0]} goes with nothing else")
        for each in data:
            if each not in ("random", "zero") and not Path(each).exists():
                raise Failure(f"--input-data: expected random, zero, or a file or folder; there is no {each}")
        return Wanted(
            data=data,
            shapes=shapes,
            batch=given["batch"],
            string_length=given["string_length"],
            string=given["string_data"],
            given={name: np.asarray(arrays[name]) for name in values},
            seed=given["seed"],
        )

    def _placeholders(self, signature: Signature, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return anything for the other inputs, so that the given ones can be checked alone."""
        import numpy as np

        from ..inputs import random_array

        rows = next((len(value) for value in values.values() if hasattr(value, "__len__")), 1)
        generator = np.random.default_rng(0)
        found = {}
        for info in signature.inputs:
            if info.name not in values and not info.optional:
                shape = [max(length, 1) for length in info.shape]
                if signature.max_batch_size and info.shape[:1] == (-1,):
                    shape[0] = rows
                found[info.name] = random_array(info, shape, generator)
        return found

    # -- the run --

    def _plan(self) -> Plan:
        from .run import Plan

        given = self.given
        return Plan(
            levels=self.levels,
            rule=self.rule,
            slo=self.slo,
            in_flight=max(given["max_in_flight"], given["processes"]),
            sequences=given["sequences"],
            processes=given["processes"],
            asyncio=given["aio"],
            shared_memory=given["shared_memory"] == "auto",
            retries=given["retries"],
        )

    def run(self) -> int:
        """Measure, show, write; return the exit code."""
        from dataclasses import replace

        from .run import execute, now_in_epoch
        from .server_side import Server
        from .show import bar, show_found, show_step, show_summary

        plan = self._plan()
        requests, _ = self._requests()
        if requests.sequence_length and self.levels[0].open and not plan.sequences:
            plan = replace(plan, sequences=4)
        epoch = now_in_epoch()
        quiet = self.setup.json
        server = Server(self.setup, self.model, self.version, self.given["metrics_url"])
        try:
            with bar(not quiet) as begin:
                outcome = execute(
                    self.setup,
                    plan,
                    requests,
                    server=server,
                    progress=begin,
                    after=(lambda step: None) if quiet else show_step,
                )
        finally:
            server.close()
        if not quiet:
            show_summary(outcome.steps, self.slo)
            if outcome.found is not None and self.slo is not None:
                unit = "requests/s" if self.levels[0].open else "requests in flight"
                show_found(outcome.found, self.slo, unit, outcome.interrupted)
        self._write(outcome, requests, epoch)
        missed = self._judge(outcome)
        if outcome.failure is not None:
            raise outcome.failure
        if outcome.interrupted:
            return INTERRUPTED
        return BOUND if missed else 0

    def _about(self) -> dict[str, Any]:
        import datetime
        import platform

        from ..._version import __version__

        return {
            "tritonhttp": __version__,
            "model": self.model,
            "version": self.version,
            "servers": self.setup.urls,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
        }

    def _write(self, outcome: Outcome, requests: Requests, epoch: int) -> None:
        from ..output import show_json
        from .formats import as_result, write_csv, write_profile

        given = self.given
        about = self._about()
        if given["csv"] is not None:
            percentile = self.rule.metric if self.rule.percentile else ""
            with given["csv"].open("w", encoding="utf-8", newline="") as file:
                write_csv(file, outcome.steps, percentile=percentile, verbose=given["verbose_csv"])
        if given["profile_export_file"] is not None:
            with given["profile_export_file"].open("w", encoding="utf-8") as file:
                write_profile(file, outcome.steps, requests, epoch, about["tritonhttp"])
        if given["report"] is not None:
            from .report import page

            given["report"].write_text(page(outcome, about, self.slo), encoding="utf-8")
        if self.setup.json:
            show_json(as_result(outcome.steps, outcome.found, about))

    def _judge(self, outcome: Outcome) -> Sequence[str]:
        """Compare with the earlier result; return what bounds were missed."""
        from .compare import changes
        from .formats import as_measured
        from .show import show_changes

        now = [as_measured(step) for step in outcome.steps]
        compared = changes(self.before or (), now)
        missed = []
        for step, found in compared:
            for bound in self.bounds:
                if bound.missed(step, found.get(bound.name)):
                    missed.append(f"{bound.text} at {step.mode.replace('_', ' ')} {step.level:g}")
        if self.before is not None and not any(found for _, found in compared):
            raise Failure(f"{self.given['compare']}: the earlier result has none of the levels of this one")
        if self.setup.json:
            for words in missed:
                print(f"missed: {words}", file=sys.stderr)
        elif self.before is not None:
            show_changes(compared, missed)
        else:
            for words in missed:
                print(f"missed: {words}")
        return missed
