"""Quality of rationales, judged by machine against what a source knows.

A box hits if it overlaps a real object by at least half (intersection over
union). An exact rationale equals the source's own, word for word.
"""

import dataclasses
from typing import Any

from data_gen.records import Question
from vpd_jax.evaluators import scoring

MIN_IOU = 0.5


@dataclasses.dataclass
class Quality:
  """Counts over the rationales of one writer; feed it with `add`."""

  rationales: int = 0
  boxes: int = 0
  boxes_hit: int = 0
  with_boxes: int = 0
  all_hit: int = 0
  with_reference: int = 0
  exact: int = 0
  with_direct: int = 0
  agrees: int = 0

  def add(
    self, question: Question, text: str, answer: str | None, direct: str | None
  ) -> None:
    """Judges one rationale.

    Args:
      question: with the source's objects and reference, as far as it has any.
      text: the rationale, with its answer.
      answer: the answer at its end; None if there is none.
      direct: the same writer's direct answer; None if it gives none.
    """
    self.rationales += 1
    if question.objects:
      hits = [hits_object(b, question.objects) for b in scoring.boxes_in(text)]
      self.boxes += len(hits)
      self.boxes_hit += sum(hits)
      if hits:
        self.with_boxes += 1
        self.all_hit += all(hits)
    if question.reference_rationale:
      self.with_reference += 1
      self.exact += text.strip() == question.reference_rationale.strip()
    if direct is not None:
      self.with_direct += 1
      self.agrees += scoring.exact_match(answer or "", [direct])


def hits_object(box: scoring.Box, objects: tuple[scoring.Box, ...]) -> bool:
  """Whether a box overlaps one of the objects by at least MIN_IOU."""
  return any(scoring.box_iou(box, other) >= MIN_IOU for other in objects)


def to_dict(quality: Quality) -> dict[str, Any]:
  """Shares with what they are shares of; None where there is nothing."""

  def share(part, whole):
    return part / whole if whole else None

  return {
    "rationales": quality.rationales,
    "boxes": quality.boxes,
    "box_hit_rate": share(quality.boxes_hit, quality.boxes),
    "all_boxes_hit_rate": share(quality.all_hit, quality.with_boxes),
    "exact_rate": share(quality.exact, quality.with_reference),
    "agrees_with_direct_rate": share(quality.agrees, quality.with_direct),
  }
