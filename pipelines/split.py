"""Which patients are trained on and which are kept unseen. Decided once; a patient never moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipelines.params import SplitParams

ORDER = ("train", "test", "validation")
"""Who gets the next patient when several splits lack equally many."""


def rarest_label(labels: Iterable[str], patients_per_label: Mapping[str, int]) -> str:
    """The class a patient counts for: the one with the fewest patients, then the first by name."""
    return min(labels, key=lambda label: (patients_per_label.get(label, 0), label))


def assign(
    known: Mapping[str, str],
    labels_of: Mapping[str, set[str]],
    wanted: Mapping[str, str],
    params: SplitParams,
    together: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """Splits of the patients in ``labels_of`` that have none yet, in the order to append them.

    known      patient_id -> split, never changed
    labels_of  patient_id -> classes, known and new patients
    wanted     patient_id -> split that the sender asked for
    together   pairs of patients whose videos are copies of one another; they come to one side
    """
    patients_per_label = Counter(label for labels in labels_of.values() for label in labels)
    stratum = {patient: rarest_label(labels, patients_per_label) for patient, labels in labels_of.items()}
    counts = Counter((stratum[patient], split) for patient, split in known.items() if patient in stratum)
    groups, added = _groups(together), dict[str, str]()
    for patient in sorted(set(labels_of) - set(known)):
        label = stratum[patient]
        group = groups.get(patient, [patient])
        said = [where[one] for where in (known, wanted, added) for one in group if one in where]
        split = said[0] if said else _neediest(counts, label, params)
        counts[label, split] += 1
        added[patient] = split
    return added


def _groups(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Everybody who hangs together over any number of pairs, sorted, under the name of each."""
    groups: dict[str, list[str]] = {}
    for one, other in pairs:
        merged = sorted({*groups.get(one, [one]), *groups.get(other, [other])})
        groups |= dict.fromkeys(merged, merged)
    return groups


def _neediest(counts: Counter[tuple[str, str]], label: str, params: SplitParams) -> str:
    """The split that lacks most against its share once the class has one patient more."""
    total = 1 + sum(counts[label, split] for split in ORDER)
    shares = {
        "train": 1.0 - params.validation - params.test,
        "test": params.test,
        "validation": params.validation,
    }
    return max(ORDER, key=lambda split: (round(shares[split] * total - counts[label, split], 9), -ORDER.index(split)))
