"""Everything that can be wrong with a clip: one stable code each, and what to do about it."""

from __future__ import annotations

from pipelines.errors import VideoError

REMEDIES = {
    "unreadable": "Export it again, or convert it to MP4.",
    "damaged": "Copy or export it again.",
    "truncated": "Copy or export it again.",
    "no_video_stream": "Send the file with the pictures.",
    "audio_only": "Send the file with the pictures.",
    "no_frames": "Export it again.",
    "too_few_frames": "Export the whole clip, not a still.",
    "size_changed": "Export it at one size.",
    "impossible_rate": "Export it again with the times at which the frames were taken.",
    "no_rate": "Write the frames per second, as a number, into `rate.txt` beside the frames.",
    "no_geometry": "Export it again with its trailer, or as MP4 or TIFF.",
    "unsupported_pixels": "Export it as grey or colour pictures of 8 or 16 bits, one channel set a frame.",
    "unsupported_codec": "Export it uncompressed, or as JPEG, JPEG 2000, H.264 or HEVC.",
    "over_pixels": "Export it smaller, or raise intake.max_pixels if the file is trusted.",
    "over_frames": "Cut the clip into shorter ones, or raise intake.max_frames.",
    "over_minutes": "Cut the clip into shorter ones, or raise intake.max_minutes.",
    "over_bytes": "Export it smaller, or raise intake.max_bytes if the file is trusted.",
    "over_decode_time": "Cut the clip into shorter ones, or raise intake.max_decode_seconds if the file is trusted.",
    "over_output": "Cut the clip into shorter ones.",
    "over_answer": "Cut the clip into shorter ones.",
    "over_memory": "Export it smaller, or raise intake.max_memory_mib if the file is trusted.",
    "decoder_crashed": "Export it again, in another format.",
    "decoder_failed": "Export it again, in another format.",
}
"""Codes are for machines and never change their meaning. Causes never quote what a file says."""


def fault(code: str, cause: str) -> VideoError:
    """The error of a clip, with the code's own remedy."""
    return VideoError(code, cause, REMEDIES[code])
