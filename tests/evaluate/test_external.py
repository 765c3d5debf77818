"""The external check without VLMEvalKit: what it wrote is read and compared, and its processes and refusals.

The files in `tests/golden/vlmevalkit/` are the real kit's (`kit_cases.py`).
"""

from __future__ import annotations

import base64
import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kit_cases
import pytest
from endpoint import endpoint
from eval_files import Says, b64, mcq, tsv
from hypothesis import given
from hypothesis import strategies as st

from open4ov import cli
from open4ov.errors import UserError
from open4ov.evaluate import external, external_process, external_results, external_sets, vlmevalkit_worker
from open4ov.evaluate.answer_book import AnswerBook
from open4ov.evaluate.benchmarks import Type, registry
from open4ov.evaluate.external_results import Difference, kappa
from open4ov.evaluate.file_suite import FileSuite

GOLDEN = Path(__file__).parents[1] / "golden" / "vlmevalkit"


def compared(tmp_path: Path, work: Path = GOLDEN, pictures: str = "exact") -> dict[str, tuple[Any, list[Difference]]]:
    """Figures and differences of each set, when both were told the same."""
    sets = kit_cases.sets(tmp_path)
    book = AnswerBook(tmp_path)
    Says(lambda item: kit_cases.said(item.prompt), "says").ask([one.suite for one in sets], book, None)
    book.close()
    ours = external._ours(sets, "says", tmp_path)
    found: dict[str, tuple[Any, list[Difference]]] = {}
    for one in sets:
        theirs = external_results.read(one, work, external_process.MODEL)
        found[one.suite.name] = external_results.compare(one, ours[one.name], theirs, pictures)
    return found


def told(differences: list[Difference]) -> dict[int, str]:
    return {int(one.index): one.why for one in differences}


def test_the_kits_files_are_read_and_every_difference_is_known(tmp_path: Path) -> None:
    found = compared(tmp_path)
    figures = {name: row for name, (row, _) in found.items()}
    for name, row in figures.items():
        assert row["items"] == len(kit_cases.SETS[name])  # type: ignore[index]
        assert row["same_prompt"] == row["items"], name  # the kit asks in our words
        assert not row["only_ours"]
        assert not row["only_theirs"]
    assert {name: told(differences) for name, (_, differences) in found.items()} == EXPECTED


READ = "the same answer is read differently: as {} here, {} there".format
LETTERS = "the same answer is scored differently: here equal numbers, units and spellings count, there the letters do"
LENGTHS = (
    "the same answer is scored differently: the lengths are taken after spaces are evened out here, before it there"
)
EXPECTED: dict[str, dict[int, str]] = {
    "mcq": {
        6: READ("B", "undecided"),
        9: READ("C", "undecided"),
        11: READ("B", "undecided"),
        14: READ("B", "undecided"),
        15: READ("B", "undecided"),
        17: READ("C", "undecided"),
        19: "VLMEvalKit got no answer, or an empty one",
    },
    "yes_no": {4: READ("no", "undecided"), 5: READ("yes", "undecided"), 6: READ("yes", "undecided")},
    "vqa": {3: LETTERS, 5: LETTERS},
    "anls": {3: LENGTHS},
    "relaxed": {},
}


def test_figures_of_a_set(tmp_path: Path) -> None:
    row, differences = compared(tmp_path)["yes_no"]
    assert row["kit_class"] == "ImageYORNDataset"
    rights = {"ours": row["ours"] * row["items"], "theirs": row["theirs"] * row["items"]}
    assert rights["ours"] - rights["theirs"] == len([one for one in differences if one.our_verdict > one.their_verdict])
    assert 0 < row["kappa"] < 1


def test_another_prompt_or_answer_is_named_before_the_rules_are(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(GOLDEN, work)
    asked = work / "set1.asked.jsonl"
    asked.write_text(asked.read_text().replace("Question: mcq question 1?", "Q: mcq question 1?"))
    answers = work / "open4ov" / "open4ov_set1.tsv"
    answers.write_text(answers.read_text().replace('"(B)"', '"(C)"'))
    differences = compared(tmp_path, work)["mcq"][1]
    assert told(differences)[1] == "the questions are worded differently"
    assert {one.what for one in differences if one.index == "1"} == {"prompt"}
    assert told(differences)[2].startswith("the same question got another answer")
    assert "JPEG" in told(compared(tmp_path, work, "kit")["mcq"][1])[2]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("set1.asked.jsonl", None, "did not finish this set"),
        ("set1.asked.jsonl", "{", "damaged"),
        ("open4ov/open4ov_set1.tsv", None, "wrote no such file"),
        ("open4ov/open4ov_set1_exact_matching_result.tsv", '"index"\t"answer"\n"1"\t"A"\n', "no column hit"),
        ("open4ov/open4ov_set2_auxmatch.tsv", 'index\tanswer\textracted\tscore\n1\tYes\tYes\t?\n', "no score"),
        ("open4ov/open4ov_set3_OCRVQA_results.tsv", "index\tanswer\teval_match\teval_gt\n77\ta\t[1]\ta\n", "index 77"),
    ],
)  # fmt: skip
def test_files_of_another_form_are_named(tmp_path: Path, name: str, damage: str | None, message: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(GOLDEN, work)
    (work / name).write_text(damage) if damage is not None else (work / name).unlink()
    with pytest.raises(UserError, match=message):
        compared(tmp_path, work)


def test_built_in_sets_become_three_kinds_that_can_be_asked(tmp_path: Path) -> None:
    files = external_sets.built_in_files(["colour", "comparing", "charts"], 8, 0, tmp_path / "a")
    again = external_sets.built_in_files(["colour", "comparing", "charts"], 8, 0, tmp_path / "b")
    assert set(files) == {"mcq", "yes_no", "vqa"}
    for kind, path in files.items():
        assert path.read_bytes() == again[kind].read_bytes()
        suite = external_sets.suite_of(kind, path)
        items = list(suite.items())
        assert len(items) == 8
        assert all(not hasattr(item, "reason") for item in items)
    choices = [item for item in external_sets.suite_of("mcq", files["mcq"]).items() if not hasattr(item, "reason")]
    assert len({item.answers[0] for item in choices}) > 1  # type: ignore[union-attr]
    for item in choices:
        options = list(item.options.values())  # type: ignore[union-attr]
        assert len(set(options)) == len(options) >= 2
    with pytest.raises(UserError, match="no question can be put to VLMEvalKit"):
        external_sets.built_in_files(["arithmetic"], 8, 0, tmp_path / "c")


def test_a_file_is_written_for_the_kit_as_it_was_asked(tmp_path: Path) -> None:
    rows = [
        {"index": "7", "image": b64("blue"), "question": "Is it\tblue?\n", "answer": "是", "hint": "look"},
        {"index": "8", "image": "7", "question": "And now?", "answer": "no"},
        {"index": "9", "question": "without a picture", "answer": "no"},
        {"index": "10", "image": "broken", "question": "?", "answer": "no"},
    ]
    known = registry()
    entry = known.of_type("own", "yes_no")
    suite = FileSuite("MMBench of mine", entry, tsv(tmp_path / "x.tsv", rows), known.prompt(entry.prompt))
    (one,), _ = external_sets.kit_sets([suite])
    assert one.name == "set1"  # no word that would choose another scorer
    assert external_sets.export(one, tmp_path / "kit.tsv") == 2
    with (tmp_path / "kit.tsv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    assert [row["index"] for row in found] == ["1", "2"]
    assert [row["answer"] for row in found] == ["Yes", "No"]
    assert found[0]["question"] == "Is it\tblue?\n"
    assert found[0]["hint"] == "look"
    assert found[0]["image"] == found[1]["image"]
    assert base64.b64decode(found[0]["image"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(("kind", "why"), [("boxed", "no score of each item"), ("contains", "no score of each item")])
def test_what_cannot_be_compared_is_said(tmp_path: Path, kind: Type, why: str) -> None:
    known = registry()
    entry = known.of_type("own", kind)
    path = tsv(tmp_path / "x.tsv", [{"index": "1", "image": b64(), "question": "q", "answer": "a"}])
    found, left = external_sets.kit_sets([FileSuite("own", entry, path, known.prompt(entry.prompt))])
    assert not found
    assert why in left["own"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_kappa_is_agreement_beyond_chance(pairs: list[tuple[bool, bool]]) -> None:
    found = kappa(pairs)
    if not pairs or len({one for pair in pairs for one in pair}) == 1:
        assert found is None
        return
    assert found is not None
    assert -1 - 1e-9 <= found <= 1 + 1e-9
    assert (abs(found - 1) < 1e-9) == all(a == b for a, b in pairs)


def test_kappa_of_a_table_from_the_literature() -> None:
    """Twenty proposals to give both yes, fifteen both no, fifteen split five to ten: 0.4 (the usual worked example)."""
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert kappa(pairs) == pytest.approx(0.4)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(external.PYTHON, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["open4ov", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_without_the_kit_the_way_to_it_is_named(call) -> None:
    code, _, err = call("eval", "nano", "--harness", "vlmevalkit", "--suite", "colour")
    assert code == 2
    assert "scripts/vlmeval_venv.sh .venv-vlmeval" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--harness", "lmms"), "no such harness; known: vlmevalkit"),
        (("--must-agree",), "--must-agree has no effect without --harness"),
        (("--harness-pictures", "kit"), "--harness-pictures has no effect without --harness"),
        (("--harness", "vlmevalkit", "--circular"), "--circular cannot go with --harness"),
        (("--harness", "vlmevalkit", "--samples", "4"), "--samples cannot go with --harness"),
        (("--harness", "vlmevalkit", "--harness-pictures", "png"), "exact or kit"),
    ],
)
def test_options_without_effect_are_refused(call, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = call("eval", "nano", "--suite", "colour", *arguments)
    assert code == 2
    assert message in err


KIT = """#!{python}
import json, os, sys
from pathlib import Path
job = json.loads(Path(sys.argv[-1]).read_text())
print(os.environ.get("OPENAI_API_KEY", "no key of the user's"), os.environ["LMDEPLOY_API_KEY"])
{body}
"""


def stand_in(path: Path, body: str) -> Path:
    """An interpreter that is none: it does what `body` says, whatever script it is given."""
    path.write_text(KIT.format(python=sys.executable, body=body))
    path.chmod(0o755)
    return path


def test_a_kit_that_fails_shows_its_last_words(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = stand_in(tmp_path / "python", "sys.exit('no module named pandas')")
    monkeypatch.setenv(external.PYTHON, str(python))
    path = tsv(tmp_path / "mine.tsv", mcq(3))
    with endpoint(lambda *_: "A") as server:
        mine = ("eval", server.url, "--model", "m", "--data", str(path), "--suite", "mine", "--type", "mcq",
                "--harness", "vlmevalkit", "--out", "a")  # fmt: skip
        code, _, err = call(*mine)
        assert code == 2
        assert "VLMEvalKit failed (exit code 1)" in err
        assert "no key of the user's k" in err
        assert "no module named pandas" in err
        call(*mine)
        assert len(server.bodies) == 3  # ours are kept


WRITES = """
folder = Path(job["work"]) / "open4ov"
folder.mkdir()
(folder / "open4ov_set1.tsv").write_text("index\\tprediction\\n1\\tA\\n2\\tA\\n3\\tA\\n")
scores = "index\\tanswer\\thit\\n1\\tA\\t1\\n2\\tB\\t0\\n3\\tA\\t{hit}\\n"
(folder / "open4ov_set1_exact_matching_result.tsv").write_text(scores)
(folder.parent / "set1.asked.jsonl").write_text(Path({asked!r}).read_text())
(folder.parent / "versions.json").write_text('{{"ms-vlmeval": "0.0.20"}}')
"""


def test_must_agree_decides_the_exit_code(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tsv(tmp_path / "mine.tsv", mcq(3))
    known = registry()
    entry = known.of_type("mine", "mcq")
    items = list(FileSuite("mine", entry, path, known.prompt(entry.prompt)).items())
    asked = tmp_path / "asked.jsonl"
    lines = [{"index": str(n + 1), "prompt": item.prompt, "read": "A"} for n, item in enumerate(items)]  # type: ignore[union-attr]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with endpoint(lambda *_: "A") as server:
        for hit, agrees in (("1", True), ("0", False)):
            body = WRITES.format(hit=hit, asked=str(asked))
            monkeypatch.setenv(external.PYTHON, str(stand_in(tmp_path / "python", body)))
            mine = ("eval", server.url, "--model", "m", "--data", str(path), "--suite", "mine", "--type", "mcq",
                    "--harness", "vlmevalkit", "--out", f"out-{hit}")  # fmt: skip
            code, out, err = call(*mine)
            assert code == 0, err
            assert ("2 of 3" in out) != agrees
            found = json.loads((tmp_path / f"out-{hit}" / "agreement.json").read_text())
            assert found["schema"] == "open4ov.agreement/1"
            assert found["agrees"] is agrees
            assert len(found["differences"]) == (0 if agrees else 1)
            code, _, err = call(*mine, "--must-agree")
            assert code == (0 if agrees else 2)
            assert ("--must-agree: VLMEvalKit's verdicts are not all ours" in err) == (not agrees)


@pytest.mark.slow
def test_a_server_that_does_not_come_up_shows_why(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="ended before it listened"),
        external_process.serving(tmp_path / "nothing", tmp_path / "server.log"),
    ):
        pass


ORPHAN = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from open4ov.evaluate.external_process import process
sleeper = "import time; print('up', flush=True); time.sleep(600)"
with process([sys.executable, "-c", sleeper], {{}}, Path({log!r})) as one:
    print(one.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_command(tmp_path: Path, ended: signal.Signals) -> None:
    log = tmp_path / "log"
    source = ORPHAN.format(path=[str(Path(external.__file__).parents[2])], log=str(log))
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        while not log.read_text():
            time.sleep(0.05)
        parent.send_signal(ended)
        parent.wait()
    while _runs(child):
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_key_of_our_server_is_no_argument_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Stopped(Exception):
        pass

    def popen(command: list[str], **options: Any) -> None:
        seen.append((command, options["env"]))
        raise Stopped

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(Stopped), external_process.serving(tmp_path, tmp_path / "log"):
        pass
    ((command, environment),) = seen
    assert len(environment["OPEN4OV_API_KEYS"]) > 30
    assert environment["OPEN4OV_API_KEYS"] not in " ".join(command)
    assert os.environ.get("OPEN4OV_API_KEYS") != environment["OPEN4OV_API_KEYS"]


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_checkpoint_of_the_kit_is_looked_at_and_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a_checkpoint.pkl"
    full = pickle.dumps({1: "a" * 100})
    for data, whole in (
        (full, True),
        (pickle.dumps(Trap()), True),
        (pickle.dumps(None), False),
        (full[:-20], False),
        (b"", False),
    ):
        path.write_bytes(data)
        assert vlmevalkit_worker.whole(path) is whole
    assert not (tmp_path / "sprung").exists()
