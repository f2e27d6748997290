"""scripts/convert_masks.py: what annotation tools write becomes masks of ids, and masks survive both ways."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]  # it has no stubs

from datasets.images import read_mask, write_mask
from scripts.convert_masks import main as convert

SQUARE = [[2, 1], [6, 1], [6, 5], [2, 5]]  # columns 2 to 5, rows 1 to 4


def square(height=8, width=10):
    mask = np.zeros((height, width), np.uint8)
    mask[1:5, 2:6] = 1
    return mask


def masks_in(folder):
    return {path.relative_to(folder).as_posix(): read_mask(path) for path in folder.rglob("*.png")}


@pytest.mark.parametrize("target", ["labelme", "cvat", "coco", "youtube-vis"])
def test_there_and_back(tmp_path, target):
    """Ids with gaps, holes, an object that leaves, a frame without objects, videos of different sizes."""
    rng = np.random.default_rng(0)
    for video, size in (("b/c", (9, 12)), ("a", (16, 11))):
        for t in range(12):
            ids = rng.choice(np.array([0, 0, 2, 7, 254], np.uint8), size) * (t != 5)
            write_mask(tmp_path / f"masks/{video}/shot_{t}.png", np.where(ids == 7, 0, ids) if t > 8 else ids)
    file = tmp_path / f"there{'.xml' if target == 'cvat' else '' if target == 'labelme' else '.json'}"
    convert([str(tmp_path / "masks"), str(file), "--to", target])
    convert([str(file), str(tmp_path / "back")])  # the format is detected
    before, after = masks_in(tmp_path / "masks"), masks_in(tmp_path / "back")
    assert before.keys() == after.keys() and len(before) == 24
    assert all(np.array_equal(before[name], after[name]) for name in before)


def labelme_shape(label, points, shape_type="polygon", group=None):
    return {"label": label, "points": points, "shape_type": shape_type, "group_id": group}


def test_labelme(tmp_path, capsys):
    for t, shapes in enumerate(
        [
            [labelme_shape("dog", SQUARE), labelme_shape("cat", [[0, 6], [4, 8]], "rectangle", group=1)],
            [labelme_shape("cat", SQUARE, group=1), labelme_shape("cat", [[5, 4], [5, 6]], "circle", group=2)],
        ]
    ):
        content = {"shapes": shapes, "imagePath": f"{t}.jpg", "imageHeight": 8, "imageWidth": 10}
        (tmp_path / f"in_{t}.json").write_text(json.dumps(content), encoding="utf-8-sig", newline="\r\n")
    convert([str(tmp_path), str(tmp_path / "out")])
    masks = masks_in(tmp_path / "out")
    first = square()
    first[6:8, 0:4] = 2
    assert np.array_equal(masks["in_0.png"], first)
    second = 2 * square()
    y, x = np.ogrid[:8, :10]
    second[(x - 5) ** 2 + (y - 4) ** 2 <= 4] = 3  # the later shape covers the earlier one
    assert np.array_equal(masks["in_1.png"], second)
    assert "1 = dog, 2 = cat 1, 3 = cat 2" in capsys.readouterr().out


POINTS = ";".join(f"{x},{y}" for x, y in SQUARE)


def test_cvat(tmp_path):
    (tmp_path / "images.xml").write_text(
        f"""<annotations><version>1.1</version>
      <image id="1" name="v/00001.jpg" width="10" height="8"/>
      <image id="0" name="v/00000.jpg" width="10" height="8">
        <mask label="b" rle="1, 2, 1" left="4" top="3" width="2" height="2" z_order="1"/>
        <polygon label="a" points="{POINTS}" z_order="0"><attribute name="id">9</attribute></polygon>
        <tag label="a"/>
      </image></annotations>""".replace('label="b" ', 'label="4" ')
    )
    convert([str(tmp_path / "images.xml"), str(tmp_path / "images")])
    masks = masks_in(tmp_path / "images")
    expected = 9 * square()
    expected[3, 5] = expected[4, 4] = 4
    assert np.array_equal(masks["v/00000.png"], expected) and not masks["v/00001.png"].any()

    shape = f'outside="0" points="{POINTS}"'
    (tmp_path / "video.xml").write_text(f"""<annotations><meta><task><original_size><width>10</width>
      <height>8</height></original_size></task></meta>
      <track id="3" label="a"><polygon frame="7" {shape}/><polygon frame="8" {shape.replace("0", "1", 1)}/></track>
      <track id="5" label="a"><polygon frame="8" {shape}/></track></annotations>""")
    convert([str(tmp_path / "video.xml"), str(tmp_path / "video")])
    masks = masks_in(tmp_path / "video")
    assert masks.keys() == {"00007.png", "00008.png"}
    assert np.array_equal(masks["00007.png"], square()) and np.array_equal(masks["00008.png"], 2 * square())


def test_coco_and_youtube_vis(tmp_path, capsys):
    runs = {"size": [8, 10], "counts": [17, 4, 4, 4, 4, 4, 4, 4, 35]}  # column by column: the square
    flat = [[number for point in SQUARE for number in point]]
    image = {"id": 5, "file_name": "v/1.jpg", "height": 8, "width": 10}
    annotations = [{"id": 1, "image_id": 5, "segmentation": runs}, {"id": 2, "image_id": 5, "segmentation": flat}]
    annotations[0]["attributes"] = {"track_id": 12}
    (tmp_path / "coco.json").write_text(json.dumps({"images": [image], "annotations": annotations[:1]}))
    convert([str(tmp_path / "coco.json"), str(tmp_path / "coco")])
    assert np.array_equal(masks_in(tmp_path / "coco")["v/1.png"], 12 * square())
    assert "left out" not in capsys.readouterr().out

    video = {"id": 3, "file_names": ["v/00000.jpg", "v/00005.jpg"], "height": 8, "width": 10, "length": 2}
    tracks = [{"video_id": 3, "segmentations": [None, runs]}, {"video_id": 3, "segmentations": [flat, None]}]
    (tmp_path / "vis.json").write_text(json.dumps({"videos": [video], "annotations": tracks}))
    convert([str(tmp_path / "vis.json"), str(tmp_path / "vis")])
    masks = masks_in(tmp_path / "vis")
    assert np.array_equal(masks["v/00000.png"], 2 * square()) and np.array_equal(masks["v/00005.png"], square())

    for name, contents in {
        "image": {"images": [image], "annotations": [annotations[0] | {"image_id": "5"}]},
        "video": {"videos": [video], "annotations": [tracks[0], tracks[1] | {"video_id": 4}]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))
        convert([str(tmp_path / f"{name}.json"), str(tmp_path / name)])
        assert f"{name}.json: 1 annotations are left out, as their {name}_id is" in capsys.readouterr().out


FRAME = {"height": 8, "width": 10}
BELOW = [[6, 5], [10, 5], [10, 8], [6, 8]]  # columns 6 to 9, rows 5 to 7


def coco_annotations(names, **fields):
    """One annotation for each object on an image: the first in the square, the second below it."""
    polygons = [np.ravel(points).tolist() for points in (SQUARE, BELOW)]
    return [{"segmentation": [p], "track_id": n, **fields} for p, n in zip(polygons, names, strict=True)]


@pytest.mark.parametrize(
    ("tracks", "ids"),
    [((None, None), (1, 2)), ((2, None), (1, 2)), ((None, 1), (1, 2)), ((0, 1), (1, 2)), ((2, 300), (1, 2))]
    + [((7, 3), (7, 3))],
)
def test_track_ids_that_are_missing_or_no_ids(tmp_path, tracks, ids):
    """Objects stay apart, whatever a file says about their tracks, on images and in videos."""
    images = [{"id": 1, "file_name": "v/0.jpg", **FRAME}]
    annotations = coco_annotations(tracks, image_id=1)
    annotations[1]["attributes"] = {"track_id": annotations[1].pop("track_id")}  # as CVAT writes it
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    for entry in annotations:
        entry |= {"video_id": 1, "segmentations": [entry["segmentation"]]}
    videos = [{"id": 1, "file_names": ["v/0.jpg"], **FRAME}]
    (tmp_path / "vis.json").write_text(json.dumps({"videos": videos, "annotations": annotations}))
    for name in ("coco", "vis"):
        convert([str(tmp_path / f"{name}.json"), str(tmp_path / name)])
        mask = masks_in(tmp_path / name)["v/0.png"]
        assert (mask[1, 2], mask[5, 6]) == ids


@pytest.mark.parametrize("source", ["labelme", "cvat.xml", "coco.json"])
def test_objects_keep_their_ids_beside_a_video_whose_name_is_the_same_number(tmp_path, source):
    images, annotations, xml = [], [], ""
    for video in ("v1", "v01"):
        for t, names in enumerate((("cat", "dog"), ("dog", "cat"))):
            shapes = [labelme_shape(name, points) for name, points in zip(names, (SQUARE, BELOW), strict=True)]
            images.append({"id": len(images), "file_name": f"{video}/{t}.jpg", **FRAME})
            annotations += coco_annotations(names, image_id=images[-1]["id"])
            xml += f'<image name="{video}/{t}.jpg" height="8" width="10">'
            for shape in shapes:
                points = ";".join(f"{x},{y}" for x, y in shape["points"])
                xml += f'<polygon label="{shape["label"]}" points="{points}"/>'
            xml += "</image>"
            if source == "labelme":
                (tmp_path / source / video).mkdir(parents=True, exist_ok=True)
                content = {"shapes": shapes, "imageHeight": 8, "imageWidth": 10}
                (tmp_path / source / f"{video}/{t}.json").write_text(json.dumps(content))
    if source != "labelme":
        text = json.dumps({"images": images, "annotations": annotations})
        (tmp_path / source).write_text(f"<annotations>{xml}</annotations>" if source == "cvat.xml" else text)
    convert([str(tmp_path / source), str(tmp_path / "out")])
    found = {name: (mask[1, 2], mask[5, 6]) for name, mask in masks_in(tmp_path / "out").items()}
    assert found == {f"{video}/{t}.png": ids for video in ("v1", "v01") for t, ids in enumerate(((1, 2), (2, 1)))}


@pytest.mark.parametrize("angle", [0, 45, 90])
def test_cvat_turns_boxes_clockwise(tmp_path, angle):
    box = f'<box label="a" xtl="20" ytl="25" xbr="80" ybr="35" rotation="{angle}"/>'
    image = f'<image name="0.jpg" width="100" height="60">{box}</image>'
    (tmp_path / "in.xml").write_text(f"<annotations>{image}</annotations>")
    convert([str(tmp_path / "in.xml"), str(tmp_path / "out")])
    mask = masks_in(tmp_path / "out")["0.png"]
    y, x = np.mgrid[:60, :100] - np.array([29.5, 49.5])[:, None, None]  # from the centre of the box
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = x * cos + y * sin, y * cos - x * sin
    expected = (abs(along) < 30) & (abs(across) < 5)
    assert (mask != expected).sum() <= (angle % 90 > 0) * 60  # of the outline


def test_results_of_an_evaluation(tmp_path):
    """Neither records, overlays and hidden files are masks, nor a folder with the suffix of annotations."""
    out = tmp_path / "out"
    write_mask(out / "v/00000.PNG", square())
    for folder in (".records", "overlay", ".ipynb_checkpoints", "x.json"):
        (out / folder).mkdir()
    for name in (".records/v.json", "overlay/v.png", ".ipynb_checkpoints/a.png", "v/._00000.png"):
        (out / name).write_text("{}")
    convert([str(out), str(tmp_path / "vis.json"), "--to", "youtube-vis"])
    (video,) = json.loads((tmp_path / "vis.json").read_text())["videos"]
    assert video["file_names"] == ["v/00000.jpg"]


def test_burst_void_and_binary_masks(tmp_path):
    counts = coco_mask.encode(np.asfortranarray(square()))["counts"].decode()
    sequence = {
        "dataset": "HACS",
        "seq_name": "v",
        "height": 8,
        "width": 10,
        "annotated_image_paths": ["1.jpg", "7.jpg"],
    }
    sequence["segmentations"] = [{}, {"3": {"rle": counts}, "12": {"rle": counts}}]
    (tmp_path / "burst.json").write_text(json.dumps({"sequences": [sequence]}))
    convert([str(tmp_path / "burst.json"), str(tmp_path / "burst")])
    burst = masks_in(tmp_path / "burst")
    assert not burst["HACS/v/1.png"].any() and np.array_equal(burst["HACS/v/7.png"], 12 * square())

    void = square() * 4
    void[0] = 255
    write_mask(tmp_path / "void/v/frame1.png", void)
    convert([str(tmp_path / "void"), str(tmp_path / "no_void"), "--from", "masks-with-void"])
    assert np.array_equal(masks_in(tmp_path / "no_void")["v/frame1.png"], 4 * square())

    other = np.flipud(np.fliplr(square()))
    for name, mask in (("many/1/0", square()), ("many/2/0", other), ("single/0", square()), ("007/0", square())):
        write_mask(tmp_path / f"binary/{name}.png", mask, binary=True)
    write_mask(tmp_path / "binary/palette/0.png", square())
    Image.fromarray(square()).save(tmp_path / "binary/single/1.png")  # 0/1
    convert([str(tmp_path / "binary"), str(tmp_path / "ids"), "--from", "binary-masks"])
    ids = masks_in(tmp_path / "ids")
    assert ids.keys() == {"many/0.png", "single/0.png", "007/0.png", "palette/0.png", "single/1.png"}
    assert np.array_equal(ids["palette/0.png"], square()) and np.array_equal(ids["single/1.png"], square())
    assert np.array_equal(ids["single/0.png"], square()) and np.array_equal(ids["007/0.png"], square())
    assert np.array_equal(ids["many/0.png"], np.where(other, 2, square()))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shapes": [labelme_shape("a", SQUARE[:2])]}, "fewer than three points"),
        ({"shapes": [labelme_shape("a", SQUARE[:2], "line")]}, "a shape is a line; expected a polygon"),
        (
            {"shapes": [labelme_shape("1", SQUARE), labelme_shape("a", SQUARE), labelme_shape("2", SQUARE)]},
            "others with",
        ),
        ({"shapes": [labelme_shape(f"a{i}", SQUARE) for i in range(255)]}, "over 254 objects"),
        ({"imageHeight": None}, "cannot be read as labelme"),
    ],
)
def test_bad_annotations_are_one_line(tmp_path, capsys, change, message):
    content = {"shapes": [], "imageHeight": 8, "imageWidth": 10} | change
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        convert([str(tmp_path / "in"), str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert message in error and str(tmp_path / "in") in error and error.count("\n") == 1


@pytest.mark.parametrize("names", [("1.jpg", "1.png"), ("1.jpg", "1.jpg"), ("shot.0001", "shot.0002")])
def test_images_whose_masks_would_replace_each_other(tmp_path, capsys, names):
    images = [{"id": i, "file_name": f"v/{name}", **FRAME} for i, name in enumerate(names)]
    (tmp_path / "in.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "in.xml").write_text(
        "<annotations>"
        + "".join(f'<image name="v/{name}" height="8" width="10"/>' for name in names)
        + "</annotations>"
    )
    for source in ("in.json", "in.xml"):
        with pytest.raises(SystemExit) as end:
            convert([str(tmp_path / source), str(tmp_path / f"out_{source}")])
        stem = names[0].partition(".")[0]
        assert end.value.code == 2 and f"{source}: frame {stem} of v occurs twice" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "in.xml"]  # no mask of the first frame


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_names_that_xml_cannot_hold(tmp_path, capsys):
    write_mask(tmp_path / "in/ü/1.png", square())
    convert([str(tmp_path / "in"), str(tmp_path / "good.xml"), "--to", "cvat"])
    convert([str(tmp_path / "good.xml"), str(tmp_path / "back")])
    assert masks_in(tmp_path / "back").keys() == {"ü/1.png"}
    write_mask(tmp_path / "in/\udcff/1.png", square())
    with pytest.raises(SystemExit) as end:
        convert([str(tmp_path / "in"), str(tmp_path / "bad.xml"), "--to", "cvat"])
    assert end.value.code == 2 and "expected UTF-8" in capsys.readouterr().err


def test_other_bad_input(tmp_path, capsys, monkeypatch):
    outside = {"images": [{"id": 1, "file_name": "../../x.jpg", "height": 8, "width": 10}], "annotations": []}
    (tmp_path / "outside.json").write_text(json.dumps(outside))
    write_mask(tmp_path / "masks/v/0.png", square())
    (tmp_path / "text.txt").write_text("")
    for arguments, message in (
        (["outside.json", "out"], "outside.json: holds the name '..'"),
        (["masks", "out"], "in the format masks already"),
        (["outside.json", "masks"], "masks: exists"),
        (["text.txt", "out"], "expected a folder of masks"),
        (["masks", "out", "--to", "cvat"], "out: expected a file that ends in .xml for --to cvat"),
    ):
        with pytest.raises(SystemExit):
            convert([str(tmp_path / name) for name in arguments[:2]] + arguments[2:])
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(SystemExit):
        convert([str(tmp_path / "masks"), str(tmp_path / "out.json"), "--to", "coco"])
    assert "pip install pycocotools" in capsys.readouterr().err
