"""What tools export, written by hand as they write it: read to the right boxes, or refused in a line that helps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from label_sets import Boxes, read_set, write_files

from depers.errors import UserError

# In all of them, images have 200 × 160 pixels; a.jpg shows a car from 20, 30 to 80, 100, b.jpg a plate from 100, 60 to
# 140, 80.
CAR, PLATE = ("car", 0.25, 0.40625, 0.3, 0.4375), ("carplate", 0.6, 0.4375, 0.2, 0.125)
CAR_LINE, PLATE_LINE = "0 0.250000 0.406250 0.300000 0.437500\n", "1 0.600000 0.437500 0.200000 0.125000\n"
CAR_XYWH, PLATE_XYWH = [20.0, 30.0, 60.0, 70.0], [100.0, 60.0, 40.0, 20.0]
NAMES = ("car", "carplate")


def coco(prefix: str = "", start: int = 1, suffixes: tuple[str, str] = ("a.jpg", "b.jpg"), **more: Any) -> str:
    """A COCO file, as datumaro (and so CVAT) writes it; ids count from `start`, file names begin with `prefix`."""
    images = [
        {"id": start + n, "width": 200, "height": 160, "file_name": prefix + name, "license": 0, "coco_url": ""}
        for n, name in enumerate(suffixes)
    ]
    annotations = [
        {"id": start + n, "image_id": start + n, "category_id": start + n, "bbox": xywh, "area": xywh[2] * xywh[3],
         "segmentation": [], "iscrowd": 0, **more}
        for n, xywh in enumerate((CAR_XYWH, PLATE_XYWH))
    ]  # fmt: skip
    categories = [{"id": start + n, "name": name, "supercategory": ""} for n, name in enumerate(NAMES)]
    info = {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""}
    licenses = [{"name": "", "id": 0, "url": ""}]
    content = {
        "licenses": licenses,
        "info": info,
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
    return json.dumps(content)


def voc(name: str, class_name: str, xywh: list[float], more: str = "") -> str:
    x, y, w, h = xywh
    box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
    size = "<size><width>200</width><height>160</height><depth>3</depth></size><segmented>0</segmented>"
    fields = f"<name>{class_name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    return (
        f"<annotation><folder>images</folder><filename>{name}</filename><source><database>Unknown</database></source>"
        f"{size}<object>{fields}{more}<bndbox>{box}</bndbox></object></annotation>"
    )


CAR_XML, PLATE_XML = voc("a.jpg", "car", CAR_XYWH), voc("b.jpg", "carplate", PLATE_XYWH)
KITTI = "{} 0.00 0 -1.58 {:.2f} {:.2f} {:.2f} {:.2f} 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
POINTS_3 = "0.2 0.3 2 0.3 0.5 1 0.000000 0.000000 0"

LABELME = {
    "version": "5.0.1", "flags": {}, "imagePath": "a.jpg", "imageData": None, "imageHeight": 160, "imageWidth": 200,
    "shapes": [{"label": "car", "points": [[80, 30], [20, 100]], "group_id": None, "shape_type": "rectangle"}],
}  # fmt: skip
OUTLINE = {"label": "carplate", "points": [[100, 70], [120, 60], [140, 70], [120, 80]], "shape_type": "polygon"}

READ: dict[str, dict[str, str]] = {
    "CVAT YOLO 1.1": {
        "obj.names": "car\ncarplate\n",
        "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
        "obj_train_data/a.jpg": "", "obj_train_data/a.txt": CAR_LINE,
        "obj_train_data/b.jpg": "", "obj_train_data/b.txt": PLATE_LINE,
    },
    "CVAT Ultralytics YOLO Detection 1.0": {
        "data.yaml": "names:\n  0: car\n  1: carplate\npath: .\ntrain: train.txt\n",
        "train.txt": "images/train/a.jpg\nimages/train/b.jpg\n",
        "images/train/a.jpg": "", "labels/train/a.txt": CAR_LINE,
        "images/train/b.jpg": "", "labels/train/b.txt": PLATE_LINE,
    },
    "CVAT COCO 1.0": {
        "images/default/a.jpg": "", "images/default/b.jpg": "",
        "annotations/instances_default.json": coco(attributes={"occluded": False, "rotation": 0.0}),
    },
    "CVAT PASCAL VOC 1.1": {
        "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::\ncarplate:0,128,0::\n",
        "ImageSets/Main/default.txt": "a\nb\n",
        "JPEGImages/a.jpg": "", "Annotations/a.xml": CAR_XML,
        "JPEGImages/b.jpg": "", "Annotations/b.xml": PLATE_XML,
    },
    "Label Studio YOLO": {
        "classes.txt": "car\ncarplate\n",
        "notes.json": '{"categories": [{"id": 0, "name": "car"}], "info": {"year": 2025}}',
        "images/1f2e3d4c-a.jpg": "", "labels/1f2e3d4c-a.txt": CAR_LINE,
        "images/1f2e3d4c-b.jpg": "", "labels/1f2e3d4c-b.txt": PLATE_LINE,
    },
    "Label Studio COCO": {
        "images/1f2e3d4c-a.jpg": "", "images/1f2e3d4c-b.jpg": "",
        "result.json": coco("images\\", 0, ("1f2e3d4c-a.jpg", "1f2e3d4c-b.jpg"), ignore=0),
    },
    "Label Studio VOC": {
        "images/1f2e3d4c-a.jpg": "", "Annotations/1f2e3d4c-a.xml": CAR_XML,
        "images/1f2e3d4c-b.jpg": "", "Annotations/1f2e3d4c-b.xml": PLATE_XML,
    },
    "Roboflow YOLOv5": {
        "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
                     "names: ['car', 'carplate']\n"
                     "\nroboflow:\n  workspace: w\n  project: p\n  version: 1\n  license: CC BY 4.0\n",
        "README.dataset.txt": "# p > 1\n", "README.roboflow.txt": "p - v1\n",
        "train/images/a_jpg.rf.0a1b2c.jpg": "", "train/labels/a_jpg.rf.0a1b2c.txt": CAR_LINE,
        "valid/images/b_jpg.rf.3d4e5f.jpg": "", "valid/labels/b_jpg.rf.3d4e5f.txt": PLATE_LINE,
    },
    "Roboflow COCO": {
        "README.dataset.txt": "# p > 1\n", "README.roboflow.txt": "p - v1\n",
        "train/a_jpg.rf.0a1b2c.jpg": "", "train/b_jpg.rf.3d4e5f.jpg": "",
        "train/_annotations.coco.json": coco("", 0, ("a_jpg.rf.0a1b2c.jpg", "b_jpg.rf.3d4e5f.jpg")),
    },
    "Roboflow VOC": {
        "README.roboflow.txt": "p - v1\n",
        "train/a_jpg.rf.0a1b2c.jpg": "", "train/a_jpg.rf.0a1b2c.xml": CAR_XML,
        "valid/b_jpg.rf.3d4e5f.jpg": "", "valid/b_jpg.rf.3d4e5f.xml": PLATE_XML,
    },
    "labelImg YOLO": {
        "classes.txt": "car\ncarplate\n", "a.jpg": "", "a.txt": CAR_LINE, "b.jpg": "", "b.txt": PLATE_LINE,
    },
    "labelImg VOC": {"a.jpg": "", "a.xml": CAR_XML, "b.jpg": "", "b.xml": PLATE_XML},
    "VIA COCO": {
        "a.jpg": "", "b.jpg": "",
        "via_export_coco.json": re.sub(r'("image_id": )(\d)', r'\1"\2"', coco()),
    },
    "OIDv4_ToolKit": {
        "train/car_carplate/a.jpg": "", "train/car_carplate/Label/a.txt": "car 20.0 30.0 80.0 100.0\n",
        "train/car_carplate/b.jpg": "", "train/car_carplate/Label/b.txt": "carplate 100.0 60.0 140.0 80.0\n",
    },
    "KITTI": {
        "training/image_2/a.jpg": "", "training/label_2/a.txt": KITTI.format("car", 20, 30, 80, 100),
        "training/image_2/b.jpg": "", "training/label_2/b.txt": KITTI.format("carplate", 100, 60, 140, 80),
    },
    "Ultralytics segmentation": {
        "data.yaml": "names: {0: car, 1: carplate}\n",
        "images/a.jpg": "", "labels/a.txt": "0 0.1 0.1875 0.4 0.1875 0.4 0.4 0.4 0.625 0.1 0.625\n",
        "images/b.jpg": "", "labels/b.txt": "1 0.5 0.375 0.7 0.375 0.7 0.5 0.5 0.5\n",
    },
    "Ultralytics pose": {
        "data.yaml": "names: {0: car, 1: carplate}\nkpt_shape: [3, 3]\n",
        "images/a.jpg": "", "labels/a.txt": CAR_LINE.strip() + f" {POINTS_3}\n",
        "images/b.jpg": "", "labels/b.txt": PLATE_LINE.strip() + f" {POINTS_3}\n",
    },
    "Ultralytics OBB": {
        "data.yaml": "names: {0: car, 1: carplate}\n",
        "images/a.jpg": "", "labels/a.txt": "0 0.1 0.1875 0.4 0.1875 0.4 0.625 0.1 0.625\n",
        "images/b.jpg": "", "labels/b.txt": "1 0.6 0.375 0.7 0.4375 0.6 0.5 0.5 0.4375\n",
    },
    "LabelMe": {
        "a.jpg": "", "a.json": json.dumps(LABELME), "b.jpg": "", "b.json": json.dumps(LABELME | {"shapes": [OUTLINE]}),
    },
    "YOLOv5 with confidences": {
        "classes.txt": "car\ncarplate\n",
        "images/a.jpg": "", "labels/a.txt": CAR_LINE.strip() + " 0.912345\n",
        "images/b.jpg": "", "labels/b.txt": PLATE_LINE.strip() + " 1\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("tool", READ)
def test_exports_that_are_read(tool: str, tmp_path: Path) -> None:
    found, problems = read_set(write_files(tmp_path / "raw", READ[tool]))
    by_letter: dict[str, Boxes] = {
        name.rpartition("/")[2].removeprefix("1f2e3d4c-")[0]: boxes for name, boxes in found.items()
    }
    assert set(by_letter) == {"a", "b"}
    for letter, expected in (("a", CAR), ("b", PLATE)):
        [(class_name, *numbers)] = by_letter[letter]
        assert class_name == expected[0]
        assert numbers == pytest.approx(expected[1:], abs=1e-6)
    assert {problem.action for problem in problems} <= {"accepted", "bounding_box"}


VIA_IMAGE = {
    "filename": "a.jpg", "size": 1234, "file_attributes": {},
    "regions": [{"shape_attributes": {"name": "rect", "x": 20, "y": 30}, "region_attributes": {"class": "car"}}],
}  # fmt: skip
SUPERVISELY = {
    "description": "", "tags": [], "size": {"height": 160, "width": 200},
    "objects": [{"id": 1, "classId": 2, "geometryType": "rectangle", "classTitle": "car",
                 "points": {"exterior": [[20, 30], [80, 100]], "interior": []}}],
}  # fmt: skip
DATUMARO = {
    "dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": {"label": {"labels": [{"name": "car"}]}},
    "items": [{"id": "a", "annotations": [{"id": 0, "type": "bbox", "label_id": 0, "bbox": CAR_XYWH}],
               "image": {"path": "a.jpg", "size": [160, 200]}}],
}  # fmt: skip
STUDIO = {
    "image": "/data/upload/1/1f2e3d4c-a.jpg", "id": 1, "annotator": 1, "annotation_id": 1,
    "label": [{"x": 10, "y": 18.75, "width": 30, "height": 43.75, "rotation": 0, "rectanglelabels": ["car"],
               "original_width": 200, "original_height": 160}],
}  # fmt: skip
STUDIO_FULL = {"id": 1, "annotations": [{"id": 1, "result": []}], "data": {"image": "/data/upload/1/a.jpg"}}
CREATE_ML = {
    "image": "a.jpg",
    "annotations": [{"label": "car", "coordinates": {"x": 50, "y": 65, "width": 60, "height": 70}}],
}

REFUSED = {
    "CVAT for images 1.1": (
        "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <image id="0" name="a.jpg">'
        '<box label="car" xtl="20.00" ytl="30.00" xbr="80.00" ybr="100.00"/></image>\n</annotations>\n',
        "CVAT for images XML, which is not read: export the task again as COCO 1.0",
    ),
    "Label Studio JSON-MIN": ("project-1.json", json.dumps([STUDIO]), "Label Studio JSON.* export it again as COCO"),
    "Label Studio JSON": ("project-1.json", json.dumps([STUDIO_FULL]), "Label Studio JSON.* export it again as COCO"),
    "labelImg CreateML": ("a.json", json.dumps([CREATE_ML]), "CreateML JSON.* save it in labelImg as PascalVOC"),
    "VIA project": (
        "via_project.json", json.dumps({"_via_settings": {}, "_via_img_metadata": {"a": VIA_IMAGE}}), "VIA.* as COCO"
    ),
    "VIA annotations": ("via_region_data.json", json.dumps({"a.jpg1234": VIA_IMAGE}), "VIA.* as COCO"),
    "VIA CSV": (
        "via_region_data.csv",
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n",
        "VIA. CSV.* as COCO",
    ),
    "Open Images": (
        "train-annotations-bbox.csv",
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\na,xclick,/m/0k4j,1,0.1,0.4,0.2,0.6,0\n",
        "Open Images CSV.*`datum convert -i RAW -if open_images -f coco",
    ),
    "Roboflow TensorFlow CSV": (
        "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,200,160,car,20,30,80,100\n",
        "a CSV of boxes, .* write its rows as COCO",
    ),
    "Supervisely": ("ds0/ann/a.jpg.json", json.dumps(SUPERVISELY), "Supervisely JSON.* export it again as COCO"),
    "datumaro": ("annotations/default.json", json.dumps(DATUMARO),
                 "datumaro JSON.*`datum convert -i RAW -if datumaro -f coco"),
    "COCO results": (
        "results.json", '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]', "COCO's results"
    ),
    "DOTA": (
        "labelTxt/a.txt", "imagesource:GoogleEarth\ngsd:0.1\n20 30 80 30 80 100 20 100 small-vehicle 0\n", "DOTA texts"
    ),
    "MOT": ("gt/gt.txt", "1,1,20,30,60,70,1,1,1\n", "MOT texts"),
    "VisDrone": ("annotations/a.txt", "20,30,60,70,1,4,0,0\n", "VisDrone texts.*-if vis_drone"),
    "WiderPerson": ("Annotations/a.jpg.txt", "1\n1 20 30 80 100\n", "WiderPerson texts.*boxes as COCO"),
    "RetinaFace": ("label.txt", f"# a.jpg\n20 30 60 70 {'60.0 60.0 0.0 ' * 5}0.82\n", "RetinaFace.* WIDER FACE's own"),
    "OpenALPR": ("a.txt", "a.jpg\t20\t30\t60\t70\tABC123\n", "OpenALPR texts.*boxes as COCO"),
    "UFPR-ALPR": ("a.txt", "camera: GoPro\nposition_vehicle: 20 30 60 70\n", "UFPR-ALPR texts.*boxes as COCO"),
    "V7 Darwin": ("labels/a.json", '{"item": {}, "notes": [{"bounding_box": {"x": 1}}]}', "V7 Darwin.*again as COCO"),
    "VoTT": ("a-asset.json", '{"asset": {"name": "a.jpg"}, "regions": [{"boundingBox": {}}]}', "VoTT.*as Pascal VOC"),
    "SuperAnnotate": ("a.jpg.json", '{"metadata": {}, "instances": [{"className": "car"}]}', "SuperAnnotate.*as COCO"),
    "Hugging Face metadata.jsonl": ("metadata.jsonl", '{"file_name": "a.jpg", "objects": {}}\n', "JSON lines.*as COCO"),
    "dlib": ("a.xml", "<dataset><images><image file='a.jpg'><box top='1'/></image></images></dataset>", "dlib XML"),
    "Kaggle's train.csv": ("train.csv", 'image_id,width,bbox\na,200,"[1, 2, 3, 4]"\n', "CSV of boxes.*as COCO"),
}  # fmt: skip


@pytest.mark.parametrize("tool", REFUSED)
def test_exports_that_are_refused(tool: str, tmp_path: Path) -> None:
    name, text, message = REFUSED[tool]
    write_files(tmp_path / "raw", {"images/a.jpg": "", "images/b.jpg": "", name: text})
    with pytest.raises(UserError, match=message) as refused:
        read_set(tmp_path / "raw")
    assert "\n" not in str(refused.value)


def test_the_page_names_every_export() -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    assert [tool for tool in (*READ, *REFUSED) if tool.split()[0] not in page] == []
