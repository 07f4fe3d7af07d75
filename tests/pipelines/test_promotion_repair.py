"""``doctor --repair`` finishes what a killed promotion left, and puts back what was moved behind the ledger."""

from __future__ import annotations

import pytest
from faults import promotions

from pipelines import alias_report, doctor, ledger, promotion, promotion_repair, registry, versioning
from pipelines.doctor.promotions import findings
from pipelines.errors import StageError
from pipelines.evidence import verify
from pipelines.workspace import Workspace

PLAN = [{"alias": "champion", "from": "1", "to": "2"}, {"alias": "challenger", "from": "2", "to": None}]


def found(workspace: Workspace) -> doctor.Finding:
    (one,) = findings(workspace)
    return one


def repaired(workspace: Workspace) -> str:
    """What the repair told; then nothing is left, and the ledger is sound and committed."""
    before = found(workspace)
    assert (before.ok, before.as_json()["repairable"]) == (False, True)
    assert before.mend is not None
    told = before.mend()
    assert found(workspace).ok, found(workspace).found
    assert list(verify.check(workspace.ledger, [])) == []
    assert alias_report.run(workspace)["differences"] == {}
    assert versioning.changed_files(workspace, ("ledger.jsonl",)) == []
    return told


def aliases(workspace: Workspace) -> dict[str, str]:
    return registry.connect(workspace).aliases()


def note(workspace: Workspace, event: str, data: dict[str, object]) -> int:
    return ledger.append(workspace, actor="test", event=event, subject="version 2", data=data).seq


def test_a_workspace_in_order_needs_no_repair(judged: Workspace) -> None:
    before = judged.ledger.read_bytes()
    assert found(judged).ok
    assert promotions.repair(judged) == []
    assert judged.ledger.read_bytes() == before


def test_a_decision_that_nothing_followed_is_carried_out(judged: Workspace) -> None:
    note(judged, "approved", {"by": "Ada", "reason": "better", "moves": PLAN})
    assert "champion from 1 to 2 is half done" in found(judged).found
    assert repaired(judged) == "champion from 1 to 2: finished; challenger from 2 to none: finished"
    assert aliases(judged) == {"champion": "2"}


def test_a_move_that_reached_the_registry_and_not_the_ledger_is_noted(judged: Workspace) -> None:
    line = note(judged, "approved", {"by": "Ada", "reason": "better", "moves": PLAN})
    note(judged, "alias_intended", PLAN[0] | {"decision": line})
    registry.connect(judged).set_alias("champion", "2")
    repaired(judged)
    assert aliases(judged) == {"champion": "2"}
    assert [entry.event for entry in ledger.read(judged.ledger)][-3:] == ["promoted", "alias_intended", "alias_removed"]


def test_lines_that_git_does_not_hold_are_committed(judged: Workspace) -> None:
    note(judged, "evaluated", {})
    assert found(judged).found == "no commit holds the last lines of ledger.jsonl"
    assert repaired(judged) == "committed the ledger"


def test_a_changed_ledger_is_not_repaired_into_git(judged: Workspace) -> None:
    judged.ledger.write_bytes(judged.ledger.read_bytes().replace(b"registered", b"recorded__", 1))
    before = versioning.head(judged)
    one = found(judged)
    assert not one.ok
    assert "changed or taken away" in one.found
    assert one.mend is None
    with pytest.raises(StageError, match=r"git checkout ledger.jsonl"):
        promotion_repair.run(judged)
    assert versioning.head(judged) == before


def test_aliases_moved_behind_the_ledger_go_back(judged: Workspace) -> None:
    store = registry.connect(judged)
    store.set_alias("champion", "3")
    store.delete_alias("challenger")
    assert (
        repaired(judged)
        == "champion: put back from version 3 to version 1; challenger: put back from none to version 2"
    )
    assert aliases(judged) == {"champion": "1", "challenger": "2"}
    assert promotion.approve(judged, "2", by="Ada", reason="better").status == "approved"


def test_an_alias_that_is_not_ours_is_left_alone(judged: Workspace) -> None:
    registry.connect(judged).set_alias("shadow", "3")
    assert found(judged).ok
    assert alias_report.run(judged)["differences"] == {}
    assert promotion.approve(judged, "2", by="Ada", reason="better").status == "approved"
    assert aliases(judged) == {"champion": "2", "shadow": "3"}


def test_an_alias_of_a_version_that_is_gone_ends_in_the_ledger_too(judged: Workspace) -> None:
    promotion.approve(judged, "2", by="Ada", reason="better")
    store = registry.connect(judged)
    store.client.delete_model_version(store.name, "2")
    with pytest.raises(StageError, match="doctor --repair"):
        promotion.rollback(judged, reason="it is gone")
    assert repaired(judged) == "champion: taken from version 2, which is gone or withdrawn"
    assert promotion.rollback(judged, reason="it is gone").version == "1"


def test_a_verdict_that_no_alias_follows_makes_a_challenger(judged: Workspace) -> None:
    store = registry.connect(judged)
    decision = promotions.verdict_beside(promotions.policy(judged), "3", "1", "passed")
    promotion.note_evidence(judged, store, promotions.find(store, "3"), decision, key="k", actor="promote")
    assert "version 3 was judged, and no alias follows" in found(judged).found
    assert repaired(judged) == "version 3: the alias that follows from its verdict"
    assert aliases(judged) == {"champion": "1", "challenger": "3"}


def judged_in_between(judged: Workspace, verdict: str = "passed") -> None:
    """A retrain under `approval: auto` that was killed behind its verdict on version 3."""
    promotions.set_policy(judged, approval="auto")
    versioning.commit(judged, ("params.yaml",), "Let the policy approve")
    store = registry.connect(judged)
    decision = promotions.verdict_beside(promotions.policy(judged), "3", "1", verdict)
    promotion.note_evidence(judged, store, promotions.find(store, "3"), decision, key="k", actor="retrain")


def test_a_verdict_of_a_retrain_makes_a_champion_where_the_policy_approves(judged: Workspace) -> None:
    judged_in_between(judged)
    repaired(judged)
    assert aliases(judged)["champion"] == "3"


def test_a_verdict_under_other_rules_makes_no_champion(judged: Workspace) -> None:
    judged_in_between(judged)
    promotions.set_policy(judged, max_loss=0.01)
    versioning.commit(judged, ("params.yaml",), "Allow less")
    repaired(judged)
    assert aliases(judged) == {"champion": "1", "challenger": "3"}


def test_a_verdict_that_is_too_old_makes_no_champion(judged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "now", lambda: "2020-01-01T00:00:00Z")
    judged_in_between(judged)
    monkeypatch.undo()
    repaired(judged)
    assert aliases(judged) == {"champion": "1", "challenger": "3"}


def test_no_alias_follows_from_a_verdict_whose_evidence_is_lost(judged: Workspace) -> None:
    judged_in_between(judged)
    registry.connect(judged).delete_artifact(promotions.find(registry.connect(judged), "3").run_id, promotion.GATE_FILE)
    judged.gate_report.write_text('{"verdict": "passed"}')
    mend = found(judged).mend
    assert mend is not None
    with pytest.raises(StageError, match="version 3 is nowhere"):
        mend()
    assert aliases(judged) == {"champion": "1", "challenger": "2"}


def test_evidence_that_was_noted_and_not_kept_is_kept_from_the_workspaces_own_file(judged: Workspace) -> None:
    store = registry.connect(judged)
    version = promotions.find(store, "2")
    store.set_version_tag("2", promotion.GATE_SHA_TAG, "0" * 64)
    store.delete_artifact(version.run_id, promotion.GATE_FILE)
    assert found(judged).found == "the evidence of version 2 is not whole"
    repaired(judged)
    assert promotion.approve(judged, "2", by="Ada", reason="better").status == "approved"


def test_evidence_that_is_nowhere_any_more_is_left_to_a_new_judgement(judged: Workspace) -> None:
    store = registry.connect(judged)
    store.delete_artifact(promotions.find(store, "2").run_id, promotion.GATE_FILE)
    judged.gate_report.write_text('{"verdict": "passed"}')
    mend = found(judged).mend
    assert mend is not None
    with pytest.raises(StageError, match=r"version 2 is nowhere.*lclsc promote 2"):
        mend()
    promotions.judge(judged, "2")
    promotion.keep(judged, "Judge again")
    assert found(judged).ok


def test_what_somebody_is_at_work_on_is_no_finding(judged: Workspace) -> None:
    note(judged, "approved", {"by": "Ada", "reason": "better", "moves": PLAN})
    with ledger.exclusive(judged, "registry"):
        assert "half done" not in found(judged).found


def test_a_clone_repairs_nothing_of_the_promoting_workspace(judged: Workspace) -> None:
    registry.connect(judged).set_alias("champion", "3")
    versioning.git(judged, "config", "--local", "lclsc.clone", "another")
    assert found(judged).ok
