"""Plans every action of every bundle below a folder, and judges each plan by the bundle's files.

``python benchmarks/bundles.py DIR [--out NAME] [--bundle WORD] [--full]`` prints a table: actions
planned rightly, refused with the true reason, and wrong. ``--out NAME`` writes it as
``benchmarks/results/NAME.md`` too. The judge reads ``skill_info.yaml``, the templates and the
schemas itself, with none of the SDK's code.

Each action gets what its bundle names: data (a small file, archive or folder of the name that its
row of ``data_sources`` has), a parent where a field takes the model of one, a path for every other
input that is not optional, and two GPUs of four.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2,3"

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
GPUS = 2


@dataclass
class Case:
    """One action of one bundle, and what came of it.

    Attributes:
        verdict: ``planned``, ``refused`` (for a true reason) or ``wrong``.
        why: of a refusal or a fault, one line each.
    """

    bundle: str
    action: str
    verdict: str = "wrong"
    why: list[str] = field(default_factory=list)
    automl: str = ""
    notices: list[str] = field(default_factory=list)


def read_yaml(path: Path) -> Any:
    """A YAML file as the bundle means it."""
    from mae_skill.reader import parse_yaml

    return parse_yaml(path.read_text(encoding="utf-8"))


def parts_of(key: str) -> list[str | int]:
    """``a.b[0].c`` as names and positions."""
    found: list[str | int] = []
    for name, position in re.findall(r"([^.\[\]]+)|\[(\d+)\]", key):
        found.append(name or int(position))
    return found


def value_at(document: Any, key: str) -> Any:
    """The value at a key, or None."""
    for part in parts_of(key):
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document by its key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from leaves(item, f"{key}[{at}]")
    else:
        yield key, value


def make(path: Path) -> None:
    """Something of the kind that a name says: an archive with a file, a file, or a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(ARCHIVES):
        inside = path.parent / ".member.txt"
        inside.write_text("content\n")
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
            archive.add(inside, "folder/member.txt")
        inside.unlink()
    elif path.suffix:
        path.write_text("{}")
    else:
        path.mkdir(exist_ok=True)
        (path / "member.txt").write_text("content\n")


def paths_of(row: dict[str, Any]) -> list[str]:
    """The paths that a row of ``data_sources`` names."""
    found = [row["path"]] if isinstance(row.get("path"), str) else []
    for name, table in row.items():
        if name.startswith("path_from_") and isinstance(table, dict):
            for one in table.values():
                found += [one] if isinstance(one, str) else list(one or ())
    for mapped in (row.get("mapping") or {}).values():
        found += paths_of(mapped) if isinstance(mapped, dict) else []
    return [path for path in found if "{" not in path]


def infos(folder: Path, stubs: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """The bundles of a folder: name, the path that loads it, its info. Each gets a page."""
    for root in sorted(path for path in folder.iterdir() if (path / "references").is_dir()):
        copy = stubs / root.name
        shutil.copytree(root, copy)
        page = copy / "SKILL.md"
        if not page.is_file():
            page.write_text(f"---\nname: {root.name}\ndescription: A bundle.\n---\n# Bundle\n")
        for path in sorted((copy / "references").glob("*skill_info.yaml")):
            whole = path.name == "skill_info.yaml"
            name = root.name if whole else f"{root.name} (deploy)"
            yield name, copy if whole else path, read_yaml(path)


def write_parent(
    root: Path, info: dict[str, Any], bundle: str, action: str, names: list[str]
) -> str:
    """A job that is COMPLETE and left these files; its id."""
    from mae_sdk import files
    from mae_sdk.jobs import records

    job = root / f"{action}-parent"
    for name in names:
        (job / action).mkdir(parents=True, exist_ok=True)
        (job / action / name).write_text("weights")
    (job / "spec.yaml").write_text("{}\n")
    record: dict[str, Any] = {
        "id": job.name,
        "action": action,
        "platform": "local",
        "skill": str(info.get("name") or bundle.split(" ")[0]),
        "network_arch": info.get("network_arch"),
        "launch": {"command": ["true"], "result": None},
    }
    records.new_attempt(record)
    for state in (records.RUNNING, records.COMPLETE):
        records.advance(record, state)
    files.write_json(job / records.RECORD_NAME, record)
    return job.name


class Run:
    """One action, given what its bundle names."""

    def __init__(
        self, name: str, path: Path, info: dict[str, Any], action: str, base: Path
    ) -> None:
        self.name, self.path, self.info, self.action, self.base = name, path, info, action, base
        self.entry = (info.get("actions") or {}).get(action) or {}
        rows = ((info.get("data_sources") or {}).get(action)) or {}
        self.rows = {key: row for key, row in rows.items() if isinstance(row, dict)}
        self.params = self.mappings()
        self.template = self.read_template()
        self.options: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    def mappings(self) -> dict[str, Any]:
        """The action's row of ``spec_params``."""
        return dict((self.info.get("spec_params") or {}).get(self.action) or {})

    def read_template(self) -> dict[str, Any]:
        """The action's template: the one it names, by its own name, or its schema's default."""
        root = self.path if self.path.is_dir() else self.path.parents[1]
        named = (self.info.get("spec_templates") or {}).get(self.action)
        for name in filter(None, (named, f"spec_template_{self.action}.yaml")):
            for place in (root / "references" / name, root / name):
                if place.is_file():
                    return dict(read_yaml(place) or {})
        schema = root / "schemas" / f"{self.action}.schema.json"
        if schema.is_file():
            return dict(json.loads(schema.read_text()).get("default") or {})
        return {}

    def prepare(self) -> None:
        """Data, parent, inputs and devices."""
        sources: dict[str, str] = {}
        for row in self.rows.values():
            source = str(row.get("source"))
            place = self.base / "data" / source
            place.mkdir(parents=True, exist_ok=True)
            (place / "member.txt").write_text("content\n")
            for path in paths_of(row):
                if path:
                    make(place / path)
            sources[source] = str(place)
        for name in ("train_datasets", "eval_dataset", "inference_dataset"):
            if name in sources:
                self.options[name] = sources.pop(name)
        if sources:
            self.options["sources"] = sources

        root = self.base / "results"
        self.options |= {"results_root": str(root), "automl_policy": "off"}
        functions = {key: str(row).split(",")[0] for key, row in self.params.items()}
        models = [key for key, word in functions.items() if word.startswith("parent_model")]
        if models:
            last = [key.rsplit(".", 1)[-1] for key in models]
            kind = ("train", ["model_epoch_000.pth", "model_epoch_001.pth"])
            if all("onnx" in word for word in last):
                kind = ("export", ["model.onnx"])
            elif all("engine" in word for word in last):
                kind = ("gen_trt_engine", ["model.engine"])
            self.options["parent_job_id"] = write_parent(root, self.info, self.name, *kind)

        inputs = self.entry.get("inputs")
        outputs = self.entry.get("outputs")
        declared = inputs.items() if isinstance(inputs, dict) else ()
        mapped = {key.split(".mapping")[0] for key in self.rows}
        for key, row in declared:
            optional = isinstance(row, dict) and row.get("optional")
            held = any(key == one or key.startswith((f"{one}.", f"{one}[")) for one in mapped)
            if optional or held or key in self.params or (outputs and key in outputs):
                continue
            present = value_at(self.template, key)
            if present not in (None, "", "???", [], [""]):
                continue
            kind = row.get("type") if isinstance(row, dict) else "file"
            name = key.replace(".", "_").replace("[", "_").replace("]", "")
            place = self.base / "inputs" / (name if kind == "folder" else f"{name}.dat")
            make(place)
            self.given[key] = [str(place)] if isinstance(present, list) else str(place)
        for key, value in leaves({} if isinstance(inputs, dict) else self.template):
            # What the template leaves to the user, where no table says what the action reads.
            section = parts_of(key)[0]
            if value != "???" or section in set(self.info["actions"]) - {self.action}:
                continue
            if not self.filled(key) and key not in self.given:
                place = self.base / "inputs" / key.replace(".", "_").replace("[", "_")
                make(place)
                self.given[key] = str(place)
        count = str(self.info.get("gpu_spec_key") or "")
        own = ".".join([self.action, *count.split(".")[1:]])
        takes_one = value_at(self.template, f"{self.action}.gpu_id") is not None
        for key in (own,) if takes_one else (own, count):
            if count and value_at(self.template, key) is not None:
                self.given[key] = GPUS
                ids = f"{key.rpartition('.')[0]}.gpu_ids"
                if isinstance(value_at(self.template, ids), list):
                    self.given[ids] = list(range(GPUS))
                break
        self.options["spec_overrides"] = self.given

    def filled(self, key: str) -> bool:
        """Whether a table of the bundle fills a field."""
        tables = (*self.rows, *self.params, *(self.entry.get("outputs") or ()))
        return any(key == one or key.startswith((f"{one}[", f"{one}.")) for one in tables)

    def judge(self) -> Case:
        """Plan it, and judge what came."""
        from mae_sdk import Skill
        from mae_skill.errors import MaeError

        case = Case(self.name, self.action)
        self.prepare()
        skill = Skill(self.path)
        try:
            plan = skill.plan(self.action, **self.options)
        except MaeError as error:
            problems = getattr(error, "problems", None) or [error]
            lines = [f"{one.field}: {one.message} ({one.got!s:.60})" for one in problems]
            case.verdict = "refused" if all(map(self.is_true, problems)) else "wrong"
            case.why = [
                line if self.is_true(one) else f"NOT TRUE {line}"
                for one, line in zip(problems, lines, strict=True)
            ]
            return case
        except Exception as error:
            case.why = [f"DIED {type(error).__name__}: {error}"]
            return case
        case.notices = [str(item) for item in (*plan.notices, *plan.warnings)]
        case.why = list(self.faults(plan))
        case.verdict = "wrong" if case.why else "planned"
        case.automl = self.automl(skill)
        return case

    def automl(self, skill: Any) -> str:
        """What the default policy makes of it, where the bundle enables AutoML."""
        from mae_skill.errors import MaeError

        entry = self.entry
        if not self.info.get("automl_enabled"):
            return ""
        if self.action != "train" and not entry.get("metric"):
            return ""
        options = {name: value for name, value in self.options.items() if name != "automl_policy"}
        try:
            plan = skill.plan(self.action, **options)
            kind = "study" if plan.study else "plain"
            if plan.study:
                return kind
            plan = skill.plan(self.action, **options, automl={"metric": "val_loss:minimize"})
            return f"{kind}; a study with metric=" if plan.study else f"{kind}; FAULT no study"
        except MaeError as error:
            problems = getattr(error, "problems", None) or [error]
            return f"FAULT {problems[0].field}: {problems[0].message}"
        except Exception as error:
            return f"FAULT died {type(error).__name__}: {error}"

    def is_true(self, problem: Any) -> bool:
        """Whether a refusal's reason is the bundle's own: it leaves something out that nobody can
        know, or its command needs a shell that it does not ask for.
        """
        key = str(problem.field)
        command = str(self.entry.get("command") or "")
        if key == f"actions.{self.action}.command":
            bare = command.replace("{config_path}", "")
            return not command.strip() or bool(re.search(r"[$`|;&<>\n]", bare))
        function = str(self.params.get(key) or "")
        return problem.message == "unknown inference function" and bool(
            re.match(r"(create|infer|resume|parent|ptm|output)_", function)
        )

    def faults(self, plan: Any) -> Iterator[str]:
        """What is wrong with a plan."""
        spec, job = plan.spec, str(plan.job_dir)
        known = set(self.template) | {
            str(parts_of(key)[0])
            for key in (
                *self.rows,
                *self.params,
                *self.given,
                *(self.entry.get("outputs") or ()),
                *(self.info.get("key_defaults") or ()),
            )
        }
        for name in set(spec) - known:
            if name not in self.schema_sections():
                yield f"the key {name} was made up"
        for key, value in leaves(spec):
            if value == "???" and not self.may_stay_open(key):
                yield f"{key} is still ???"
            if isinstance(value, str) and value.startswith("${"):
                yield f"{key} is still {value}"
        for key, row in self.rows.items():
            yield from self.data_faults(key, row, spec)
        yield from self.mapping_faults(spec, job)
        outputs = self.entry.get("outputs")
        for key in outputs if isinstance(outputs, dict) else ():
            value = value_at(spec, key)
            if not isinstance(value, str) or not value.startswith(job):
                yield f"the output {key} is {value!r}, not in the job's folder"
        for key, value in self.given.items():
            if value_at(spec, key) != value:
                yield f"{key} was given as {value!r} and is {value_at(spec, key)!r}"
        for key, value in (self.info.get("key_defaults") or {}).items():
            section = parts_of(key)[0]
            held = self.filled(key) or key in self.given
            if section in self.template and not held and value_at(spec, key) != value:
                yield f"the default {key}={value!r} is not applied: {value_at(spec, key)!r}"
        yield from self.launch_faults(plan)

    def may_stay_open(self, key: str) -> bool:
        """Whether no table of the bundle says that the action reads a field."""
        inputs = self.entry.get("inputs")
        if not isinstance(inputs, dict):
            return str(parts_of(key)[0]) in set(self.info["actions"]) - {self.action}
        read = any(key == one or key.startswith((f"{one}[", f"{one}.")) for one in inputs)
        return not read and not self.filled(key) and value_at(self.template, key) == "???"

    def schema_sections(self) -> set[str]:
        root = self.path if self.path.is_dir() else self.path.parents[1]
        schema = root / "schemas" / f"{self.action}.schema.json"
        if not schema.is_file():
            return set()
        found = json.loads(schema.read_text())
        return set(found.get("properties") or {}) | set(found.get("default") or {})

    def data_faults(self, key: str, row: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
        place = str(self.base / "data" / str(row.get("source")))
        value = value_at(spec, key)
        if key in self.given:
            return
        if "mapping" in row:
            one = value[0] if isinstance(value, list) and value else value
            if bool(row.get("multiple_sources")) != isinstance(value, list):
                yield f"{key} is {value!r:.80}"
            for name, mapped in row["mapping"].items():
                if not isinstance(mapped, dict) or not mapped.get("path"):
                    continue
                if not isinstance(one, dict) or one.get(name) != f"{place}/{mapped['path']}":
                    yield f"{key}.{name} is {one!r:.120}"
            return
        path = row.get("path")
        table = row.get("path_from_format")
        if path is None and isinstance(table, dict):
            path = table.get(self.info.get("data_format"), table.get("*"))
            path = path[-1] if isinstance(path, list) and path else path
        if path and "{" in path:
            return
        wanted: Any = f"{place}/{path}" if path else place
        if row.get("list") or row.get("multiple_sources"):
            wanted = [wanted]
        if value != wanted:
            yield f"{key} is {value!r:.120}, not {wanted!r:.120}"

    def mapping_faults(self, spec: dict[str, Any], job: str) -> Iterator[str]:
        models = []
        for key, row in self.params.items():
            value, function = value_at(spec, key), str(row).split(",")[0]
            if key in self.given:
                continue
            if function == "output_dir":
                if value != job and not str(value).startswith(f"{job}/"):
                    yield f"{key} is {value!r}, not the job's folder"
            elif function.startswith("parent_model"):
                models.append(value)
            elif function.startswith("create_"):
                if not str(value).startswith(f"{job}/"):
                    yield f"{key} is {value!r}, not in the job's folder"
            elif isinstance(row, dict) and "link" in row:
                if not str(value).endswith(str(row["link"]).rsplit("/", 1)[-1]):
                    yield f"{key} is {value!r}, not the file of {row['link']}"
            elif re.fullmatch(r"[A-Z]\w*", function) and value != function:
                yield f"{key} is {value!r}, not {function!r}"
        parent = self.options.get("parent_job_id")
        if models and parent and not any(f"/{parent}/" in str(value) for value in models):
            yield f"no field has the parent's model: {models}"

    def launch_faults(self, plan: Any) -> Iterator[str]:
        launch = plan.launch
        words = list(launch["command"])
        for word in words:
            if re.search(r"\{(config_path|job_dir|python|bundle_dir)\}", word):
                yield f"the command is not filled in: {word!r:.100}"
        format_ = str(self.entry.get("config_format") or "yaml")
        text = " ".join(words)
        if "{config_path}" in str(self.entry.get("command")) and f"spec.{format_}" not in text:
            yield f"the command reads no {format_}: {text:.100}"
        asked = GPUS in self.given.values() and not self.entry.get("distributed")
        if asked and launch.get("device_count") != GPUS:
            yield f"{launch.get('device_count')} devices instead of {GPUS}"


def table(cases: list[Case], *, full: bool = False) -> str:
    """The result as Markdown."""
    counts = Counter(case.verdict for case in cases)
    head = (
        f"{len(cases)} actions: {counts['planned']} planned rightly, {counts['refused']} refused "
        f"with the true reason, {counts['wrong']} wrong."
    )
    lines = [
        head,
        "",
        "| bundle | action | verdict | AutoML by default | why |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        why = "; ".join(case.why if full else case.why[:2]).replace("|", "\\|").replace("\n", " ")
        limit = 2000 if full else 160
        cells = (case.bundle, case.action, case.verdict, case.automl, why[:limit])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--out", metavar="NAME")
    parser.add_argument("--bundle", metavar="WORD", default="")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--notices", action="store_true")
    options = parser.parse_args()

    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as scratch:
        stubs = Path(scratch) / "bundles"
        for name, path, info in infos(options.folder.resolve(), stubs):
            for action in info.get("actions") or {}:
                if options.bundle not in name:
                    continue
                base = Path(scratch) / "runs" / str(len(cases))
                base.mkdir(parents=True)
                cases.append(Run(name, path, info, action, base).judge())
                cases[-1].why = [line.replace(scratch, "") for line in cases[-1].why]
    shown = table(cases, full=options.full)
    print(shown)
    if options.notices:
        for case in cases:
            print(case.bundle, case.action)
            print("\n".join(f"  - {line[:300]}" for line in case.notices))
    if options.out:
        results = Path(__file__).parent / "results"
        (results / f"{options.out}.md").write_text(table(cases))


if __name__ == "__main__":
    main()
