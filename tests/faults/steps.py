"""The steps of the line as one process runs them: what is struck, from which base it starts, and how often.

Work that a real run hands to Ray (one video an item) is done here one by one; training runs on a real Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flows import cli, planning
from flows.retrain import store
from pipelines import (
    code_digest,
    evaluate,
    extract,
    frames,
    intake,
    locks,
    params,
    promotion,
    register,
    stage,
    train,
    versioning,
)
from pipelines.errors import PromotionError, StageError
from pipelines.files import write_json
from pipelines.intake import drop_folder
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Step:
    """``share``: how many of the 270 points are about it."""

    name: str
    base: str
    run: Callable[[Workspace], None]
    share: int
    retrained: bool = False  # after the strike, before the step is done again


def _intake(place: Workspace) -> None:
    """With what the next retrain does first: it commits what an intake that was struck could not."""
    with locks.one_writer(place):
        intake.run(place, place.root.parent / "more")
        planning.record_inputs(place)


def _drop(place: Workspace) -> None:
    """A pass over a drop folder, as the deployment ``intake`` makes it."""
    timing = drop_folder.Timing(settle=0.0)
    list(drop_folder.watch(place, place.root.parent / "drop", timing, once=True, wait=lambda _: False))
    with locks.one_writer(place):
        planning.record_inputs(place)


def retrain(place: Workspace) -> None:
    """``lclsc retrain`` until it knows that there is nothing to do; refused where it would begin to work."""
    if cli._idle_report(place) is None:
        raise StageError("not_idle", "A retrain has work to do.", "None.")


def _record(place: Workspace) -> None:
    """What a retrain does before its stages: take over, commit own inputs, ask what is stale."""
    with locks.one_writer(place):
        planning.record_inputs(place)
        planning.make(place)


def _extract(place: Workspace) -> None:
    _stage(place, "extract", lambda chosen: extract.run(place, chosen, map_items=one_by_one))


def _train(place: Workspace) -> None:
    _stage(place, "train", lambda chosen: train.run(place, chosen))


def _evaluate(place: Workspace) -> None:
    def run(chosen: params.Params) -> dict[str, Any]:
        table = frames.read_table(place.test_table)
        scored = [evaluate.score_video(work) for work in evaluate.to_score(place, table, chosen.evaluate)]
        return evaluate.conclude(place, table, scored, chosen.evaluate)

    _stage(place, "evaluate", run)


def _stage(place: Workspace, name: str, run: Callable[[params.Params], dict[str, Any]]) -> None:
    """As ``stage.main``, in this process."""
    with stage.held(place):
        code_digest.require_current(place, name)
        write_json(place.stage_report(name), run(params.load(place.params)))


def one_by_one(function: Callable[[Any], Any], items: Sequence[Any], **_: Any) -> list[Any]:
    return [function(item) for item in items]


def _store(place: Workspace) -> None:
    with locks.one_writer(place):
        store.fn(place)


def _register(place: Workspace) -> None:
    """Everything after the stages: the run, the version, its judgement, the alias, the ledger's commit."""
    with locks.one_writer(place):
        plan = planning.make(place)
        if plan.up_to_date:
            return
        register.start_run(place, plan.retrain_key, "a fault")
        register.run(place, params.load(place.params), commit=versioning.head(place), durations={})


def _approve(place: Workspace) -> None:
    promotion.approve(place, "2", by="A Reviewer", reason="seen its page")


def _roll_back(place: Workspace) -> None:
    """Approve and take it back: four moves of an alias. What is done already is refused, and that is as good."""
    _unless("not_challenger", lambda: _approve(place))
    back = partial(promotion.rollback, reason="not what was hoped for", to="1", by="A Reviewer")
    _unless("champion_already", lambda: back(place))


def _unless(done: str, move: Callable[[], object]) -> None:
    try:
        move()
    except PromotionError as error:
        if error.code != done:
            raise


STEPS = {
    step.name: step
    for step in (
        Step(name="intake", base="one", run=_intake, share=25),
        Step(name="left", base="one", run=_intake, share=10, retrained=True),
        Step(name="drop", base="one", run=_drop, share=15),
        Step(name="record", base="in", run=_record, share=15),
        Step(name="extract", base="in", run=_extract, share=45),
        Step(name="train", base="extract", run=_train, share=20),
        Step(name="evaluate", base="train", run=_evaluate, share=20),
        Step(name="store", base="evaluate", run=_store, share=30),
        Step(name="register", base="stored", run=_register, share=60),
        Step(name="approve", base="whole", run=_approve, share=15),
        Step(name="rollback", base="whole", run=_roll_back, share=15),
    )
}
