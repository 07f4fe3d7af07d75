"""Runs, models, versions and aliases in one tracking store.

Everything goes through a client with an explicit address; the
fluent active run is thread-local and never used. Registering is a list of find-or-create steps, so a
registration that was killed is finished by doing it again. Only pseudonyms, hashes and counts go in.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines import lineage, settings, versioning
from pipelines import params as parameters
from pipelines.errors import OutsideSystemError, StageError
from pipelines.files import (
    canonical_json,
    move_unless_there,
    remove,
    remove_temporaries,
    sha256_bytes,
    sha256_file,
    temporary_folder,
)
from pipelines.ledger import Entry, exclusive
from pipelines.params import flat
from pipelines.registry import database, loss
from pipelines.registry.client import Client, process_address, translated
from pipelines.workspace import Workspace

KEY = "retrain.key"
COMPLETE = "registration"
PROMOTER = "promoting_workspace"
LEDGER_HEAD = "ledger_head"
"""Number and SHA-256 of the ledger's line that was the last when an alias was decided on: outside of git's reach."""
EPOCH = "epoch"
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # MLflow's limits of one log_batch
DATASET_DIGEST_CHARACTERS = 36  # width of MLflow's column; the full hash stands in the lineage


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered model version."""

    version: str
    run_id: str
    model_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created_at_ms: int

    @property
    def complete(self) -> bool:
        """Every step of its registration was done."""
        return self.tags.get(COMPLETE) == "complete"

    @property
    def metrics(self) -> dict[str, float | None]:
        return dict(json.loads(self.tags.get("metrics", "{}")))

    def as_json(self) -> dict[str, Any]:
        derived = {"aliases": list(self.aliases), "metrics": self.metrics, "complete": self.complete}
        return asdict(self) | derived


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as it stood when it was asked for; its files lie at ``location``, a folder or an address."""

    run_id: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    location: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is registered: a sealed package and what explains it."""

    key: str
    train_key: str
    data_version: str
    package: Path
    params: Mapping[str, Any] = field(default_factory=dict)  # sections of params.yaml
    history: Sequence[Mapping[str, float | None]] = ()  # one row an epoch
    artifacts: Sequence[Path] = ()  # reports, kept with the run


def complete_version(workspace: Workspace, key: str) -> dict[str, Any] | None:
    """The finished version of this key, if there is one; makes no database to find that out."""
    if database.is_embedded(workspace) and not workspace.tracking_database.exists():
        return None
    found = _glance(workspace, key) or connect(workspace).find_version(key)
    if found is None or not found.complete or not workspace.weights.exists():
        return None
    # Other weights under the same key: registering them will say which platforms differ.
    same = found.tags["weights_sha256"] == sha256_file(workspace.weights)
    return found.as_json() if same else None


def _glance(workspace: Workspace, key: str) -> Version | None:
    if not database.is_embedded(workspace):
        return None
    name = parameters.load(workspace.params).register_.name
    found = database.glance(workspace, name, KEY, key)
    return Version(**found) if found else None


def connect(workspace: Workspace, name: str | None = None) -> Registry:
    """The workspace's registry, ready to use. ``name`` is ``register.name`` of params.yaml unless given."""
    settings.apply()  # MLflow reads its telemetry switches when it is imported
    if database.is_embedded(workspace):
        if not workspace.tracking_database.exists():
            loss.refuse(workspace, present=())
        database.ensure_database(workspace)
        database.rebase(workspace)
    from mlflow import MlflowClient

    chosen = name or parameters.load(workspace.params).register_.name
    uri = database.tracking_uri(workspace)
    return Registry(workspace=workspace, name=chosen, uri=uri, client=Client(MlflowClient(uri)))


@contextlib.contextmanager
def read_only(workspace: Workspace, name: str) -> Iterator[Registry | None]:
    """The registry for those who only look: of an embedded database a private copy. None where there is none."""
    settings.apply()
    if not database.is_embedded(workspace):
        yield connect(workspace, name)
    elif not workspace.tracking_database.exists():
        yield None
    else:
        from mlflow import MlflowClient

        with database.private_copy(workspace) as copy:
            uri = f"sqlite:///{copy}"
            try:
                with translated(database.OPENING):
                    client = Client(MlflowClient(uri))
                yield Registry(workspace=workspace, name=name, uri=uri, client=client)
            finally:
                database.let_go(uri)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """One model's runs and versions in one tracking store."""

    workspace: Workspace
    name: str
    uri: str
    client: Any

    # runs

    def experiment_id(self) -> str:
        """Of the experiment that carries the model's name; made on first use."""
        found = self.client.get_experiment_by_name(self.name)
        if found is not None:
            return str(found.experiment_id)
        location = str(self.workspace.tracking_artifacts) if database.is_embedded(self.workspace) else None
        try:
            return str(self.client.create_experiment(self.name, artifact_location=location))
        except OutsideSystemError:
            made_meanwhile = self.client.get_experiment_by_name(self.name)
            if made_meanwhile is None:
                raise
            return str(made_meanwhile.experiment_id)

    def find_run(self, key: str) -> str | None:
        found = self.client.search_runs([self.experiment_id()], filter_string=f"tags.`{KEY}` = '{key}'")
        return str(found[0].info.run_id) if found else None

    def find_or_create_run(self, key: str, name: str) -> str:
        """The run of this key; another retrain of the same inputs goes on in it."""
        with exclusive(self.workspace, "registry"):
            found = self.find_run(key)
            if found is not None:
                return found
            run = self.client.create_run(self.experiment_id(), tags={KEY: key}, run_name=name)
            return str(run.info.run_id)

    def resume_run(self, run_id: str) -> None:
        """A run that failed or was killed is at work again."""
        if self.client.get_run(run_id).info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")

    def finish_run(self, run_id: str, status: str = "FINISHED") -> None:
        """``status``: FINISHED, FAILED or KILLED. A run that has ended keeps its end."""
        if self.client.get_run(run_id).info.status == "RUNNING":
            self.client.set_terminated(run_id, status)

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Nested sections become ``section.key``. MLflow keeps the first value; a run has one set anyway."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(name, str(value)) for name, value in flat(params).items() if name not in known]
        for batch in _batches(new, PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=batch)

    def log_history(self, run_id: str, history: Sequence[Mapping[str, float | None]]) -> int:
        """Log what is missing of a table with one row an epoch; returns how many points that was."""
        from mlflow.entities import Metric

        rows = [(int(row[EPOCH] or 0), row) for row in history]
        known = self._known_steps(run_id, {name for _, row in rows for name in row})
        now = int(time.time() * 1000)
        points = [
            Metric(name, float(value), now, step)
            for step, row in rows
            for name, value in row.items()
            if name != EPOCH and value is not None and step not in known[name]
        ]
        for batch in _batches(points, METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)
        return len(points)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        """Final figures of a run; what has no value is not logged."""
        self.log_history(run_id, [{EPOCH: 0, **metrics}])

    def log_artifacts(self, run_id: str, files: Iterable[Path]) -> None:
        """Files by name; logged again they replace themselves."""
        for file in files:
            self.client.log_artifact(run_id, str(file))

    def log_dataset(self, run_id: str, *, name: str, sha256: str, context: str, source: Mapping[str, Any]) -> None:
        """A data set under our own digest: MLflow's covers a sample of rows cut to 32 bits."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = sha256[:DATASET_DIGEST_CHARACTERS]
        inputs = self.client.get_run(run_id).inputs.dataset_inputs
        if any((known.dataset.name, known.dataset.digest) == (name, short) for known in inputs):
            return
        dataset = Dataset(name, short, "dvc", canonical_json(dict(source)).decode())
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", sha256)]
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    # versions

    def versions(self) -> list[Version]:
        """Oldest first; none before the first registration."""
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name = '{self.name}'", page_token=token)
            found += page
            token = page.token
            if not token:
                break
        aliases = self._aliases()
        return sorted((_version(one, aliases) for one in found), key=lambda version: int(version.version))

    def require_kept(self) -> None:
        """OutsideSystemError where none is left of the versions that the ledger knows. Before any that writes."""
        loss.refuse(self.workspace, (version.version for version in self.versions()))

    def version(self, number: str) -> Version | None:
        return next((version for version in self.versions() if version.version == number), None)

    def find_version(self, key: str) -> Version | None:
        """The version of these inputs. A key has at most one."""
        return next((version for version in self.versions() if version.tags.get(KEY) == key), None)

    def find_version_by_weights(self, sha256: str) -> Version | None:
        """The newest version with these weights: equal weights are a new evaluation, not a new version."""
        same = [version for version in self.versions() if version.tags.get("weights_sha256") == sha256]
        return same[-1] if same else None

    def register(self, submission: Submission) -> Version:
        """Find or create the run, its model and the version. Killed at any point, the next call goes on."""
        record = lineage.verify_package(submission.package)
        version = self.find_version(submission.key)
        if version is None:
            run_id = self._register_run(submission, record)
            model_id = self._register_model(submission, record, run_id)
            version = self._register_version(submission, record, run_id, model_id)
        refuse_other_weights(version, record)
        self.finish_run(version.run_id)
        return version

    def complete(self, version: str) -> None:
        """The last step: everything about this version is done."""
        self.client.set_model_version_tag(self.name, version, COMPLETE, "complete")

    def set_version_tag(self, version: str, name: str, value: str) -> None:
        self.client.set_model_version_tag(self.name, version, name, value)

    def download(self, version: Version) -> Path:
        """The version's package in a folder of this workspace, checked against its lineage.

        A copy that was damaged here is fetched again: only the store's own can be lost.
        """
        folder = self.workspace.state / "packages" / version.tags["lineage_sha256"][:16]
        if folder.exists():
            with contextlib.suppress(Exception):  # whatever is wrong with it
                _require_record(lineage.verify_package(folder), version)
                return folder
            remove(folder)
        with exclusive(self.workspace, "packages"):  # who comes second waits, and finds it there
            if not folder.exists():
                remove_temporaries(folder.parent)
                self._fetch(version, folder)
        _require_record(lineage.verify_package(folder), version)
        return folder

    @contextlib.contextmanager
    def package(self, version: Version) -> Iterator[Path]:
        """The version's package as it lies in the artifact store, unchecked: what an audit looks at."""
        location = str(self.client.get_logged_model(version.model_id).artifact_location)
        here = _folder(location)
        if here is not None:
            yield here
            return
        with tempfile.TemporaryDirectory(prefix="lclsc-package-") as name:
            folder = Path(name) / "package"
            self._fetch(version, folder)
            yield folder

    def model_tags(self, version: Version) -> dict[str, str]:
        """Tags of the logged model behind a version."""
        return dict(self.client.get_logged_model(version.model_id).tags)

    def run(self, run_id: str) -> Run:
        """What MLflow says of a run, in one question."""
        found = self.client.get_run(run_id)
        data = found.data
        return Run(
            run_id=run_id,
            tags=dict(data.tags),
            params=dict(data.params),
            metrics=dict(data.metrics),
            location=str(found.info.artifact_uri),
        )

    def run_artifact(self, run_id: str, name: str) -> bytes | None:
        """The bytes of one file kept with a run; None where it has none."""
        return self.artifact(self.run(run_id), name)

    def artifact(self, run: Run, name: str) -> bytes | None:
        """The same, of a run that was asked for already."""
        here = _folder(run.location)
        if here is not None:
            path = here / name
            return path.read_bytes() if path.is_file() else None
        run_id = run.run_id
        if name not in {entry.path for entry in self.client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory(prefix="lclsc-artifact-") as folder:
            return Path(self.client.download_artifacts(run_id, name, folder)).read_bytes()

    def delete_artifact(self, run_id: str, name: str) -> None:
        """One file kept with a run; nothing happens where it has none."""
        if self.run_artifact(run_id, name) is None:
            return
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(self.client.get_run(run_id).info.artifact_uri).delete_artifacts(name)

    def aliases(self) -> dict[str, str]:
        """alias -> version number, of this model."""
        return self._aliases()

    # aliases

    def alias_version(self, alias: str) -> Version | None:
        number = self._aliases().get(alias)
        return None if number is None else self.version(number)

    def set_alias(self, alias: str, version: str) -> None:
        self.require_promoter()
        self.client.set_registered_model_alias(self.name, alias, version)

    def delete_alias(self, alias: str) -> None:
        """Nothing happens where it is not set."""
        self.require_promoter()
        if alias in self._aliases():
            self.client.delete_registered_model_alias(self.name, alias)

    # steps

    def _register_run(self, submission: Submission, record: Mapping[str, Any]) -> str:
        run_id = self.find_or_create_run(submission.key, f"retrain {submission.data_version}")
        commit = {"mlflow.source.git.commit": record["git_commit"]}
        self.set_run_tags(run_id, _tags(submission, record) | commit)
        self.log_params(run_id, submission.params)
        self.log_history(run_id, submission.history)
        self.log_metrics(run_id, record["metrics"])
        for split, entry in record["data"]["splits"].items():
            source = {"commit": record["git_commit"], "split": split, "videos": entry["videos"]}
            self.log_dataset(run_id, name=split, sha256=entry["sha256"], context=split, source=source)
        self.log_artifacts(run_id, [submission.package / lineage.FILE, *submission.artifacts])
        return run_id

    def _register_model(self, submission: Submission, record: Mapping[str, Any], run_id: str) -> str:
        """The logged model: the package's bytes in the artifact store; ready once all of them are there."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        model = self._find_model(submission.key, lineage.sha256(record)) or self.client.create_logged_model(
            self.experiment_id(), self.name, source_run_id=run_id, tags=_tags(submission, record)
        )
        if model.status != LoggedModelStatus.READY:
            self.client.log_model_artifacts(model.model_id, str(submission.package))
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        outputs = self.client.get_run(run_id).outputs
        if not any(known.model_id == model.model_id for known in (outputs.model_outputs if outputs else [])):
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        return str(model.model_id)

    def _register_version(
        self, submission: Submission, record: Mapping[str, Any], run_id: str, model_id: str
    ) -> Version:
        with exclusive(self.workspace, "registry"):
            existing = self.find_version(submission.key)
            if existing is not None:
                return existing
            self._ensure_model()
            with process_address(self.uri):
                made = self.client.create_model_version(
                    self.name,
                    f"models:/{model_id}",
                    run_id=run_id,
                    model_id=model_id,
                    tags=_tags(submission, record),
                )
        return _version(made, {})

    def _find_model(self, key: str, lineage_sha256: str) -> Any:
        """By key and record: a model of an earlier commit's attempt must not pass for this one."""
        wanted = f"tags.`{KEY}` = '{key}' AND tags.lineage_sha256 = '{lineage_sha256}'"
        found = self.client.search_logged_models([self.experiment_id()], filter_string=wanted)
        return found[0] if found else None

    def _ensure_model(self) -> None:
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name, tags={PROMOTER: versioning.clone_id(self.workspace)})

    def _known_steps(self, run_id: str, names: set[str]) -> dict[str, set[int]]:
        present = self.client.get_run(run_id).data.metrics
        logged = {name: self.client.get_metric_history(run_id, name) for name in names if name in present}
        return {name: {point.step for point in logged.get(name, [])} for name in names}

    def _aliases(self) -> dict[str, str]:
        """alias -> version. Found versions do not always carry theirs."""
        models = self.client.search_registered_models(f"name = '{self.name}'")
        if not models:
            return {}
        return {alias: str(number) for alias, number in self.client.get_registered_model(self.name).aliases.items()}

    def marks(self) -> dict[str, str]:
        """Tags of the model itself: who moves its aliases, how far the ledger was. None before the first version."""
        models = self.client.search_registered_models(f"name = '{self.name}'")
        return dict(models[0].tags) if models else {}

    def mark_ledger(self, last: Entry) -> None:
        self.client.set_registered_model_tag(self.name, LEDGER_HEAD, f"{last.seq} {sha256_bytes(last.line())}")

    def is_promoter(self) -> bool:
        """May this workspace move aliases? One does, and its ledger says when."""
        promoter = self._promoter()
        return promoter is None or promoter == versioning.clone_id(self.workspace)

    def require_promoter(self) -> None:
        """Aliases have no compare-and-set and no history: one workspace moves them, its ledger says when."""
        if not self.is_promoter():
            raise StageError(
                "not_promoting",
                f"Aliases of {self.name} are moved by another workspace ({str(self._promoter())[:8]}).",
                f"Work there, or hand over with the model's tag {PROMOTER}; a workspace that has no versions yet may "
                "set register.name to another name.",
            )

    def _promoter(self) -> str | None:
        """Who moves aliases; None before the first version. A model of somebody else has another's name, or ''."""
        models = self.client.search_registered_models(f"name = '{self.name}'")
        return str(models[0].tags.get(PROMOTER, "")) if models else None

    def _fetch(self, version: Version, folder: Path) -> None:
        from mlflow.artifacts import download_artifacts

        folder.parent.mkdir(parents=True, exist_ok=True)
        source = f"models:/{version.model_id}"
        with temporary_folder(folder.parent) as place:
            draft = place / "package"
            draft.mkdir()
            with process_address(self.uri), translated("download_artifacts"):
                download_artifacts(artifact_uri=source, dst_path=str(draft), tracking_uri=self.uri)
            move_unless_there(draft, folder)


def refuse_other_weights(existing: Version, record: Mapping[str, Any]) -> None:
    """Same inputs must give the same weights; where they do not, the platforms differ, and neither wins."""
    if existing.tags["weights_sha256"] == record["weights_sha256"]:
        return
    before, now = existing.tags.get("platform", "an unknown platform"), lineage.platform_name(record)
    raise StageError(
        "other_weights",
        f"Version {existing.version} has the same inputs and other weights. It was trained on {before};"
        f" this one on {now}.",
        "Retrain on the first platform, or change train.seed to register a model of this one.",
    )


def _tags(submission: Submission, record: Mapping[str, Any]) -> dict[str, str]:
    return {
        KEY: submission.key,
        "train.key": submission.train_key,
        "data_version": submission.data_version,
        "git_commit": record["git_commit"],
        "weights_sha256": record["weights_sha256"],
        "package_sha256": record["package_sha256"],
        "lineage_sha256": lineage.sha256(record),
        "platform": lineage.platform_name(record),
        "metrics": canonical_json(dict(record["metrics"])).decode(),
    }


def _version(found: Any, aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    return Version(
        version=number,
        run_id=str(found.run_id),
        model_id=str(found.source).removeprefix("models:/"),
        tags=dict(found.tags),
        aliases=tuple(sorted(alias for alias, of in aliases.items() if of == number)),
        created_at_ms=int(found.creation_timestamp),
    )


def _require_record(record: Mapping[str, Any], version: Version) -> None:
    if lineage.sha256(record) != version.tags["lineage_sha256"]:
        raise StageError(
            "package_exchanged",
            f"The package of version {version.version} carries another lineage than the registry names.",
            "Restore the artifact store from a backup; do not use this version.",
        )


def _folder(location: str) -> Path | None:
    """Where artifacts lie as files; None behind a server (``mlflow-artifacts:/``) or in a bucket."""
    return None if urllib.parse.urlsplit(location).scheme else Path(location)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
