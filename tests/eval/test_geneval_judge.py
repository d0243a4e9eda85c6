"""GenEval's decision follows the official rules, one hand-made case for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eval.geneval import Detection, Metadata, Options, judge
from eval.geneval.judge import relations


def seen(
    label: str = "cube",
    score: float = 0.95,
    box: tuple[float, float, float, float] = (0, 0, 10, 10),
    color: str | None = None,
) -> Detection:
    return {"label": label, "box": box, "score": score, "color": color}


def asked(*include: dict[str, Any], tag: str = "two_object", exclude: tuple = ()) -> Metadata:
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "a prompt"}


def clause(label: str = "cube", count: int = 1, **more: object) -> dict[str, Any]:
    return {"class": label, "count": count, **more}


def right_of(target: int) -> dict[str, Any]:
    return {"position": ["right of", target]}


class TestThresholds:
    """A detection counts where its score is strictly above the threshold, in float32."""

    @pytest.mark.parametrize(("tag", "edge"), [("single_object", 0.3), ("counting", 0.9)])
    def test_the_edge_itself_is_out_and_the_next_float32_is_in(self, tag: str, edge: float) -> None:
        above = float(np.nextafter(np.float32(edge), np.float32(1)))
        assert not judge(asked(clause(), tag=tag), [seen(score=edge)]).correct
        assert judge(asked(clause(), tag=tag), [seen(score=above)]).correct

    def test_a_double_above_the_edge_that_rounds_to_it_is_out(self) -> None:
        # float32(0.3) exceeds 0.3, so a double comparison would let both of these in.
        for score in (0.3 + 1e-10, float(np.float32(0.3))):
            assert score > 0.3
            assert not judge(asked(clause()), [seen(score=score)]).correct

    def test_counting_has_its_own_threshold(self) -> None:
        detections = [seen(score=0.95), seen(score=0.5)]
        assert judge(asked(clause(count=2)), detections).correct
        assert not judge(asked(clause(count=2), tag="counting"), detections).correct

    def test_options_move_the_thresholds(self) -> None:
        assert judge(asked(clause()), [seen(score=0.2)], Options(threshold=0.1)).correct


class TestPresence:
    """Every `include` clause must hold and no `exclude` clause may be reached."""

    def test_fewer_fails_and_more_is_fine(self) -> None:
        assert not judge(asked(clause(count=3)), [seen()] * 2).correct
        assert judge(asked(clause(count=3)), [seen()] * 3).correct
        assert judge(asked(clause(count=3)), [seen()] * 4).correct

    def test_the_reason_names_every_failed_clause(self) -> None:
        verdict = judge(asked(clause("cube", 2), clause("ball")), [seen()])
        assert verdict == (False, "expected cube>=2, found 1\nexpected ball>=1, found 0")

    def test_exclude_fails_at_its_count(self) -> None:
        metadata = asked(clause(count=2), exclude=(clause(count=3),))
        assert judge(metadata, [seen()] * 2).correct
        assert judge(metadata, [seen()] * 3) == (False, "expected cube<3, found 3")

    def test_at_most_sixteen_objects_of_a_class_are_seen(self) -> None:
        detections = [seen()] * 20
        assert judge(asked(exclude=(clause(count=17),)), detections).correct
        assert not judge(asked(exclude=(clause(count=16),)), detections).correct
        assert not judge(asked(clause(count=17)), detections).correct

    def test_the_cap_holds_for_each_class_and_keeps_the_best(self) -> None:
        weak = [seen(score=0.4, color="red")] * 16
        strong = [seen(score=0.8, color="blue")] * 16
        wanted = asked(clause(count=16, color="blue"), clause("ball"))
        assert judge(wanted, [*weak, *strong, seen("ball")]).correct


class TestColors:
    """Colour is read off the best `count` objects only."""

    def test_a_weaker_object_of_the_right_color_does_not_help(self) -> None:
        detections = [seen(score=0.5, color="red"), seen(score=0.9, color="blue")]
        assert judge(asked(clause(color="blue")), detections).correct
        verdict = judge(asked(clause(color="red")), detections)
        assert verdict == (False, "expected red cube>=1, found 0 red; and 1 blue")

    def test_all_of_them_must_have_it(self) -> None:
        detections = [seen(color="red"), seen(color=None)]
        assert not judge(asked(clause(count=2, color="red")), detections).correct

    def test_on_a_tie_the_later_detection_ranks_first(self) -> None:
        tied = [seen(color="red"), seen(color="green"), seen(color="blue")]
        assert judge(asked(clause(color="blue")), tied).correct
        assert not judge(asked(clause(color="red")), tied).correct

    def test_scores_that_differ_only_beyond_float32_tie(self) -> None:
        tied = [seen(score=0.5 + 1e-12, color="red"), seen(score=0.5, color="blue")]
        assert judge(asked(clause(color="blue")), tied).correct


class TestPositions:
    """Centre differences, less a part of the sizes, over the distance of the centres."""

    @pytest.mark.parametrize(
        ("center", "expected"),
        [
            ((50, 0), ("right of",)),
            ((-50, 0), ("left of",)),
            ((0, -50), ("above",)),
            ((0, 50), ("below",)),
            ((50, 50), ("right of", "below")),
            ((-50, -50), ("left of", "above")),
            ((50, 20), ("right of",)),
            ((0, 0), ()),
            ((2, 0), ()),  # The sizes' tenth, 0.1 * (10 + 10), takes the offset up.
            ((4, 0), ()),  # (4 - 2) / 4 is not above 0.5 …
            ((4.01, 0), ("right of",)),  # … and this is.
        ],
    )
    def test_relations(self, center: tuple[float, float], expected: tuple[str, ...]) -> None:
        x, y = center
        assert relations((x - 5, y - 5, x + 5, y + 5), (-5, -5, 5, 5)) == expected

    def test_the_unrevised_distance_is_the_norm(self) -> None:
        # Offset (30, 30), revised (28, 28): each 0.66 of 42.4. With 0.5 of the sizes: (20, 20),
        # each 0.47 of 42.4, though 0.71 of the revised distance.
        a, b = (25, 25, 35, 35), (-5, -5, 5, 5)
        assert relations(a, b) == ("right of", "below")
        assert relations(a, b, position_threshold=0.5) == ()

    def test_every_pair_must_stand_in_the_relation(self) -> None:
        cubes = [seen(box=(0, 0, 10, 10)), seen(box=(100, 0, 110, 10))]
        metadata = asked(clause(count=2), clause("ball", **right_of(0)))
        assert judge(metadata, [*cubes, seen("ball", box=(200, 0, 210, 10))]).correct
        between = judge(metadata, [*cubes, seen("ball", box=(50, 0, 60, 10))])
        assert between == (False, "expected ball right of target, found left of target")

    def test_only_the_best_objects_are_placed(self) -> None:
        metadata = asked(clause(), clause("ball", **right_of(0)))
        decoy = seen("ball", score=0.4, box=(-90, 0, -80, 10))
        assert judge(metadata, [seen(), decoy, seen("ball", box=(90, 0, 99, 10))]).correct

    def test_without_the_target_there_is_no_position(self) -> None:
        verdict = judge(asked(clause(), clause("ball", **right_of(0))), [seen("ball")])
        assert verdict.reason == "expected cube>=1, found 0\nno target for ball to be right of"

    def test_position_is_skipped_where_color_failed(self) -> None:
        metadata = asked(clause(), clause("ball", color="red", **right_of(0)))
        verdict = judge(metadata, [seen(), seen("ball", color="blue")])
        assert verdict.reason == "expected red ball>=1, found 0 red; and 1 blue"

    def test_positions_chain_through_the_clause_they_name(self) -> None:
        metadata = asked(clause(), clause("ball", **right_of(0)), clause("cone", **right_of(1)))
        ball = seen("ball", box=(50, 0, 60, 10))
        assert judge(metadata, [seen(), ball, seen("cone", box=(100, 0, 110, 10))]).correct
        assert not judge(metadata, [seen(), ball, seen("cone", box=(25, 0, 35, 10))]).correct
        # A misplaced ball is no target for the cone.
        broken = judge(metadata, [seen(), seen("ball", box=(-50, 0, -40, 10)), seen("cone")])
        assert broken.reason.endswith("no target for cone to be right of")


class TestSuppression:
    """Non-maximum suppression is off by default; its areas count one pixel more a side."""

    OVERLAPPING = (seen(box=(0, 0, 9, 9)), seen(score=0.8, box=(0, 0, 9, 4)))  # IoU 50 / 100

    def test_duplicates_count_by_default(self) -> None:
        assert judge(asked(clause(count=2)), [seen(), seen()]).correct

    @pytest.mark.parametrize(("max_overlap", "survives"), [(0.5, False), (0.51, True)])
    def test_an_overlap_below_the_limit_is_kept(self, max_overlap: float, survives: bool) -> None:
        options = Options(max_overlap=max_overlap)
        assert judge(asked(clause(count=2)), self.OVERLAPPING, options).correct is survives

    def test_only_survivors_suppress(self) -> None:
        # Each box overlaps the next by more than half; the first drops the second, not the third.
        chain = [
            seen(score=0.9, box=(0, 0, 9, 9)),
            seen(score=0.8, box=(3, 0, 12, 9)),
            seen(score=0.7, box=(6, 0, 15, 9)),
        ]
        options = Options(max_overlap=0.5)
        assert judge(asked(clause(count=2)), chain, options).correct
        assert not judge(asked(clause(count=3)), chain, options).correct

    def test_the_cap_comes_before_the_suppression(self) -> None:
        crowd = [*[seen(score=0.9)] * 16, seen(score=0.5, box=(50, 50, 60, 60))]
        assert not judge(asked(clause(count=2)), crowd, Options(max_overlap=0.5)).correct
