"""The data version: the root over manifest and splits, in canonical JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import manifest
from pipelines.files import digest
from pipelines.manifest import Video

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.text(st.characters(codec="ascii"), min_size=1, max_size=8)
FIELDS = {field.name: TEXTS for field in dataclasses.fields(Video)}
VIDEOS = st.lists(st.builds(Video, **FIELDS), max_size=5, unique_by=lambda video: video.video_id)


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(VIDEOS, st.dictionaries(IDS, st.sampled_from(manifest.SPLITS), max_size=5))
def test_the_data_version_is_the_digest_of_canonical_json(videos: list[Video], splits: Mapping[str, str]) -> None:
    rows = [dataclasses.asdict(video) for video in sorted(videos, key=lambda video: video.video_id)]
    expected = digest({"videos": rows, "splits": dict(splits)})[:12]
    assert manifest.version_of(videos, dict(splits)) == expected
    assert manifest.version_of(videos[::-1], dict(splits)) == expected
