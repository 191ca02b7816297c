"""Classes from a table beside the pictures."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from mae_runners.__main__ import main
from mae_sdk import Skill, answers
from mae_sdk.data import open_source
from mae_sdk.data.label_file import LabeledSource
from mae_skill.errors import DataError

from tests.support.s3 import S3Server
from tests.support.training import digits_folder, read, spec, train, write_spec


def flat(root: Path, per_class: int = 4) -> tuple[Path, list[tuple[str, str]]]:
    """A folder of pictures without class folders, and its rows of path and class."""
    made = digits_folder(root / "classes", per_class=per_class)
    images, rows = root / "images", []
    images.mkdir()
    for picture in sorted(made.rglob("*.png")):
        name = f"{picture.parent.name}_{picture.name}"
        picture.rename(images / name)
        rows.append((name, f"digit {picture.parent.name}"))
    return images, rows


def table(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def labeled(images: Path, file: Path, split: str = "train", **options: Any) -> LabeledSource:
    return LabeledSource(open_source(str(images)), str(file), split, **options)


def test_every_format_gives_the_same_labels_to_a_folder_and_its_archive(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(images, "images")
    files = [
        table(tmp_path / "a.csv", "path,label", *(f"{p},{c}" for p, c in rows)),
        table(tmp_path / "b.csv", "Image;Class", *(f"{p};{c}" for p, c in rows)),
        table(tmp_path / "c.tsv", "file\tlabel", *(f"images/{p}\t{c}" for p, c in rows)),
        tmp_path / "d.jsonl",
        tmp_path / "e.parquet",
    ]
    files[3].write_text("".join(json.dumps({"path": p[:-4], "label": c}) + "\n" for p, c in rows))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"filename": [p for p, _ in rows], "target": [c for _, c in rows]}
    parquet.write_table(pyarrow.table(columns), files[4])
    for place in (images, archive):
        for file in files:
            found = pickle.loads(pickle.dumps(labeled(place, file)))
            assert [found.classes[i] for i in found.labels] == [c for _, c in rows], file
            assert set(found.table) == {"file", "rows"}
            assert found.read(0) == (images / rows[0][0]).read_bytes()


def test_a_row_of_no_known_split_is_named_and_a_column_twice_is_refused(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    splits = ["train", "validaton", "", *["val"] * (len(rows) - 3)]
    lines = (f"{p},{c},{said}" for (p, c), said in zip(rows, splits, strict=True))
    found = labeled(images, table(tmp_path / "a.csv", "path,label,split", *lines)).table
    assert found["without_split"] == {
        "count": 2,
        "files": [f"{rows[1][0]} (validaton)", f"{rows[2][0]} (empty)"],
    }
    lines = (f"{p},{c},{c}" for p, c in rows)
    with pytest.raises(DataError, match="has the column label more than once"):
        labeled(images, table(tmp_path / "b.csv", "path,label,label", *lines))


def test_rows_of_one_picture_that_say_different_labels_are_refused(tmp_path: Path) -> None:
    images, rows = flat(tmp_path / "flat")
    first = rows[0][0]
    lines = [f"{path},1,0" for path, _ in rows]
    alike = table(tmp_path / "alike.csv", "path,ant,bee", *lines, f"{first},1,0")
    assert len(labeled(images, alike, several=True)) == len(rows)

    odd = table(tmp_path / "odd.csv", "path,ant,bee", *lines, f"{first},0,0")
    with pytest.raises(DataError, match="two rows of a picture say different labels") as caught:
        labeled(images, odd, several=True)
    assert caught.value.got == f"{first}: ant, and none"

    long = table(tmp_path / "long.csv", "path,label", f"{first},ant", f"{first},bee")
    assert labeled(images, long, several=True).classes == ["ant", "bee"]


def test_a_split_takes_its_rows_and_what_does_not_match_is_counted_and_named(
    tmp_path: Path,
) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{p},{c},{'validation' if i % 4 == 3 else 'train'}" for i, (p, c) in enumerate(rows)]
    file = table(tmp_path / "t.csv", "path,label,split", *lines[1:], "gone.png,digit 0,train")
    trained, judged = labeled(images, file), labeled(images, file, "val")
    assert (len(trained), len(judged)) == (8, 3)
    assert trained.table["without_picture"] == {"count": 1, "files": ["gone.png"]}
    assert trained.table["without_row"] == {"count": 1, "files": [rows[0][0]]}
    assert len(labeled(images, file, "val", keep=True)) == 4
    other = table(tmp_path / "o.csv", "path,label,split", *lines)
    assert labeled(images, other).digest != trained.digest


@pytest.mark.parametrize(
    ("header", "lines", "says"),
    [
        ("path,color,age", ["0_0000.png,red,3"], "no column label"),
        ("path,color", ["0_0000.png,red", "1_0000.png,blue"], "no column label"),
        ("path,fold", ["0_0000.png,1", "1_0000.png,1"], "no column label"),
        ("where,label", ["0_0000.png,red"], "no column path"),
        ("path,label", [], "no rows"),
        ("path,label", ["0_0000.png,a", "./0_0000.png,b"], "two labels"),
        ("path,label", ["gone.png,a"], "no row of"),
        ("path,label,split", ["0_0000.png,a,test"], "of the train split"),
        ("path,label", [",a"], "has no path"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_error(
    tmp_path: Path, header: str, lines: list[str], says: str
) -> None:
    images, _ = flat(tmp_path, per_class=1)
    with pytest.raises(DataError, match=says) as caught:
        labeled(images, table(tmp_path / "t.csv", header, *lines))
    if "column" in says:
        assert caught.value.got == header.split(",")


def test_classes_that_the_model_does_not_know_are_an_error(tmp_path: Path) -> None:
    images, rows = flat(tmp_path, per_class=1)
    file = table(tmp_path / "t.csv", "path,label", *(f"{p},{c}" for p, c in rows))
    with pytest.raises(DataError, match="digit 2"):
        labeled(images, file).label(["digit 0", "digit 1"])


def test_a_classifier_learns_is_judged_and_answers_by_a_table(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{p},{c},{'val' if i % 4 == 3 else 'train'}" for i, (p, c) in enumerate(rows)]
    file = table(tmp_path / "t.csv", "path,label,split", *lines, "gone.png,digit 0,train")
    whole = table(tmp_path / "w.csv", "path,label", *(f"{p},{c}" for p, c in rows[1:]))
    job = tmp_path / "job"
    made = spec(
        images,
        job,
        "finetune",
        train__num_epochs=1,
        model__depth=1,
        model__num_classes=3,
        dataset__val_data_sources=str(images),
        dataset__labels__train=str(file),
        dataset__labels__val=str(file),
    )
    assert train(made) == 0
    data = read(job, "train/result.json")["data"]
    seen = data["sources"]["dataset.train_data_sources"]
    assert (seen["images"], seen["classes"], seen["label_file"]["rows"]) == (9, 3, 10)
    assert any("gone.png" in text for text in data["warnings"])
    assert data["sources"]["dataset.val_data_sources"]["images"] == 3

    model = next((job / "train").glob("model_epoch_*.pth"))
    made["dataset"] = {**made["dataset"], "test_data_sources": str(images)}
    made["dataset"]["labels"] = {"val": str(file), "test": str(whole)}
    for action in ("evaluate", "inference"):
        made[action] = {"checkpoint": str(model)}
        assert main([action, "-e", str(write_spec(made, tmp_path / f"{action}.json"))]) == 0
    assert read(job, "evaluate/metrics.json")["images"] == 3
    with (job / "inference" / "results.csv").open() as stream:
        answers = list(csv.DictReader(stream))
    assert [row["true_label"] for row in answers] == ["", *(c for _, c in rows[1:])]


def test_inspect_judges_a_source_by_a_table_beside_it_on_s3(s3: S3Server, tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    bucket = s3.bucket("tables-of-labels")
    shutil.copytree(images, bucket / "images")
    lines = [f"{p},{c}" for p, c in rows[1:]]
    table(bucket / "t.csv", "path,label", *lines, "gone.png,digit 0")
    for uri, file in (
        (f"{images}", f"{bucket}/t.csv"),
        ("s3://tables-of-labels/images", "s3://tables-of-labels/t.csv"),
    ):
        found = answers.inspect(uri, spec_overrides={"dataset.labels.train": file})
        assert found["verdict"]["usable"]
        assert found["classes"] == {"digit 0": 3, "digit 1": 4, "digit 2": 4}
        assert found["label_file"]["without_picture"] == {"count": 1, "files": ["gone.png"]}
        assert found["label_file"]["without_row"] == {"count": 1, "files": [rows[0][0]]}
        assert any("gone.png" in text for text in found["verdict"]["warnings"])
    with pytest.raises(DataError, match="there is no data source at"):
        missing = {"dataset.labels.train": "s3://tables-of-labels/none.csv"}
        answers.inspect("s3://tables-of-labels/images", spec_overrides=missing)


NO_TABLES = {
    "no labels at all": ("path,label", "{0},", "{1},", "t.csv has a label", "label"),
    "blank labels": (
        "file,class",
        "{0}, ",
        "{1}, ",
        "t.csv has a label",
        "fill in class",
    ),
    "no line of names": ("{0},ant", "{1},bee", "", "no line of column names", "path,label above"),
    "a web page": ("<!DOCTYPE html>", "<html>", "</html>", "is no table", "web page"),
    "a page without a type": ("<html>", "<body>", "</html>", "is no table", "web page"),
    "other names": ("path,label", "x.png,a", "y.png,b", "names a picture", "write the paths"),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_a_table_that_labels_nothing_is_refused_by_its_cause(name: str, tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    header, first, second, said, hint = (
        part.format(rows[0][0], rows[1][0]) for part in NO_TABLES[name]
    )
    with pytest.raises(DataError) as caught:
        labeled(images, table(tmp_path / "t.csv", header, first, second))
    assert said in caught.value.message and hint in str(caught.value.hint)
    assert caught.value.got and caught.value.expected


def test_a_picture_whose_row_has_no_label_is_counted_once(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{p},{'' if i < 3 else c}" for i, (p, c) in enumerate(rows)]
    found = labeled(images, table(tmp_path / "t.csv", "path,label", *lines)).table
    assert found["without_label"]["count"] == 3 and "without_row" not in found
    found = labeled(images, table(tmp_path / "t.csv", "path,label", *lines[1:])).table
    assert (found["without_label"]["count"], found["without_row"]["count"]) == (2, 1)


def test_columns_of_which_one_is_1_in_each_row_are_classes(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    names = sorted({label for _, label in rows})
    lines = [
        f"{path[:-4]},{','.join(str(float(name == label)) for name in names)},{len(path)}"
        for path, label in rows
    ]
    header = f"image,{','.join(names)},age"
    found = labeled(images, table(tmp_path / "one.csv", header, *lines))
    labels = [found.classes[i] for i in found.labels]
    assert labels == [label for _, label in sorted(rows)]
    assert found.table["one_hot"] == names

    two = [*lines[:-1], lines[-1].replace("0.0", "1.0")]
    with pytest.raises(DataError, match="has no column label") as caught:
        labeled(images, table(tmp_path / "two.csv", header, *two))
    assert "model.multi_label=true" in str(caught.value.hint)


@pytest.mark.parametrize("key", ["image_id", "id", "ID", "img", "image_name", "filename"])
@pytest.mark.parametrize("suffix", [True, False])
def test_a_key_of_pictures_is_the_path_where_no_column_is_called_so(
    tmp_path: Path, key: str, suffix: bool
) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path if suffix else path[:-4]},{label}" for path, label in rows]
    found = labeled(images, table(tmp_path / "a.csv", f"{key},label", *lines))
    assert len(found) == len(rows)


def test_a_key_that_names_no_picture_leads_to_the_column_path(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{number},{path},{label}" for number, (path, label) in enumerate(rows)]
    with pytest.raises(DataError, match="names a picture") as caught:
        labeled(images, table(tmp_path / "a.csv", "id,where,label", *lines))
    assert "column id: call the one that names the pictures path" in str(caught.value.hint)
    both = labeled(images, table(tmp_path / "b.csv", "id,path,label", *lines))
    assert len(both) == len(rows)


@pytest.mark.parametrize("header", ["file,diagnosis", "split,file,diagnosis"])
def test_the_only_other_column_holds_the_labels_and_is_named(tmp_path: Path, header: str) -> None:
    images, rows = flat(tmp_path)
    first = "train," if header.startswith("split") else ""
    file = table(tmp_path / "t.csv", header, *(f"{first}{path},{label}" for path, label in rows))
    found = labeled(images, file)
    assert [found.classes[i] for i in found.labels] == [label for _, label in sorted(rows)]
    assert found.table["only_other"] == "diagnosis"


@pytest.mark.parametrize("column", ["set", "phase", "Usage", "data_split"])
def test_a_column_that_says_the_part_of_every_row_is_read_whatever_it_is_called(
    tmp_path: Path, column: str
) -> None:
    images, rows = flat(tmp_path)
    words = ("train", "Training", "val", "test")
    lines = [f"{path},{label},{words[i % 4]}" for i, (path, label) in enumerate(rows)]
    file = table(tmp_path / "t.csv", f"path,label,{column}", *lines)
    assert len(labeled(images, file)) == len(rows) / 2
    assert len(labeled(images, file, "val")) == len(rows) / 4
    assert labeled(images, file).table["part_by_values"] == column

    mixed = [line.replace(",test", ",other") for line in lines]
    found = labeled(images, table(tmp_path / "m.csv", f"path,label,{column}", *mixed))
    assert len(found) == len(rows) and not found.table.get("part_by_values")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("age", [str(30 + number) for number in range(12)]),
        ("price", [f"{number}.5" for number in range(12)]),
        ("remark", [f"seen by {number}" for number in range(30)]),
    ],
)
def test_a_column_of_quantities_or_remarks_is_taken_for_no_classes(
    tmp_path: Path, column: str, values: list[str]
) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path},{values[i % len(values)]}" for i, (path, _) in enumerate(rows)]
    with pytest.raises(DataError, match="no column"):
        labeled(images, table(tmp_path / "t.csv", f"file,{column}", *lines))


@pytest.mark.parametrize("sign", [";", ","])
@pytest.mark.parametrize("column", ["tags", "labels"])
def test_a_sign_between_labels_parts_them_where_they_stand_in_other_company_too(
    tmp_path: Path, sign: str, column: str
) -> None:
    images, rows = flat(tmp_path)
    tags = ["green,round,big", "red,round", "red"]
    lines = [
        f'{path},"{tags[i % 3].replace(",", sign)}"' for i, (path, _) in enumerate(sorted(rows))
    ]
    found = labeled(images, table(tmp_path / "t.csv", f"file,{column}", *lines), several=True)
    assert found.classes == ["big", "green", "red", "round"]
    assert found.targets(found.classes)[:3].tolist() == [[1, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 0]]
    first = tags[0].replace(",", sign)
    assert found.table["between"] == {"sign": sign, "first": first}
    assert found.table.get("only_other") == ("tags" if column == "tags" else None)


def test_a_comma_that_belongs_to_a_name_parts_nothing(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    names = ['"tench, Tinca tinca"', '"goldfish, Carassius auratus"']
    lines = [f"{path},{names[i % 2]}" for i, (path, _) in enumerate(rows)]
    found = labeled(images, table(tmp_path / "t.csv", "file,label", *lines), several=True)
    assert found.classes == ["goldfish, Carassius auratus", "tench, Tinca tinca"]

    bars = [
        f'{path},"{"ant, red|bee" if i % 2 else "ant, red"}"' for i, (path, _) in enumerate(rows)
    ]
    found = labeled(images, table(tmp_path / "b.csv", "file,label", *bars), several=True)
    assert found.classes == ["ant, red", "bee"]


def test_the_hint_of_a_table_without_labels_leads_on(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path},a;{'b' if i % 2 else 'c'},nobody" for i, (path, _) in enumerate(rows)]
    file = table(tmp_path / "t.csv", "file,tags,author", *lines)
    for several, classes in ((True, ["a", "b", "c"]), (False, ["a;b", "a;c"])):
        with pytest.raises(DataError, match=r"no column label|neither a column labels") as caught:
            labeled(images, file, several=several)
        assert "dataset.labels.columns=[NAME]" in str(caught.value.hint)
        assert labeled(images, file, several=several, columns=["tags"]).classes == classes


def test_a_second_column_of_labels_is_named_with_the_field_that_reads_it(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path},{i % 2},{'ant' if i % 3 else 'bee'}" for i, (path, _) in enumerate(rows)]
    file = table(tmp_path / "t.csv", "file,label,label_name", *lines)
    found = labeled(images, file)
    assert found.classes == ["0", "1"]
    assert found.table["other_labels"] == {"label_name": "label"}
    overrides = {"dataset.labels.train": str(file)}
    warned = "\n".join(
        answers.inspect(str(images), spec_overrides=overrides)["verdict"]["warnings"]
    )
    setting = warned.partition(": dataset.labels.columns=[")[2].partition("]")[0]

    for several in (False, True):
        found = labeled(images, file, columns=[setting], several=several)
        assert found.classes == ["ant", "bee"] and "other_labels" not in found.table

    with pytest.raises(DataError, match="has no column label_nmae") as caught:
        labeled(images, file, columns=["label_nmae"])
    assert caught.value.field == "dataset.labels.columns"
    with pytest.raises(DataError, match="are not columns of 0 and 1"):
        labeled(images, file, columns=["label", "label_name"])


def test_the_columns_of_0_and_1_that_are_named_are_the_classes_of_one_label_too(
    tmp_path: Path,
) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path},{i % 2},{1 - i % 2},{i % 2}" for i, (path, _) in enumerate(rows)]
    file = table(tmp_path / "t.csv", "file,ant,bee,sharp", *lines)
    assert labeled(images, file, columns=["bee", "ant"]).classes == ["ant", "bee"]


@pytest.mark.parametrize("top", ["# made by hand\n#  second, line\n", "\n", "#\n\n", "# v1\n#"])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_lines_of_comments_above_the_names_of_columns_are_no_rows(
    tmp_path: Path, top: str, sign: str
) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path}{sign}{name}" for path, name in rows]
    file = table(tmp_path / "t.csv", f"{top}file{sign}label", *lines)
    found = labeled(images, file)
    assert found.classes == sorted({name for _, name in rows})
    assert found.table == {"file": str(file), "rows": len(rows)}
    with pytest.raises(DataError, match=rf"line {top.count(chr(10)) + 2} has more values"):
        labeled(images, table(file, f"{top}file{sign}label", f"{lines[0]}{sign}more"))


def test_a_row_that_begins_with_a_number_sign_is_a_row(tmp_path: Path) -> None:
    images, rows = flat(tmp_path)
    lines = [f"{path},{name}" for path, name in rows]
    found = labeled(images, table(tmp_path / "t.csv", "file,label", *lines, "#1.png,ant"))
    assert found.table["without_picture"]["files"] == ["#1.png"]


def test_whole_numbers_are_classes_as_such_where_some_are_missing(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images, rows = flat(tmp_path)
    numbers = [float(i % 2) if i else None for i in range(len(rows))]
    columns = {"path": [path for path, _ in rows], "label": numbers}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    made = "\n".join(
        f"{path},{'' if number is None else number}"
        for (path, _), number in zip(rows, numbers, strict=True)
    )
    for file in (tmp_path / "t.parquet", table(tmp_path / "t.csv", "path,label", made)):
        found = labeled(images, file)
        assert found.classes == ["0", "1"], file
        assert found.table["without_label"]["count"] == 1

    halves = [f"{path},{1 + i % 2 / 2}" for i, (path, _) in enumerate(rows)]
    assert labeled(images, table(tmp_path / "h.csv", "path,label", *halves)).classes == [
        "1.0",
        "1.5",
    ]


def packed(folder: Path, name: str) -> Path:
    """The pictures of `flat` in an archive, alone in a folder."""
    images, _ = flat(folder.parent / f"made {folder.name}")
    folder.mkdir(parents=True)
    return Path(shutil.make_archive(str(folder / name), "zip", images))


@pytest.mark.parametrize(
    ("beside", "found"),
    [
        (["labels.csv"], "set dataset.labels.train=FOLDER/labels.csv"),
        (["train_labels.csv", "val_labels.csv"], "dataset.labels.train=FOLDER/train_labels.csv"),
        (["labels_train.tsv", "readme.csv"], "dataset.labels.train=FOLDER/labels_train.tsv"),
        (["labels.zip"], "if FOLDER/labels.zip holds a table of their labels, unpack it"),
        (["labels_train.zip", "labels_val.zip"], "if FOLDER/labels_train.zip holds a table"),
        (["val_labels.csv"], None),
        (["val_labels.zip", "more.zip"], None),
        (["a.csv", "b.csv"], None),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_a_plan_names_the_labels_that_lie_beside_an_archive(
    s3: S3Server, tmp_path: Path, beside: list[str], found: str | None, remote: bool
) -> None:
    root = s3.bucket(f"beside-{len(list(tmp_path.parent.iterdir()))}") if remote else tmp_path
    archive = packed(tmp_path / "set", "images_train")
    if remote:
        shutil.copytree(archive.parent, root / "set")
    for name in beside:
        (root / "set" / name).write_bytes(b"path,label")
    folder = f"s3://{root.name}/set" if remote else str(root / "set")
    with pytest.raises(DataError) as caught:
        Skill().plan(
            "train",
            train_datasets=f"{folder}/images_train.zip",
            automl_policy="off",
            spec_overrides={"train.stage": "finetune", "model.num_classes": 3},
        )
    hint = str(caught.value.hint)
    if found is None:
        assert folder not in hint
    else:
        assert found.replace("FOLDER", folder) in hint
