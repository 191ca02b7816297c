"""The documents are true: links resolve, commands parse with the real command line, JSON and dotted
keys exist in the schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.docs import ROOT, commands, fences, links, pages

TRIGGERS = (
    "pretrain MAE",
    "self-supervised vision pretraining",
    "Masked Autoencoder",
    "Mask Auto-Encoder",
    "MAE fine-tune",
)
PAGES = pages()
SECTIONS = "model|dataset|train|evaluate|inference|export|gen_trt_engine"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_resolves(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_that_mae_takes(page: Path) -> None:
    import click
    from mae_sdk.cli.main import cli

    for words in commands(page):
        command: Any = cli
        rest = list(words)
        if rest[0].startswith("-") or rest[0] == "COMMAND":
            continue
        path = ["mae"]
        while isinstance(command, click.Group) and rest:
            context = click.Context(command, info_name=" ".join(path))
            if rest[0].startswith("-"):
                break
            found = command.get_command(context, rest[0])
            assert found is not None, f"{name(page)}: mae {' '.join(words)}"
            command = found
            path.append(rest.pop(0))
        if not rest and not isinstance(command, click.Group):
            continue  # a bare mention of the command
        if "--help" in rest or isinstance(command, click.Group):
            continue
        rest = [word for word in rest if word not in ("DIR]",)]
        rest = [re.sub(r"^(auto\|on\|off|best\|latest\|epoch:N)$", "auto", word) for word in rest]
        optional_only = [parameter for parameter in command.params if parameter.required]
        context = command.make_context(
            " ".join(path),
            rest,
            resilient_parsing=bool(optional_only) and all(word.startswith("-") for word in rest),
        )
        unknown = [word for word in context.args if word.startswith("-")]
        assert not unknown, f"{name(page)}: mae {' '.join(words)}"


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every dotted key, sections included, of every schema."""
    found: set[str] = set()

    def walk(node: dict[str, Any], prefix: str) -> None:
        for child_name, child in (node.get("properties") or {}).items():
            key = f"{prefix}.{child_name}" if prefix else child_name
            found.add(key)
            walk(child, key)

    for path in sorted((ROOT / "schemas").glob("*.schema.json")):
        walk(json.loads(path.read_text()), "")
    assert "train.optim.lr" in found
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_dotted_key_is_in_a_schema(page: Path, keys: set[str]) -> None:
    text = page.read_text(encoding="utf-8")
    aliases = {"model.mask_ratio", "model.norm_pix_loss"}
    files = re.compile(r"\.(md|yaml|json|py|gz|csv|onnx|engine|pth|html|schema|safetensors)\b")
    used = {
        match
        for match in re.findall(rf"(?<![\w/.])(?:{SECTIONS})(?:\.[a-z_0-9]+)+", text)
        if not files.search(match)
    }
    assert sorted(used - keys - aliases) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_json_block_is_json(page: Path) -> None:
    for body in fences(page, "json"):
        assert isinstance(json.loads(body), (dict, list))


def test_the_skill_description_carries_the_trigger_phrases() -> None:
    from mae_sdk.cli.bundle import front_matter

    description = front_matter(ROOT / "SKILL.md")["description"]
    assert [phrase for phrase in TRIGGERS if f'"{phrase}"' not in description] == []


def test_the_skill_is_short_enough_to_read_every_time() -> None:
    text = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 500
    assert len(text) / 4 < 5000  # four characters a token, on average


def test_the_installed_skills_pass_the_reference_validator(tmp_path: Path) -> None:
    from mae_sdk.cli.bundle import install_bundle
    from skills_ref import validate

    installed = install_bundle(ROOT, tmp_path)
    assert [path.name for path in installed] == ["tao-train-mask-auto-encoder", "tao-run-automl"]
    assert [problem for path in installed for problem in validate(path)] == []


def test_installing_over_a_copy_is_refused_unless_forced(tmp_path: Path) -> None:
    from mae_sdk.cli.bundle import install_bundle
    from mae_skill.errors import UsageError

    install_bundle(ROOT, tmp_path)
    marker = tmp_path / "tao-train-mask-auto-encoder" / "mine.txt"
    marker.write_text("keep me")
    with pytest.raises(UsageError, match="already installed"):
        install_bundle(ROOT, tmp_path)
    assert marker.exists()
    install_bundle(ROOT, tmp_path, force=True)
    assert not marker.exists()


def test_the_error_page_names_every_code_with_its_exit() -> None:
    from mae_skill import errors

    text = (ROOT / "references" / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| (\d+) \|", text, re.MULTILINE))
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.MaeError)
        and kind is not errors.MaeError
    ]
    assert {kind.code: str(kind.exit_code) for kind in classes}.items() <= rows.items()


def test_the_skill_installs_by_an_agents_name_and_the_copy_is_a_whole_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner
    from mae_sdk import Skill
    from mae_sdk.cli.bundle import AGENT_FOLDERS, check_bundle
    from mae_sdk.cli.main import cli

    monkeypatch.setenv("HOME", str(tmp_path))
    names = [word for agent in AGENT_FOLDERS for word in ("--agent", agent)]
    done = CliRunner().invoke(cli, ["skill", "install", *names, "--json"])
    assert done.exit_code == 0, done.output
    copies = [
        Path(place).expanduser() / "tao-train-mask-auto-encoder" for place in AGENT_FOLDERS.values()
    ]
    assert all((copy / "SKILL.md").is_file() and tmp_path in copy.parents for copy in copies)
    assert check_bundle(str(copies[0]))[1] == []
    assert [
        target
        for page in copies[0].rglob("*.md")
        for target in links(page)
        if not (page.parent / target).exists()
    ] == []
    assert list(Skill(copies[0]).bundle.info["actions"]) == list(Skill().bundle.info["actions"])


def test_an_install_without_the_program_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner
    from mae_sdk.cli.main import cli

    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(cli, ["skill", "install", "--dest", str(tmp_path / "skills")])
    assert done.exit_code == 0 and "pip install 'mae-skill[train]'" in done.output
    assert (
        "pip install 'mae-skill[train]'"
        in (tmp_path / "skills/tao-train-mask-auto-encoder/SKILL.md").read_text()
    )


def test_the_manifests_for_agents_name_what_is_there() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugin = json.loads((ROOT / ".claude-plugin/plugin.json").read_text())
    market = json.loads((ROOT / ".claude-plugin/marketplace.json").read_text())
    gemini = json.loads((ROOT / "gemini-extension.json").read_text())
    assert {plugin["name"], market["plugins"][0]["name"], gemini["name"]} == {project["name"]}
    version = project.get("version") or plugin["version"]
    assert {plugin["version"], gemini["version"]} == {version}
    assert (ROOT / market["plugins"][0]["source"] / ".claude-plugin" / "plugin.json").is_file()
    assert all((ROOT / folder / "SKILL.md").is_file() for folder in plugin["skills"])
    assert (ROOT / gemini["contextFileName"]).is_file()
    for servers in (plugin["mcpServers"], gemini["mcpServers"]):
        assert servers["mae"]["command"] in project["scripts"] and servers["mae"]["args"] == ["mcp"]


def test_the_mappings_page_is_the_table_of_skill_info() -> None:
    from mae_sdk import Skill

    rows = re.findall(
        r"^\| (\w+) \| ([\w.]+) \| (\w+) \|",
        (ROOT / "references" / "mappings.md").read_text(),
        re.MULTILINE,
    )
    rows = [row for row in rows if row[0] != "action"]
    params = Skill().bundle.spec_params
    expected = [
        (action, key, row["function"] if isinstance(row, dict) else str(row))
        for action, table in params.items()
        for key, row in table.items()
    ]
    assert sorted(rows) == sorted(expected) and len(rows) == 20


def test_the_automl_page_lists_every_option_of_the_model() -> None:
    from mae_sdk.automl.options import PAGE, AutoMLOptions, page

    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page(text) == text, "stale: mae skill generate"
    listed = re.findall(r"^\| (\w+) \|", text.partition("## Every")[2], re.MULTILINE)
    assert listed == ["key", *AutoMLOptions.model_fields]


def test_every_set_of_overrides_in_the_references_is_a_valid_spec_of_its_action() -> None:
    from mae_sdk.plan.layers import resolve_spec
    from mae_skill.bundle import Bundle

    bundle = Bundle.load(None)
    seen = set()
    for page in sorted((ROOT / "references").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for body in [*fences(page, "json"), *re.findall(r"`(\{\"[^`\n]+\})`", text)]:
            overrides = json.loads(body)
            if not all(re.match(rf"({SECTIONS})\.", key) for key in overrides):
                continue
            action = page.stem if page.stem in bundle.info["actions"] else "train"
            found, _ = resolve_spec(bundle, action, {}, overrides, looks=False)
            assert not {str(error.field) for error in found.errors} & set(overrides), (
                f"{name(page)}: {found.errors}"
            )
            seen.add(page.stem)
    assert {"train", "evaluate", "inference"} <= seen


def test_the_architecture_page_names_files_that_are_there_and_the_rooms_of_the_walls() -> None:
    from tests.walls.test_rooms import FLOORS

    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:skill|sdk|runners|references|tests)/[\w./]+)`", text)
    assert len(named) > 10 and [file for file in named if not (ROOT / file).exists()] == []
    for package, floors in FLOORS.items():
        (rooms,) = re.findall(rf"^\| `{package}`[^|]*\| ([^|]*) \|", text, re.MULTILINE)
        assert re.findall(r"`(\w+)`", rooms) == floors


def test_the_menu_of_the_site_has_every_notebook_and_every_reference() -> None:
    import yaml

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    menu = json.dumps(site["nav"])
    pages = [f"notebooks/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")]
    pages += [f"references/{path.name}" for path in (ROOT / "references").glob("*.md")]
    assert len(pages) > 20
    assert [page for page in pages if page not in menu] == []
