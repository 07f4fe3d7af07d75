"""Every command of the handbook is run by the test that is named for it here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVED = "tests/e2e/test_serve_flows.py::test_a_batch_starts_a_retrain_that_a_power_cut_delays_and_sigterm_ends"
WORKER = "tests/e2e/watch.py::by_a_worker"
DOCTOR = "tests/pipelines/test_doctor.py"
AUDIT = "tests/e2e/test_audit.py"
BYTE = f"{AUDIT}::test_a_byte_that_changed_in_its_place_is_named_and_the_remedy_helps"
BUILT = f"{AUDIT}::test_what_was_built_passes_and_nothing_is_written"
TARGETS = f"{AUDIT}::test_every_name_of_a_target_leads_to_its_checks"
PIXELS = f"{AUDIT}::test_stored_frames_are_derived_again_from_the_videos"
TRACE = f"{AUDIT}::test_a_model_is_traced_to_its_patients_and_back"
GROWN = "tests/e2e/test_main_job.py::test_new_patients_make_a_challenger_and_only_they_are_decoded"
RECOVERY = "tests/e2e/test_recovery.py"
TOGETHER = f"{RECOVERY}::test_state_cache_and_registry_lost_at_once_come_back"
MACHINE = f"{RECOVERY}::test_a_lost_machine_comes_back_from_git_remotes_and_the_copy"
MERGED = "tests/pipelines/test_exchange.py::test_what_a_person_merged_is_taken"
FORKED = (
    "tests/pipelines/test_staging.py::test_of_two_clones_that_could_not_see_each_other_one_takes_its_batch_in_again"
)
BESIDE = "tests/pipelines/test_staging.py::test_an_intake_elsewhere_beside_a_line_of_the_promoters_ledger_is_settled"
TEAM = "tests/e2e/test_team.py::test_a_service_runs_its_flows_by_a_server_on_postgresql"
REGISTRY = "tests/e2e/test_team.py::test_a_registry_on_postgresql_serves_a_team_and_comes_back_from_its_dump"
NODES = "tests/e2e/cluster.py::three_nodes"
SPREAD = "tests/e2e/team.py::team"
DECISION = '{"decision": {"by": "Dr. Ada Weber", "reason": "better on the new site"}}'
POSTGRESQL = "--host /srv/mlflow/postgresql"
CLI = "PREFECT_HOME=clinic/.state/prefect prefect --profile lclsc"

PAGES = {
    "scheduling": {
        "lclsc serve --flows --drop /export/pcle --workspace clinic": SERVED,
        f"{CLI} deployment ls": SERVED,
        f"{CLI} deployment run intake/intake --param settle_seconds=0": SERVED,
        f"{CLI} deployment run approve/approve --params '{DECISION}'": "tests/e2e/watch.py::approve",
        "cd clinic": "",
        "prefect work-pool create gpu-box --type process": WORKER,
        "PREFECT_DEFAULT_WORK_POOL_NAME=gpu-box prefect --no-prompt deploy --all": WORKER,
        "prefect worker start --pool gpu-box": WORKER,
    },
    "team": {
        "deploy/prefect-server.sh /srv/prefect": TEAM,
        "export PREFECT_API_URL=http://127.0.0.1:4200/api": TEAM,
        'export PREFECT_API_AUTH_STRING="$(cat /srv/prefect/auth)"': TEAM,
        "lclsc serve --flows --drop /export/pcle --workspace clinic": TEAM,
        "deploy/mlflow-server.sh /srv/mlflow": REGISTRY,
        "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000": REGISTRY,
        "export MLFLOW_TRACKING_USERNAME=admin": REGISTRY,
        'export MLFLOW_TRACKING_PASSWORD="$(cat /srv/mlflow/password)"': REGISTRY,
        "lclsc history --workspace clinic": REGISTRY,
        "deploy/ray-node.sh /srv/ray.token 10.0.0.1                     # the first machine": NODES,
        "deploy/ray-node.sh /srv/ray.token 10.0.0.2 10.0.0.1:6379       # each other one": NODES,
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/srv/ray.token": NODES,
        "export RAY_ADDRESS=10.0.0.1:6379 LCLSC_STORAGE=s3://bucket/checkpoints": SPREAD,
        "lclsc retrain --workspace clinic": "tests/e2e/team.py::main",
    },
    "audit": {
        "lclsc audit @champion --workspace clinic --html audit.html": BUILT,
        "lclsc audit @champion --sample 200 --workspace clinic": TARGETS,
        "lclsc audit @champion --deep --workspace clinic": PIXELS,
        "cp -a clinic copy": BYTE,
        'object="$(find copy/.dvc/cache/files/md5 -type f -size +20k | sort | head -1)"': BYTE,
        'chmod u+w "$object"': BYTE,
        'printf X | dd of="$object" bs=1 seek=5000 conv=notrunc status=none': BYTE,
        "lclsc audit @champion --workspace copy": BYTE,
        "lclsc doctor --workspace copy --deep --repair": BYTE,
        "lclsc trace patient kdemo-qz7bbkiw --workspace clinic": TRACE,
        "lclsc trace model @champion --workspace clinic": TRACE,
        "lclsc diff 1 2 --workspace clinic": GROWN,
        "lclsc reproduce @champion --workspace clinic": "tests/e2e/test_reproduce.py::"
        "test_the_champion_is_rebuilt_byte_by_byte",
        "lclsc audit --all --record --workspace clinic": f"{AUDIT}::test_a_recorded_audit_is_an_event_of_the_ledger",
    },
    "promotion": {
        'lclsc retrain --workspace clinic --reason "second batch"': GROWN,
        "lclsc promote 2 --workspace clinic": GROWN,
        'lclsc approve @challenger --by "A Reviewer" --reason "seen its page" --workspace clinic': GROWN,
        'lclsc rollback --reason "misses meningioma" --workspace clinic': GROWN,
        "lclsc history --workspace clinic": GROWN,
    },
    "recovery": {
        "lclsc doctor --workspace clinic --repair": f"{DOCTOR}::test_what_is_safe_to_mend_is_mended",
        "cd clinic": "",
        "cd ..": "",
        'sqlite3 mlflow.db ".backup $PWD/../backup/mlflow.db"': TOGETHER,
        "cp -a mlartifacts ../backup/": TOGETHER,
        "git config --local lclsc.clone > ../backup/clone": MACHINE,
        "git fetch origin": MERGED,
        "git merge origin/main": MERGED,
        "git push origin HEAD:main": MERGED,
        'git commit --all --message "Own lines of the ledger"': BESIDE,
        "git merge --strategy ours origin/main": BESIDE,
        "cd other": "",
        "git branch before-the-merge": FORKED,
        "git reset --hard origin/main": FORKED,
        "dvc pull videos.dvc masks.dvc --force": FORKED,
        "lclsc intake batch-07 --workspace other": FORKED,
        "dvc fetch": TOGETHER,
        "cp backup/mlflow.db clinic/mlflow.db": TOGETHER,
        "cp -a backup/mlartifacts clinic/": TOGETHER,
        f"pg_dump {POSTGRESQL} --format custom --file backup/mlflow.dump mlflow": REGISTRY,
        f"pg_dump {POSTGRESQL} --format custom --file backup/mlflow_accounts.dump mlflow_accounts": REGISTRY,
        "cp -a /srv/mlflow/password backup/": REGISTRY,
        "cp -a /srv/mlflow/artifacts backup/": REGISTRY,
        "mkdir -p /srv/mlflow": REGISTRY,
        "cp -a backup/password /srv/mlflow/": REGISTRY,
        "deploy/mlflow-server.sh /srv/mlflow": REGISTRY,
        f"dropdb {POSTGRESQL} --force mlflow": REGISTRY,
        f"createdb {POSTGRESQL} mlflow": REGISTRY,
        f"pg_restore {POSTGRESQL} --no-owner --exit-on-error --dbname mlflow backup/mlflow.dump": REGISTRY,
        "cp -a backup/artifacts /srv/mlflow/": REGISTRY,
        "git clone ssh://git@git.example/clinic.git clinic": MACHINE,
        'git config --local lclsc.clone "$(cat ../backup/clone)"': MACHINE,
        "dvc pull": MACHINE,
        "lclsc doctor --workspace clinic --deep --repair": BYTE,
        "lclsc init clinic --upgrade": "tests/pipelines/test_upgrade.py::"
        "test_an_upgrade_adds_what_is_missing_and_keeps_values_and_comments",
    },
}
"""Page -> command -> the test that runs it, or the same with other names; nothing for a change of folder."""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_has_its_test(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    assert {line.strip() for block in blocks for line in block.splitlines() if line} == set(PAGES[page])


@pytest.mark.parametrize("place", sorted({place for page in PAGES.values() for place in page.values() if place}))
def test_the_tests_that_are_named_exist(place: str) -> None:
    file, name = place.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
