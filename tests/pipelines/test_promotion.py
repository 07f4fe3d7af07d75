"""A champion changes by a decision that rests on evidence, once, and can be taken back; the ledger tells all of it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from faults import promotions

from pipelines import (
    alias_history,
    alias_moves,
    alias_report,
    exchange,
    ledger,
    promotion,
    publish,
    registry,
    versioning,
)
from pipelines.errors import LclscError, PromotionError, StageError, WrongUseError
from pipelines.evidence import verify
from pipelines.files import sha256_bytes
from pipelines.workspace import Workspace

WHO = {"by": "Dr. Ada Weber", "reason": "better on the new site"}


@pytest.fixture
def workspace(judged: Workspace) -> Workspace:
    return judged


def aliases(workspace: Workspace) -> dict[str, str]:
    return registry.connect(workspace).aliases()


def events(workspace: Workspace) -> list[str]:
    return [entry.event for entry in ledger.read(workspace.ledger)]


def is_one_history(workspace: Workspace) -> bool:
    """Chain, intents and registry agree, and git holds the ledger as it is."""
    entries = ledger.read(workspace.ledger)
    assert list(verify.check(workspace.ledger, [])) == []
    assert list(alias_history.breaks(entries)) == []
    assert alias_history.open_moves(entries) == []
    assert alias_history.last_words(entries) == aliases(workspace)
    return versioning.file_at(workspace, "HEAD", "ledger.jsonl") == workspace.ledger.read_bytes()


def refusal(workspace: Workspace, version: str = "2", **changes: Any) -> str:
    """The code of the error; nothing may have moved."""
    before = aliases(workspace)
    with pytest.raises(LclscError) as caught:
        promotion.approve(workspace, version, **(WHO | changes))
    assert caught.value.remedy
    assert aliases(workspace) == before
    assert "promoted" not in events(workspace)[-3:]
    return caught.value.code


def test_an_approved_challenger_is_champion_and_no_longer_challenger(judged_anywhere: Workspace) -> None:
    outcome = promotion.approve(judged_anywhere, "@challenger", **WHO)
    assert (outcome.status, outcome.version, outcome.before) == ("approved", "2", "1")
    assert aliases(judged_anywhere) == {"champion": "2"}
    assert events(judged_anywhere)[-5:] == ["approved", "alias_intended", "promoted", "alias_intended", "alias_removed"]
    assert is_one_history(judged_anywhere)


def test_a_decision_names_the_person_as_typed_and_as_the_machine_knows_them(workspace: Workspace) -> None:
    for key, value in (("user.name", "Ada Weber"), ("user.email", "ada@clinic.example")):
        subprocess.run(["git", "config", key, value], cwd=workspace.root, check=True)
    line = promotion.approve(workspace, "2", **WHO).decision
    assert line is not None
    data = ledger.read(workspace.ledger)[line - 1].data
    assert (data["by"], data["reason"]) == (WHO["by"], WHO["reason"])
    assert data["git_user"] == "Ada Weber <ada@clinic.example>"
    assert data["os_user"] == subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    gated = ledger.read(workspace.ledger)[data["evidence"]["line"] - 1]
    assert (gated.event, gated.data["gate_sha256"]) == ("gated", data["evidence"]["gate_sha256"])


def test_approving_twice_decides_once(workspace: Workspace) -> None:
    promotion.approve(workspace, "2", **WHO)
    before = workspace.ledger.read_bytes()
    assert promotion.approve(workspace, "2", **WHO).status == "champion_already"
    assert workspace.ledger.read_bytes() == before


@pytest.mark.parametrize("missing", ["by", "reason"])
def test_a_decision_has_a_name_and_a_reason(workspace: Workspace, missing: str) -> None:
    assert refusal(workspace, **{missing: "  "}) == "no_words"


def test_what_the_gate_did_not_judge_or_refused_is_refused(workspace: Workspace) -> None:
    assert refusal(workspace, "3") == "not_judged"
    assert refusal(workspace, "17") == "no_such_version"
    promotions.judge(workspace, "2", verdict="refused")
    assert aliases(workspace) == {"champion": "1"}
    assert refusal(workspace) == "gate_refused"


def test_an_undecided_challenger_waits_for_a_person_with_a_reason(workspace: Workspace) -> None:
    promotions.set_policy(workspace, approval="auto")
    promotions.judge(workspace, "3", verdict="undecided")
    assert aliases(workspace) == {"champion": "1", "challenger": "3"}
    assert refusal(workspace, "3", reason="") == "no_words"
    assert promotion.approve(workspace, "3", **WHO).status == "approved"


def test_evidence_beside_another_champion_is_refused_and_the_loser_told(workspace: Workspace) -> None:
    promotions.judge(workspace, "3")
    assert promotion.approve(workspace, "3", **WHO).status == "approved"
    with pytest.raises(
        PromotionError, match=r"beside version 1; meanwhile there is version 3.*lclsc promote 2"
    ) as caught:
        promotion.approve(workspace, "2", **WHO)
    assert (caught.value.code, caught.value.exit_code) == ("champion_moved", 1)


def test_evidence_under_another_policy_or_too_old_is_refused(workspace: Workspace) -> None:
    promotions.set_policy(workspace, max_loss=0.5)
    assert refusal(workspace) == "policy_changed"
    promotions.set_policy(workspace, max_loss=0.05)
    assert promotion.approve(workspace, "2", **WHO).status == "approved"
    promotions.set_policy(workspace, max_evidence_days=1e-9)
    promotions.judge(workspace, "3")
    time.sleep(1.1)  # the ledger counts whole seconds
    assert refusal(workspace, "3") == "evidence_too_old"


def test_evidence_that_differs_between_its_places_is_refused(judged_anywhere: Workspace, tmp_path: Path) -> None:
    store = registry.connect(judged_anywhere)
    version = promotions.find(store, "2")
    store.set_version_tag("2", "gate_sha256", "0" * 64)
    assert refusal(judged_anywhere) == "evidence_changed"
    store.set_version_tag("2", "gate_sha256", version.tags["gate_sha256"])
    (tmp_path / "gate.json").write_text('{"verdict": "passed"}')
    store.log_artifacts(version.run_id, [tmp_path / "gate.json"])
    assert refusal(judged_anywhere) == "evidence_changed"
    store.delete_artifact(version.run_id, "gate.json")
    assert refusal(judged_anywhere) == "evidence_changed"


def test_who_names_the_evidence_they_saw_approves_no_other(workspace: Workspace) -> None:
    seen = promotions.find(registry.connect(workspace), "2").tags["gate_sha256"]
    assert refusal(workspace, evidence="0" * 8) == "evidence_changed"
    assert refusal(workspace, evidence=seen[:7]) == "evidence_changed"
    assert promotion.approve(workspace, "2", evidence=seen[:8], **WHO).status == "approved"


def test_who_is_no_challenger_is_told_who_is(workspace: Workspace) -> None:
    promotions.judge(workspace, "3")
    with pytest.raises(PromotionError, match="version 3 is") as caught:
        promotion.approve(workspace, "2", **WHO)
    assert caught.value.code == "not_challenger"


@pytest.mark.parametrize("by", ["trainer", "Tim Trainer", "TIM@clinic.example", "Tim Trainer <tim@clinic.example>"])
def test_with_four_eyes_nobody_approves_what_they_trained(workspace: Workspace, by: str) -> None:
    promotions.set_policy(workspace, four_eyes=True)
    promotions.judge(workspace, "2")
    assert refusal(workspace, by=by) == "same_person"
    subprocess.run(["git", "config", "user.name", "Tim Trainer"], cwd=workspace.root, check=True)
    subprocess.run(["git", "config", "user.email", "tim@home.example"], cwd=workspace.root, check=True)
    assert refusal(workspace) == "same_person", "another address, the same name"
    subprocess.run(["git", "config", "user.name", "Ada Weber"], cwd=workspace.root, check=True)
    assert promotion.approve(workspace, "2", **WHO).status == "approved"


def test_a_version_that_saw_a_withdrawn_patient_is_neither_approved_nor_brought_back(workspace: Workspace) -> None:
    promotion.approve(workspace, "2", **WHO)
    promotions.judge(workspace, "3")
    promotion.approve(workspace, "3", **WHO)
    ledger.append(workspace, actor="forget", event="withdrawn", subject="k-1", data={"versions": ["2"], "purged": []})
    with pytest.raises(PromotionError, match=r"Version 2 saw.*rollback --to 1"):
        promotion.rollback(workspace, reason="x")
    assert promotion.rollback(workspace, reason="x", to="1").version == "1"
    promotions.judge(workspace, "2")
    assert refusal(workspace, "2") == "withdrawn"


def test_a_version_is_found_by_number_or_alias_and_a_missing_one_is_named(workspace: Workspace) -> None:
    store = registry.connect(workspace)
    assert promotion.find(store, "@champion").version == promotion.find(store, "1").version == "1"
    assert promotion.find(store, "@challenger").version == "2"
    store.delete_alias("challenger")
    for name, cause in (("@challenger", "No version is challenger."), ("9", "There is no version 9.")):
        with pytest.raises(WrongUseError, match=cause):
            promotion.find(store, name)


def test_rollback_brings_the_champions_back_one_by_one(workspace: Workspace) -> None:
    promotion.approve(workspace, "2", **WHO)
    promotions.judge(workspace, "3")
    promotion.approve(workspace, "3", **WHO)
    back = [promotion.rollback(workspace, reason="misses meningioma").version for _ in range(2)]
    assert (back, aliases(workspace)) == (["2", "1"], {"champion": "1"})
    with pytest.raises(PromotionError, match="No version was champion before"):
        promotion.rollback(workspace, reason="again")
    assert promotion.rollback(workspace, reason="it was right", to="3").version == "3"
    assert promotion.rollback(workspace, reason="no, it was not").version == "1"
    assert is_one_history(workspace)


def test_a_rollback_that_was_killed_before_its_commit_is_committed_when_it_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotion.approve(workspace, "2", **WHO)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "keep", lambda *_: None)
        promotion.rollback(workspace, reason="x", to="1")
    with pytest.raises(PromotionError, match="Version 1 is champion"):
        promotion.rollback(workspace, reason="x", to="1")
    assert versioning.file_at(workspace, "HEAD", "ledger.jsonl") == workspace.ledger.read_bytes()


def test_what_a_killed_command_left_is_committed_by_the_next_one_also_when_that_is_refused(
    workspace: Workspace,
) -> None:
    plan = [{"alias": "champion", "from": "1", "to": "2"}, {"alias": "challenger", "from": "2", "to": None}]
    data = {"by": "a", "reason": "b", "moves": plan}
    ledger.append(workspace, actor="approve", event="approved", subject="version 2", data=data)
    with pytest.raises(PromotionError, match="has not judged version 3"):
        promotion.approve(workspace, "3", **WHO)
    assert aliases(workspace) == {"champion": "2"}
    assert is_one_history(workspace)


def test_a_page_that_is_the_same_again_is_noted_once(workspace: Workspace) -> None:
    store = registry.connect(workspace)
    for digest in ("a", "a", "b"):
        publish._note(workspace, store, "version 2", {"report.html": digest})
    assert events(workspace).count("published") == 2


def test_rollback_goes_to_former_champions_alone(workspace: Workspace) -> None:
    for to, code in (("2", "never_champion"), ("1", "champion_already"), ("17", "no_such_version")):
        with pytest.raises(LclscError) as caught:
            promotion.rollback(workspace, reason="x", to=to)
        assert caught.value.code == code
    with pytest.raises(WrongUseError):
        promotion.rollback(workspace, reason=" ")
    assert aliases(workspace) == {"champion": "1", "challenger": "2"}


def test_a_champion_that_was_challenger_again_leaves_that_place_when_it_comes_back(workspace: Workspace) -> None:
    promotion.approve(workspace, "2", **WHO)
    promotions.judge(workspace, "1")
    assert aliases(workspace) == {"champion": "2", "challenger": "1"}
    promotion.rollback(workspace, reason="x")
    assert aliases(workspace) == {"champion": "1"}
    assert is_one_history(workspace)


def test_under_auto_what_passes_is_champion_by_the_policys_word(workspace: Workspace) -> None:
    promotions.set_policy(workspace, approval="auto")
    promotions.judge(workspace, "3")
    assert aliases(workspace) == {"champion": "3", "challenger": "2"}
    approved = [entry for entry in ledger.read(workspace.ledger) if entry.event == "approved"][-1]
    assert (approved.data["by"], approved.data["reason"]) == ("policy", "promote.approval: auto")


def test_a_verdict_beside_a_champion_who_left_proposes_nothing(workspace: Workspace) -> None:
    store = registry.connect(workspace)
    policy = promotions.params.load(workspace.params).promote
    stale = promotions.verdict_beside(policy, "3", "1", "passed")
    promotion.approve(workspace, "2", **WHO)
    evidence = promotion.note_evidence(workspace, store, promotions.find(store, "3"), stale, key="k", actor="promote")
    with pytest.raises(PromotionError, match="judged beside version 1; meanwhile there is version 2"):
        promotion.propose(workspace, store, "3", evidence, policy, actor="promote")
    assert aliases(workspace) == {"champion": "2"}


def test_aliases_moved_behind_the_ledger_stop_every_decision(workspace: Workspace) -> None:
    registry.connect(workspace).set_alias("champion", "3")
    for decide in (
        lambda: promotion.approve(workspace, "2", **WHO),
        lambda: promotion.rollback(workspace, reason="x"),
        lambda: promotions.judge(workspace, "3"),
    ):
        with pytest.raises(StageError, match=r"champion: ledger 1, registry 3.*doctor --repair"):
            decide()
    report = alias_report.run(workspace)
    assert report["differences"] == {"champion": {"ledger": "1", "registry": "3"}}


def test_before_the_first_version_nobody_is_named(tracked: Workspace) -> None:
    with alias_moves.held(tracked, registry.connect(tracked, "lclsc"), actor="test") as aliases:
        assert aliases == {}
    assert ledger.read(tracked.ledger) == []


def test_a_handed_over_registry_names_its_new_promoter_at_the_first_decision(workspace: Workspace) -> None:
    store = registry.connect(workspace)
    versioning.git(workspace, "config", "--local", "lclsc.clone", "another")
    store.client.set_registered_model_tag(store.name, registry.PROMOTER, "another")
    with alias_moves.held(workspace, store, actor="test"):
        pass
    last = ledger.read(workspace.ledger)[-1]
    assert (last.event, last.subject) == ("promoter_named", "another")
    assert store.marks()[registry.LEDGER_HEAD] == f"{last.seq} {sha256_bytes(last.line())}"


def test_only_the_promoting_workspace_decides(workspace: Workspace) -> None:
    subprocess.run(["git", "config", "--local", "lclsc.clone", "another"], cwd=workspace.root, check=True)
    before = workspace.ledger.read_bytes()
    with pytest.raises(StageError, match="another workspace"):
        promotion.approve(workspace, "2", **WHO)
    assert workspace.ledger.read_bytes() == before, "nor writes into its ledger what it cannot do"


@pytest.mark.parametrize("done", [False, True])
def test_a_move_that_was_killed_half_way_is_finished_by_the_next_command(workspace: Workspace, done: bool) -> None:
    store = registry.connect(workspace)
    plan = {"alias": "champion", "from": "1", "to": "2"}
    data = {"by": "a", "reason": "b", "moves": [plan, {"alias": "challenger", "from": "2", "to": None}]}
    line = ledger.append(workspace, actor="approve", event="approved", subject="version 2", data=data).seq
    move = plan | {"decision": line}
    ledger.append(workspace, actor="approve", event="alias_intended", subject="version 2", data=move)
    if done:
        store.set_alias("champion", "2")
    assert alias_report.run(workspace)["open"][0] == move
    assert promotion.rollback(workspace, reason="x").before == "2"
    assert aliases(workspace) == {"champion": "1"}
    assert is_one_history(workspace)


def test_a_half_done_decision_that_cannot_be_finished_is_abandoned_as_a_whole(workspace: Workspace) -> None:
    plan = [{"alias": "champion", "from": "1", "to": "2"}, {"alias": "challenger", "from": "2", "to": None}]
    data = {"by": "a", "reason": "b", "moves": plan}
    ledger.append(workspace, actor="approve", event="approved", subject="version 2", data=data)
    ledger.append(workspace, actor="forget", event="withdrawn", subject="k-1", data={"versions": ["2"], "purged": []})
    with alias_moves.held(workspace, registry.connect(workspace), actor="tests") as held:
        assert held == {"champion": "1", "challenger": "2"}
    assert events(workspace)[-2:] == ["alias_abandoned", "alias_abandoned"]
    assert list(verify.check(workspace.ledger, [])) == []


def test_history_tells_who_moved_what_on_which_evidence(workspace: Workspace) -> None:
    promotion.approve(workspace, "2", **WHO)
    promotion.rollback(workspace, reason="misses meningioma", by="Ben")
    report = alias_report.run(workspace)
    told = [(move["event"], move["alias"], move["from"], move["to"], move["by"]) for move in report["moves"]]
    assert told == [
        ("promoted", "champion", None, "1", "policy"),
        ("alias_set", "challenger", None, "2", "promote"),
        ("promoted", "champion", "1", "2", "Dr. Ada Weber"),
        ("alias_removed", "challenger", "2", None, "Dr. Ada Weber"),
        ("rolled_back", "champion", "2", "1", "Ben"),
    ]
    sha = promotions.find(registry.connect(workspace), "2").tags["gate_sha256"]
    assert [move["gate_sha256"] for move in report["moves"][1:4]] == [sha, sha, sha]
    assert (report["aliases"], report["differences"], report["open"]) == ({"champion": "1"}, {}, [])
    json.dumps(report)


def test_the_ledger_is_pushed_where_there_is_a_remote(workspace: Workspace, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    versioning.git(workspace, "remote", "add", "origin", str(remote))
    assert promotion.approve(workspace, "2", **WHO).pushed is True
    pushed = subprocess.run(["git", "show", "main:ledger.jsonl"], cwd=remote, capture_output=True, check=True).stdout
    assert pushed == workspace.ledger.read_bytes()
    remote.rename(tmp_path / "gone.git")
    assert promotion.rollback(workspace, reason="x").pushed is False
    assert is_one_history(workspace)
    (tmp_path / "gone.git").rename(remote)
    assert not exchange.is_pushed(workspace)
    with pytest.raises(PromotionError, match="Version 1 is champion"):  # refused, and yet it pushes what is left
        promotion.rollback(workspace, reason="x", to="1")
    assert exchange.is_pushed(workspace)
    pushed = subprocess.run(["git", "show", "main:ledger.jsonl"], cwd=remote, capture_output=True, check=True).stdout
    assert pushed == workspace.ledger.read_bytes()


def test_a_rollback_waits_for_no_training_and_takes_less_than_a_second(workspace: Workspace) -> None:
    from pipelines import locks

    promotion.approve(workspace, "2", **WHO)
    with locks.one_writer(workspace):
        started = time.process_time()
        promotion.rollback(workspace, reason="x")
        assert time.process_time() - started < 1.0
