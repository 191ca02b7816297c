"""Folders that are named like parts of a data set, not like classes: train and val, labeled and
unlabeled, images and masks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any


def _plain(text: str) -> str:
    """Small letters without accents."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in folded if not unicodedata.combining(c))


def _table(words: str) -> frozenset[str]:
    return frozenset(_plain(word) for word in words.split())


_SPLITS = {
    "train": _table(
        "train training trainings trn tr trainval entraînement apprentissage entrenamiento "
        "addestramento allenamento treino treinamento trening eğitim обучение обучающая "
        "тренировка тренировочная 训练 訓練 学習 훈련 학습"
    ),
    "val": _table(
        "val valid validation dev eval evaluation holdout validierung validierungs validación "
        "validação validazione convalida validatie walidacja doğrulama валидация валидационная "
        "проверка 验证 驗證 検証 검증"
    ),
    "test": _table(
        "test testing tst infer inference prueba pruebas teste testes prova collaudo prüfung "
        "pruefung тест тестовая 测试 測試 テスト 테스트"
    ),
    "calibration": _table("calibration calib kalibrierung"),
    "part": _table("fold split shard"),
    "retrieval": _table("query queries gallery galleries probe probes distractor distractors"),
}
_BESIDE = _table("known support enrolled enrolment enrollment seen unseen novel")
"""Words of parts where every other folder is a part; alone they may be classes."""

_PIECES = _table(
    "part parts batch chunk piece slice subset set session archive bundle folder dir directory "
    "volume vol disc disk dump"
)
"""With a number, words of pieces that a data set was cut into, unless they are the matter."""

_MODALITIES = _table(
    "rgb depth ir infrared thermal nir swir lwir tir disparity lidar radar flow normals mask masks"
)
"""What several sensors or steps make of one scene."""

_MADE = _table(
    "thumbnail thumbnails thumb thumbs preview previews contactsheet contactsheets overlays "
    "masks annotations annots labels labelmaps gts groundtruth groundtruths segmentations trimaps "
    "visualization visualizations vis heatmaps backup backups bak tmp temp cache trash deleted "
    "rejected rejects discarded duplicate duplicates originals resized augmented exports logs"
)
"""What programs make of pictures, or leave beside them."""

_FILLERS = _table("set data dataset images imgs image img seg daten")
_TAILS = re.compile(rf"s?(set|data|daten|satz|menge|bilder|images|imgs)$|集$|{_plain('データ')}$")
_KIND_OF = {word: kind for kind, words in _SPLITS.items() for word in words}

_LABELED = _table("labeled labelled annotated supervised")
_UNLABELED = _table("unlabeled unlabelled unannotated unsupervised nolabel nolabels")
_IMAGES = _table(
    "image images img imgs jpegimages rgb photo photos picture pictures leftimg8bit bilder imágenes"
)
_MASKS = _table(
    "mask masks annotation annotations annot annots label labels labelmap labelmaps gt gts "
    "groundtruth groundtruths segmentation segmentations segmentationclass segmentationobject "
    "trimap trimaps gtfine gtcoarse masken máscaras"
)


def _words(name: str) -> list[str]:
    """``imagesTr`` → images, tr; ``val2017`` → val."""
    parts = re.split(r"[\s_.\-]+|(?<=[a-z])(?=[A-Z])", name)
    return [word for part in parts if (word := _plain(part).strip("0123456789"))]


def _kind(word: str) -> str | None:
    return _KIND_OF.get(word) or _KIND_OF.get(_TAILS.sub("", word) or word)


def split_of(name: str) -> str | None:
    """``train``, ``val``, ``test``, ``calibration``, ``part`` or ``retrieval`` where a folder is
    named like a part of a data set and like nothing else (``train``, ``val2017``, ``test_set``,
    ``imagesTr``, ``fold_3``, ``hold-out``, ``prueba``), else None."""
    everything = _words(name)
    words = [word for word in everything if word not in _FILLERS] or [_plain(name)]
    if words == ["ts"] and len(everything) > 1:  # imagesTs; alone it is a language
        return "test"
    kinds = {_kind(word) for word in words}
    if joined := _kind("".join(words)):  # hold-out
        kinds = {joined}
    kind = kinds.pop()
    if kinds or kind is None:
        return None
    return None if kind == "part" and not re.search(r"\d", name) else kind


def split_within(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The one kind of part that a name mentions, and its other words: ``my_train`` → train, my."""
    words = [word for word in _words(name) if word not in _FILLERS]
    kinds = {kind for word in words if (kind := _kind(word)) and kind != "part"}
    if len(kinds) != 1:
        return None
    return kinds.pop(), tuple(word for word in words if not _kind(word))


def split_folders(classes: Iterable[str]) -> list[str]:
    """The classes that are named like parts of a data set, where they show that the folders above
    the classes were taken: all of them are, two kinds of parts are among them, or half of them or
    more differ in the part that they mention alone (``my_train``, ``my_val``)."""
    listed = list(classes)
    kinds = {name: kind for name in listed if (kind := split_of(name))}
    everything = all(
        name in kinds or is_unlabeled(name) is not None or _one_word(name) in _BESIDE
        for name in listed
    )
    several = len(set(kinds.values()) - {"part", "retrieval"}) > 1
    if kinds and everything:
        return sorted(name for name in listed if is_unlabeled(name) is None)
    if several:
        return sorted(kinds)

    within = {name: found for name in listed if (found := split_within(name))}
    kinds_of: dict[tuple[str, ...], set[str]] = {}
    for kind, rest in within.values():
        kinds_of.setdefault(rest, set()).add(kind)
    pairs = [name for name, (_, rest) in within.items() if len(kinds_of[rest]) > 1]
    numbered = len(within) == len(listed) and len(set(within.values())) == 1 < len(listed)
    return sorted(within) if numbered or 2 * len(pairs) >= len(listed) > 0 < len(pairs) else []


def lone_split(classes: Iterable[str]) -> list[str]:
    """The classes that are named like parts of a data set, beside others that are not; ``train``
    is a vehicle there, and a ``probe`` an instrument."""
    named = [(name, split_of(name)) for name in classes]
    return sorted(
        name
        for name, kind in named
        if kind not in (None, "retrieval") and name.casefold() not in ("train", "trains")
    )


def made_folders(classes: Iterable[str]) -> list[str]:
    """The classes that are named like what programs make of pictures, or leave beside them
    (``thumbnails``, ``masks``, ``backup``); fewer than half of all classes."""
    listed = list(classes)
    named = [name for name in listed if _one_word(name) in _MADE]
    return sorted(named) if 2 * len(named) < len(listed) else []


def odd_parts(classes: Iterable[str]) -> list[str]:
    """The classes that may be pieces of one data set (``part1``, ``batch_2``) or several pictures
    of one scene (``rgb``, ``depth``): two of them and more, and all classes but a third at most."""
    listed = list(classes)
    pieces = [
        name
        for name in listed
        if (found := re.fullmatch(r"([^\W\d_]+)[\W_]*\d+", _plain(name))) and found[1] in _PIECES
    ]
    modalities = [name for name in listed if _one_word(name) in _MODALITIES]
    named = max(pieces, modalities, key=len)
    return sorted(named) if len(named) > 1 and 3 * len(named) >= 2 * len(listed) else []


def _one_word(name: str) -> str:
    return "".join(word for word in _words(name) if word not in _FILLERS) or _plain(name)


def is_unlabeled(name: str) -> bool | None:
    """Whether a folder is named like images without labels; False: like those with; None:
    neither."""
    words = [word for word in _words(name) if word not in _FILLERS and _kind(word) is None]
    joined = "".join(words)
    if joined in _UNLABELED:
        return True
    return False if joined in _LABELED else None


def unlabeled_folders(classes: Iterable[str]) -> list[str]:
    """The classes that are named like images without labels, and those with them beside."""
    known = {name: found for name in classes if (found := is_unlabeled(name)) is not None}
    return sorted(known) if True in known.values() else []


def mask_folders(folders: Iterable[str]) -> dict[str, list[str]]:
    """``{"images", "masks"}``: the folders of a segmentation set; empty where they are none."""
    listed = list(folders)
    found: dict[str, list[str]] = {"images": [], "masks": []}
    for name in listed:
        words = [word for word in _words(name) if _kind(word) is None]
        joined = "".join(words)
        if joined in _MASKS or (words and words[-1] in _MASKS and set(words[:-1]) <= _IMAGES):
            found["masks"].append(name)
        elif joined in _IMAGES:
            found["images"].append(name)
    both = found["images"] and found["masks"]
    return found if both and 2 * sum(map(len, found.values())) >= len(listed) else {}


_BESIDE_IMAGE = re.compile(r"(?P<image>.+?)[ _.-](?P<word>[^\W\d_]+)")


def masks_among(names: Iterable[str]) -> dict[str, Any]:
    """``{"count", "files"}``: the files of a source that are named as the masks of others beside
    them, ``a_mask.png`` of ``a.png``; empty where not nearly half of all are."""
    stems = {name.rpartition(".")[0]: name for name in names}
    found = [
        name
        for stem, name in stems.items()
        if (named := _BESIDE_IMAGE.fullmatch(stem)) and named["image"] in stems
        if named["word"].casefold() in _MASKS | {"seg"}
    ]
    if not found or 5 * len(found) < 2 * len(stems):
        return {}
    return {"count": len(found), "files": sorted(found)[:3]}
