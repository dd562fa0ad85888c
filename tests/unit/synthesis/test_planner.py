"""Plans against pixels: what a plan says of an image is what rendering it shows, whatever bank and options."""

from typing import Any

import drawn_bank as drawn
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depers.datasets import sprite_bank
from depers.datasets.sprite_bank import sprite_id
from depers.imaging import ycbcr
from depers.synthesis import compositing, plan_table
from depers.synthesis.assets import Assets, background_number, make_assets, sprite_weights, to_sprite
from depers.synthesis.instances import Place, place_at
from depers.synthesis.occlusion import Box, visible
from depers.synthesis.placement import PlacementRules, accept
from depers.synthesis.planner import PLACEMENTS, Recipe, plan_block

RULES = PlacementRules(scale_jitter=0.2, max_overlap=0.4, min_visible=0.5)
RECIPE = Recipe(3, 1, 4, None, 0.3, "scene", plan_table.BLENDINGS, True, 90, RULES)
CORNERS = ("x_min", "y_min", "x_max", "y_max")


def assets(
    sprites: list[dict[str, Any]], backgrounds: list[dict[str, Any]], parts: int = 3, balance: float = 0.5
) -> Assets:
    names = [f"sprites/{number:03d}.parquet" for number in range(parts)]
    schema = pa.schema([sprite_bank.SPRITES.field(name) for name in sprite_bank.METADATA]).append(
        pa.field("part", pa.string())
    )
    rows = [{**row, "part": names[number * parts // len(sprites)]} for number, row in enumerate(sprites)]
    images = pa.Table.from_pylist(drawn.with_scenes(sprites, backgrounds), schema=sprite_bank.BACKGROUNDS)
    return make_assets(images, pa.Table.from_pylist(rows, schema=schema), balance)


def usual() -> Assets:
    return assets(drawn.some_sprites(), [drawn.background(number) for number in range(5)])


boxes = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


@given(boxes, st.lists(boxes, max_size=5))
def test_visible_is_what_pixels_say(box: Box, covers: list[Box]) -> None:
    canvas = np.zeros((40, 40), np.bool_)
    x0, y0, x1, y1 = map(int, box)
    canvas[y0:y1, x0:x1] = True
    for cover in covers:
        a, b, c, d = map(int, cover)
        canvas[b:d, a:c] = False
    visible_box, share = visible(box, covers)
    assert share == pytest.approx(canvas.sum() / ((x1 - x0) * (y1 - y0)))
    if canvas.any():
        columns, rows = np.flatnonzero(canvas.any(0)), np.flatnonzero(canvas.any(1))
        assert visible_box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@st.composite
def banks(draw: st.DrawFn) -> Assets:
    """Sprites of all kinds, also larger than the images, cut by their frames, without a margin."""
    rows = []
    for number in range(draw(st.integers(1, 6))):
        class_id = draw(st.sampled_from([0, 1, 3]))
        size = draw(st.integers(20, 260)), draw(st.integers(20, 260))
        margin = draw(st.integers(0, 20))
        corner = draw(st.integers(margin, 200)), draw(st.integers(margin, 200))
        row = drawn.sprite(number, class_id, size, margin=margin, corner=corner, source_wh=(400, 300))
        edge = draw(st.sampled_from(["none", "left", "bottom"]))
        if edge != "none":  # no margin on that side
            axis, extent = ("x", 0) if edge == "left" else ("y", 1)
            for label_row in row["labels"]:
                label_row[f"{axis}_min"] -= margin * (edge == "left")
                label_row[f"{axis}_max"] -= margin * (edge == "left")
            row["width" if extent == 0 else "height"] -= margin
            row["source_x" if extent == 0 else "source_y"] = 0 if edge == "left" else 300 - size[1] - margin
            row["truncated"] = True
        rows.append({**row, "size_wh": size})
    size = draw(st.integers(60, 240)), draw(st.integers(60, 240))
    real: list[dict[str, Any]] = []
    scene: list[dict[str, Any]] = []
    if draw(st.booleans()):  # an object that is still there, as wide as it is high or as those of the bank
        x, y = draw(st.integers(0, 20)), draw(st.integers(0, 20))
        wide, high = draw(st.sampled_from([(25, 20), rows[0]["size_wh"]]))
        box = (float(x), float(y), float(min(x + wide, size[0])), float(min(y + high, size[1])))
        real, scene = [drawn.label(rows[0]["class_id"], box)], [drawn.seen(rows[0]["class_id"], box)]
    objects = draw(st.integers(0, 7))
    grounds = [
        drawn.background(n, size, labels=real if n else [], objects=objects, scene=scene if n else []) for n in range(3)
    ]
    return assets(rows, grounds, parts=1)


recipes = st.builds(
    lambda seed, placement, overlap, least, blendings: RECIPE._replace(
        seed=seed, placement=placement, blendings=tuple(blendings), rules=PlacementRules(0.3, overlap, least)
    ),
    st.integers(0, 99),
    st.sampled_from(PLACEMENTS),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.lists(st.sampled_from(plan_table.BLENDINGS), min_size=1, unique=True),
)


def shown(
    row: dict[str, Any], sizes: dict[str, dict[str, Any]], number: int, part: dict[str, Any], soft: bool
) -> NDArray[np.float64]:
    """The share, 0…1, that one labelled part of object `number` has in each pixel of the image.

    A seam counts as its edge, where what is in front gives half, unless `soft`.
    """
    images = []
    for index, entry in enumerate(row["objects"]):
        bank_row = sizes.get(entry["sprite"])
        size = (bank_row["height"], bank_row["width"]) if bank_row else (row["height"], row["width"])
        images.append(np.zeros((*size, 3), np.uint8))
        if index == number:
            x0, y0, x1, y1 = (round(part[name]) for name in CORNERS)
            images[-1][y0:y1, x0:x1] = 255
    reduced = [
        compositing.reduce(ycbcr.from_rgb(image), compositing.reduction(entry))
        for image, entry in zip(images, row["objects"], strict=True)
    ]
    # Colors must not be matched here, and cloning keeps gradients, not values.
    plain = {"match": 0.0, "red": 0.0, "green": 0.0, "blue": 0.0}
    hard = {"blending": "hard", "reach": 0.0}
    objects = [o | plain | ({} if soft and o["blending"] != "poisson" else hard) for o in row["objects"]]
    ground = ycbcr.from_rgb(np.zeros((row["height"], row["width"], 3), np.uint8))
    return np.asarray(compositing.compose(objects, ground, reduced).luma / 255)


def shown_of_background(
    row: dict[str, Any], sprites: dict[str, dict[str, Any]], mask: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """The pixels of a mask over the background that everything pasted leaves to be seen, by its hard edges."""
    sizes = [sprites.get(o["sprite"], {"height": row["height"], "width": row["width"]}) for o in row["objects"]]
    images = [np.zeros((size["height"], size["width"], 3), np.uint8) for size in sizes]
    reduced = [
        compositing.reduce(ycbcr.from_rgb(image), compositing.reduction(entry))
        for image, entry in zip(images, row["objects"], strict=True)
    ]
    hard = {"match": 0.0, "red": 0.0, "green": 0.0, "blue": 0.0, "blending": "hard", "reach": 0.0}
    objects = [o | hard for o in row["objects"]]
    ground = ycbcr.from_rgb(np.repeat(mask[:, :, None], 3, axis=2))
    return np.asarray(compositing.compose(objects, ground, reduced).luma > 127)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(banks(), recipes)
def test_labels_are_where_the_pixels_are(bank: Assets, recipe: Recipe) -> None:
    sprites = {row["id"]: row for row in bank.sprites.to_pylist()}
    for row in plan_block(bank, recipe, 0, 3).to_pylist():
        for label in row["labels"]:  # nothing outside the image
            assert 0 <= label["x_min"] < label["x_max"] <= row["width"]
            assert 0 <= label["y_min"] < label["y_max"] <= row["height"]
        kept = [label for label in row["labels"] if label["object"] < 0]
        background = next(b for b in bank.backgrounds.to_pylist() if b["path"] == row["background"])
        real = [{k: v for k, v in label.items() if k != "object"} for label in kept]
        if recipe.placement == "exchange":  # what is gone has no pixel left
            for label in [one for one in background["labels"] if one not in real]:
                mask = np.zeros((row["height"], row["width"]), np.uint8)
                x0, y0, x1, y1 = (round(label[name]) for name in CORNERS)
                mask[y0:y1, x0:x1] = 255
                assert not shown_of_background(row, sprites, mask).any()
        else:
            assert real == background["labels"]
        for number, entry in enumerate(row["objects"]):
            object_labels = [label for label in row["labels"] if label["object"] == number]
            if entry["sprite"] is None:
                assert not object_labels
                continue
            parts = sprites[entry["sprite"]]["labels"]
            assert object_labels and object_labels[0]["class_id"] == parts[0]["class_id"]  # the outer one is never lost
            for part in parts:
                mask = shown(row, sprites, number, part, soft=False) > 0.5
                label = next(
                    (label_row for label_row in object_labels if label_row["class_id"] == part["class_id"]), None
                )
                if label is None:  # no pixels without label
                    assert not mask.any() and shown(row, sprites, number, part, soft=True).max() < 0.5
                    continue
                columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
                box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1  # no label without pixels
                np.testing.assert_allclose(box, [label[name] for name in CORNERS], atol=1)


@settings(max_examples=20, deadline=None)
@given(banks(), recipes)
def test_nothing_covers_what_was_labelled_before(bank: Assets, recipe: Recipe) -> None:
    for row in plan_block(bank, recipe, 0, 3).to_pylist():
        for label in (label for label in row["labels"] if label["object"] < 0):
            for entry in row["objects"]:
                apart = entry["x_min"] >= label["x_max"] or entry["x_max"] <= label["x_min"]
                assert apart or entry["y_min"] >= label["y_max"] or entry["y_max"] <= label["y_min"]
        for entry in row["objects"]:
            if entry["sprite"] is None:  # a distractor shows nothing labelled
                donor = next(b for b in bank.backgrounds.to_pylist() if b["path"] == entry["image"])
                x0, y0 = entry["source_x"], entry["source_y"]
                assert x0 >= 0 and x0 + entry["source_width"] <= donor["width"]
                assert y0 >= 0 and y0 + entry["source_height"] <= donor["height"]
                for label in donor["labels"]:
                    assert x0 >= label["x_max"] or y0 >= label["y_max"] or x0 + entry["source_width"] <= label["x_min"]


def test_image_does_not_depend_on_how_many_there_are() -> None:
    bank = usual()
    few, many = plan_block(bank, RECIPE, 1, 70).to_pylist(), plan_block(bank, RECIPE, 1, 100_000).to_pylist()
    assert len(few) == 6 and few == many[:6]
    assert few != plan_block(bank, RECIPE._replace(seed=4), 1, 70).to_pylist()
    assert few == plan_block(usual(), RECIPE, 1, 70).to_pylist()


def test_variants_differ_in_their_seams_only() -> None:
    rows = plan_block(usual(), RECIPE._replace(variants=3), 0, 8).to_pylist()
    assert [(row["index"], row["variant"]) for row in rows[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    seams = ("blending", "shape", "reach", "match", "red", "green", "blue", *CORNERS)

    def rest(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in entry.items() if k not in seams} for entry in row["objects"]]

    assert rest(rows[0]) == rest(rows[1]) == rest(rows[2])
    blendings = [[entry["blending"] for row in rows[v::3] for entry in row["objects"]] for v in range(3)]
    assert blendings[0] != blendings[1]
    assert set(blendings[0]) == set(plan_table.BLENDINGS)
    assert rows[0::3] == [row | {"variant": 0} for row in plan_block(usual(), RECIPE, 0, 8).to_pylist()]


def test_many_objects_in_an_image_each_with_labels_of_its_class() -> None:
    bank = usual()
    sprites = {row["id"]: row for row in bank.sprites.to_pylist()}
    rows = plan_block(bank, RECIPE._replace(objects=6, distractors=0.0), 0, 40).to_pylist()
    counts = [len(row["objects"]) for row in rows]
    assert max(counts) == 6 and np.mean(counts) > 5.5
    assert {row["wanted"] for row in rows} == {6}
    for row in rows:
        outer: dict[int, int] = {}
        for label in row["labels"]:
            outer.setdefault(label["object"], label["class_id"])
        for number, entry in enumerate(row["objects"]):
            assert outer[number] == sprites[entry["sprite"]]["class_id"]
    assert len({label["class_id"] for row in rows for label in row["labels"]}) == 5


def test_scenes_are_as_full_as_real_ones() -> None:
    grounds = [drawn.background(number, objects=(0, 1, 5)[number % 3]) for number in range(6)]
    rows = [
        row
        for block in range(3)
        for row in plan_block(assets(drawn.some_sprites(), grounds), RECIPE, block, 999).to_pylist()
    ]
    shares = np.bincount([row["wanted"] for row in rows], minlength=6) / len(rows)
    np.testing.assert_allclose(shares[[0, 1, 5]], 1 / 3, atol=0.1)
    assert shares[[2, 3, 4]].sum() == 0


def heights(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([label["y_max"] - label["y_min"] for row in rows for label in row["labels"]])


@pytest.mark.parametrize(("sprite_heights", "share"), [((24, 40), 0.3), ((10, 60), 0.7), ((8, 60), 1.0)])
def test_things_are_as_large_as_all_labels_say(sprite_heights: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    real = np.exp(rng.normal(np.log(16), 0.6, 400)).clip(4, 60)
    low, high = sprite_heights
    large = np.sort(real[(real >= low) & (real <= high)])[:: max(1, round(1 / share))]
    sprites = [drawn.sprite(n, 1, (round(h * 0.8), round(h)), source="0.jpg") for n, h in enumerate(large)]
    ground = drawn.background(
        0, (640, 480), objects=4, scene=[drawn.seen(1, (300 - h, 200, 300, 200 + h)) for h in real]
    )
    bank = assets(sprites, [ground])
    rows = [row for n in range(4) for row in plan_block(bank, RECIPE._replace(distractors=0.0), n, 999).to_pylist()]
    result, targets = heights(rows), np.concatenate([real, large])
    for quantile, close in ((0.25, 0.2), (0.5, 0.15), (0.75, 0.2)):
        assert np.quantile(result, quantile) == pytest.approx(np.quantile(targets, quantile), rel=close)


def test_only_what_is_high_becomes_an_oval() -> None:
    for size, is_high in (((40, 20), False), ((20, 40), True)):
        rows = plan_block(assets([drawn.sprite(0, 1, size)], [drawn.background(0)], parts=1), RECIPE, 0, 64)
        shapes = [entry["shape"] for row in rows.to_pylist() for entry in row["objects"] if entry["sprite"]]
        assert ("oval" in shapes) == is_high and "rounded" in shapes


def test_large_sprites_are_scaled_not_dropped() -> None:
    huge = [drawn.sprite(number, 0, (900, 500), source_wh=(1920, 1080)) for number in range(3)]
    for placement in ("scene", "uniform"):
        recipe = RECIPE._replace(objects=1, distractors=0.0, placement=placement)
        rows = plan_block(assets(huge, [drawn.background(0)]), recipe, 0, 30).to_pylist()
        assert all(len(row["objects"]) == 1 for row in rows)
        assert all(entry["width"] <= 340 for row in rows for entry in row["objects"])


def test_large_sprites_are_left_out_where_a_label_would_vanish() -> None:
    huge = drawn.sprite(0, 0, (900, 500), source_wh=(1920, 1080), parts=[(4, (0.5, 0.5, 0.51, 0.51))])
    rows = plan_block(assets([huge], [drawn.background(0)], parts=1), RECIPE._replace(objects=1), 0, 9).to_pylist()
    assert all(row["wanted"] == 1 and not row["labels"] for row in rows)


def test_crowded_things_are_left_out_and_counted() -> None:
    rows = plan_block(
        usual(), RECIPE._replace(objects=60, distractors=0.0, rules=PlacementRules(0.0, 0.0, 0.9)), 0, 3
    ).to_pylist()
    assert all(row["wanted"] == 60 and 5 < len(row["objects"]) < 60 for row in rows)


def test_things_stand_where_their_class_does() -> None:
    sprites = [drawn.sprite(n, 0, (40, 20), corner=(30 + n, 180)) for n in range(10)]
    sprites += [drawn.sprite(10 + n, 1, (20, 20), corner=(250 - n, 20)) for n in range(10)]
    bank = assets(sprites, [drawn.background(number + 50) for number in range(4)])
    rows = plan_block(bank, RECIPE._replace(objects=4, distractors=0.0), 0, 64).to_pylist()
    feet = {c: [b["y_max"] for row in rows for b in row["labels"] if b["class_id"] == c] for c in (0, 1)}
    assert np.mean(feet[0]) > 180 and np.mean(feet[1]) < 60
    anywhere = plan_block(bank, RECIPE._replace(objects=4, distractors=0.0, placement="uniform"), 0, 64).to_pylist()
    feet = {c: [b["y_max"] for row in anywhere for b in row["labels"] if b["class_id"] == c] for c in (0, 1)}
    assert abs(np.mean(feet[0]) - np.mean(feet[1])) < 25


@pytest.mark.parametrize("kept", [True, False], ids=["still there", "removed"])
def test_things_are_exchanged_for_others_of_their_kind(kept: bool) -> None:
    sprites = [drawn.sprite(n, 0, (40, 20)) for n in range(6)]
    car, face, truck = (100.0, 150.0, 138.0, 170.0), (20.0, 20.0, 30.0, 30.0), (200.0, 100.0, 220.0, 200.0)
    scene = [drawn.seen(0, car), drawn.seen(2, face), drawn.seen(0, truck)]  # no sprite is a face, or as high
    labels = [{k: v for k, v in one.items() if k not in ("outer", "truncated")} for one in scene] if kept else []
    grounds = [drawn.background(n + 50, scene=scene, labels=labels) for n in range(2)]
    bank = assets(sprites, grounds)
    recipe = RECIPE._replace(distractors=0.0, placement="exchange")
    rows = plan_block(bank, recipe, 0, 30).to_pylist()
    assert len({row["objects"][0]["sprite"] for row in rows}) > 3
    for row in rows:
        assert row["wanted"] == 3 and len(row["objects"]) == 1 and row["objects"][0]["shape"] == "box"
        x0, y0, x1, y1 = (next(one for one in row["labels"] if one["object"] == 0)[name] for name in CORNERS)
        assert x0 <= car[0] and y0 <= car[1] and x1 >= car[2] and y1 >= car[3]
        assert (x1 - x0) * (y1 - y0) < 1.8 * 38 * 20
        left = [tuple(one[name] for name in CORNERS) for one in row["labels"] if one["object"] < 0]
        assert left == ([face, truck] if kept else [])
    single_rows = plan_block(bank, recipe._replace(objects=1), 0, 60).to_pylist()
    assert {len(row["objects"]) for row in single_rows} == {0, 1} and all(row["wanted"] == 1 for row in single_rows)


def test_nothing_is_exchanged_for_itself() -> None:
    box = (40.0, 60.0, 80.0, 80.0)
    one = drawn.sprite(0, 0, (40, 20), source="a.jpg", id=sprite_id("a.jpg", 0, box))
    grounds = [drawn.background(n, source=source) for n, source in enumerate(("a.jpg", "b.jpg"))]
    grounds[1]["scene"] = [drawn.seen(0, box)]
    rows = plan_block(assets([one], grounds, parts=1), RECIPE._replace(distractors=0.0, placement="exchange"), 0, 16)
    assert {(row["background"], len(row["objects"])) for row in rows.to_pylist()} == {
        ("backgrounds/000.jpg", 0),
        ("backgrounds/001.jpg", 1),
    }


@pytest.mark.parametrize("size_wh", [(8, 8), (12, 40), (60, 15), (200, 150)])
def test_what_is_exchanged_is_hardly_larger(size_wh: tuple[int, int]) -> None:
    wide, high = size_wh
    sprites = [drawn.sprite(n, 1, (wide * (8 + n) // 8, high * (10 - n) // 8)) for n in range(5)]
    box = (50.0, 40.0, 50.0 + wide, 40.0 + high)
    grounds = [drawn.background(n + 50, scene=[drawn.seen(1, box)]) for n in range(2)]
    rows = plan_block(
        assets(sprites, grounds), RECIPE._replace(distractors=0.0, placement="exchange"), 0, 40
    ).to_pylist()
    areas = [(b["x_max"] - b["x_min"]) * (b["y_max"] - b["y_min"]) for row in rows for b in row["labels"]]
    assert len(areas) > 30 and max(areas) < 1.65 * wide * high


def test_nothing_is_exchanged_where_a_neighbor_would_be_hidden_in_part() -> None:
    car, plate = (100.0, 150.0, 140.0, 170.0), (136.0, 160.0, 150.0, 166.0)
    scene = [drawn.seen(0, car), drawn.seen(4, plate)]
    labels = [drawn.label(0, car), drawn.label(4, plate)]
    bank = assets([drawn.sprite(0, 0, (40, 20))], [drawn.background(50, scene=scene, labels=labels)], parts=1)
    rows = plan_block(bank, RECIPE._replace(distractors=0.0, placement="exchange"), 0, 20).to_pylist()
    assert all(not row["objects"] and len(row["labels"]) == 2 for row in rows)


def test_cut_sprites_stay_at_their_edge() -> None:
    cut = drawn.sprite(0, 0, (60, 30), margin=0, corner=(0, 100), truncated=True)
    rows = plan_block(assets([cut], [drawn.background(0)], parts=1), RECIPE._replace(objects=1, distractors=0.0), 0, 20)
    assert {label["x_min"] for row in rows.to_pylist() for label in row["labels"] if label["class_id"] == 0} == {0.0}


@pytest.mark.parametrize("labels", [[], [drawn.label(0, (5.0, 5.0, 30.0, 25.0))]])
def test_columns_are_those_of_rows(labels: list[dict[str, Any]]) -> None:
    bank = assets(drawn.some_sprites(), [drawn.background(n, labels=labels) for n in range(3)])
    table = plan_block(bank, RECIPE, 0, 9)
    rows = table.to_pylist()
    assert {bool(row["objects"]) for row in rows} == {True}
    rows[3]["objects"], rows[3]["labels"] = [], []
    result = plan_table.to_table(rows)
    result.validate(full=True)
    assert result.equals(pa.Table.from_pylist(rows, schema=plan_table.SCHEMA))


def test_what_is_not_labelled_is_an_ignore_region() -> None:
    """Of a background all of it, of a sprite or a distractor where it lies, if the background is labelled for more."""
    sprites = [row | {"unlabelled": [4] if number % 2 else []} for number, row in enumerate(drawn.some_sprites())]
    partial = {row["id"] for row in sprites if row["unlabelled"]}
    backgrounds = [drawn.background(number, unlabelled=[[], [0, 1], [1, 4]][number % 3]) for number in range(3)]
    unlabelled = {row["path"]: row["unlabelled"] for row in backgrounds}
    rows = plan_block(assets(sprites, backgrounds), RECIPE._replace(distractors=1.0), 0, 24).to_pylist()
    pasted = 0
    for row in rows:
        own = unlabelled[row["background"]]
        whole = (0.0, 0.0, *drawn.SCENE_WH)
        regions = [(label["class_id"], tuple(label[name] for name in CORNERS)) for label in row["ignored"]]
        assert regions[: len(own)] == [(class_id, whole) for class_id in own]
        expected = []
        for entry in row["objects"]:
            missing = ([4] if entry["sprite"] in partial else []) if entry["sprite"] else unlabelled[entry["image"]]
            for class_id in sorted(set(missing) - set(own)):
                edges = [
                    min(max(entry[name], 0.0), side) for name, side in zip(CORNERS, drawn.SCENE_WH * 2, strict=True)
                ]
                expected.append((class_id, edges))
        assert [class_id for class_id, _ in regions[len(own) :]] == [class_id for class_id, _ in expected]
        for (_, region), (_, edges) in zip(regions[len(own) :], expected, strict=True):
            assert (np.array(region[:2]) <= np.array(edges[:2]) + 1e-3).all()
            assert (np.array(region[2:]) >= np.array(edges[2:]) - 1e-3).all()
        pasted += len(expected)
    assert pasted > 10
    assert not any(row["ignored"] for row in plan_block(usual(), RECIPE, 0, 8).to_pylist())


def test_balance() -> None:
    labels = [[0]] * 90 + [[3, 1]] * 9 + [[3, 1, 2]]
    even = sprite_weights(labels, 0.0)
    assert set(even) == {1.0}
    full = sprite_weights(labels, 1.0)
    shares = [full[:90].sum(), full[90:99].sum(), full[99:].sum()]
    np.testing.assert_allclose(shares, [1, 0.9, 1])
    half = sprite_weights(labels, 0.5)
    assert half[0] < half[90] < half[99]


def test_balance_pastes_rare_classes_more_often() -> None:
    sprites = [drawn.sprite(n, 0, (40, 20), corner=(30 + n, 150)) for n in range(57)]
    sprites += [drawn.sprite(57 + n, 1, (20, 20), corner=(250 - n, 90)) for n in range(3)]
    heads = []
    for balance in (0.0, 0.5, 1.0):
        bank = assets(sprites, [drawn.background(0)], balance=balance)
        rows = plan_block(bank, RECIPE._replace(objects=5, distractors=0.0), 0, 64).to_pylist()
        ids = [label["class_id"] for row in rows for label in row["labels"] if label["class_id"] in (0, 1)]
        heads.append(ids.count(1) / len(ids))
    assert heads[0] < 0.12 and 0.12 < heads[1] < 0.33 and 0.36 < heads[2] < 0.64


def test_backgrounds_take_turns() -> None:
    for turn in range(3):
        assert sorted(background_number(7, 11, turn * 11 + n) for n in range(11)) == list(range(11))
    assert [background_number(7, 11, n) for n in range(11)] != [background_number(8, 11, n) for n in range(11)]


@pytest.mark.parametrize(
    ("rules", "second", "expected"),
    [
        (PlacementRules(0, 1.0, 0.5), (0.5, 0.65, 0.25), True),  # stands before the lower part, not the head
        (PlacementRules(0, 0.3, 0.5), (0.5, 0.65, 0.25), False),  # overlaps by more
        (PlacementRules(0, 1.0, 0.9), (0.5, 0.65, 0.25), False),  # leaves too little
        (PlacementRules(0, 0.0, 0.9), (0.9, 0.65, 0.25), True),  # beside
    ],
)
def test_accept(rules: PlacementRules, second: tuple[float, float, float], expected: bool) -> None:
    human = to_sprite(drawn.sprite(0, 3, (40, 100)) | {"part": ""})
    first = place_at(human, Place(0.5, 0.6, 0.4), 1.0, (320, 240), 0.0)
    neighbor = place_at(human, Place(*second), 1.0, (320, 240), 0.0)
    assert first and neighbor
    assert accept(neighbor, [first], [], rules) == expected
    assert (first.covers == [neighbor]) == (expected and second[0] == 0.5)
