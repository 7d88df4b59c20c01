"""What `diffusability gc` removes, what it keeps for which study, and when it refuses."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from diffusability.artifacts import records
from diffusability.artifacts.card import verified
from diffusability.artifacts.gc import find_garbage, find_leftovers, remove
from diffusability.artifacts.inventory import bytes_of, finished
from diffusability.artifacts.job import Job
from diffusability.artifacts.lock import exclusive, holder
from diffusability.artifacts.named_content import record_name
from diffusability.artifacts.records import find_studies, record_study
from diffusability.cli import main
from diffusability.errors import ArtifactError, DataError
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY

SMOKE = str(REPOSITORY / "studies" / "smoke.yaml")
OWN = {"name": "own", "encoders": {"judge": {"train": {"steps": 3}}}}


def publish(plan: Plan, *stages: str) -> list[Job]:
    """Make artifacts of a few bytes."""
    jobs = [Job.from_json(artifact.job()) for artifact in plan.of_stage(*stages)]
    for job in jobs:
        with job.writing() as folder:
            for name in STAGES[job.stage].outputs:
                (folder / name).write_text("{}")
    return jobs


@pytest.fixture(autouse=True)
def few_studies(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workflow hold the smoke study alone: every call of gc plans all that are there."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "studies").mkdir()
    (folder / "studies" / "smoke.yaml").symlink_to(SMOKE)
    monkeypatch.setattr(records, "workflow_folder", lambda: folder)
    monkeypatch.setattr(records, "default_study", lambda: SMOKE)


@pytest.fixture
def own(workplace: Path) -> Plan:
    """A study that is no longer in the working folder, with its encoders made."""
    plan = Plan(load_study(SMOKE, OWN))
    publish(plan, "encoder")
    return plan


def gc(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["gc", *words])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_what_a_recorded_study_names_stays(own: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_study(own, ["own.yaml"], {})
    publish(Plan(load_study(SMOKE, {"encoders": {"judge": {"train": {"steps": 4}}}})), "encoder")
    assert len(list(finished())) == 3
    code, said = gc(capsys, "--yes")
    assert code == 0
    assert said.startswith("kept: ")  # before what goes
    assert f"2 artifacts of study `own` ({record}, last run" in said
    assert {path.name for path in finished()} == {a.fingerprint for a in own.of_stage("encoder")}


def test_studies_that_are_present_count(own: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    publish(Plan(load_study(SMOKE)), "encoder")
    record_study(own, ["own.yaml"], {})
    code, said = gc(capsys, "--yes")
    assert code == 0
    assert "studies/smoke.yaml)" in said
    assert len(list(finished())) == 3


def test_a_part_of_a_study_lets_go_of_nothing(own: Plan) -> None:
    whole = record_study(own, ["own.yaml"], {})
    chosen = {"select": {"tokenizers": ["conv-base"]}}
    part = record_study(Plan(load_study(SMOKE, {**OWN, **chosen})), ["own.yaml"], chosen)
    assert whole != part
    assert {a.path for a in own} <= find_studies([SMOKE], {}).artifacts


def test_further_files_are_laid_over_the_first(
    own: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("over.yaml").write_text(json.dumps(OWN))
    both = ["--configfile", SMOKE, "--configfile", "over.yaml"]
    assert {a.path for a in own} <= find_studies([SMOKE, "over.yaml"], {}).artifacts
    code, said = gc(capsys, "--evict", *both)
    assert (code, "0 folders and files" in said) == (0, True), said
    code, said = gc(capsys, *both)
    assert f"artifacts of study `own` ({SMOKE} over.yaml)" in said


def test_an_edited_study_lets_go_of_what_it_named(own: Plan) -> None:
    assert record_study(own, ["own.yaml"], {}) == record_study(
        Plan(load_study(SMOKE, {"name": "own"})), ["own.yaml"], {}
    )
    assert "encoder" in {
        path.parts[1]
        for path in (item.path for item in find_garbage(find_studies([SMOKE], {}).artifacts))
    }


def test_copies_that_share_results_keep_what_the_same_study_names_in_each(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(copy: str, steps: int) -> set[str]:
        """Run the study in a copy, at some steps of an encoder; return its encoders."""
        monkeypatch.chdir(workplace / copy)
        plan = Plan(
            load_study(SMOKE, {"name": "own", "encoders": {"judge": {"train": {"steps": steps}}}})
        )
        publish(plan, "encoder")
        record_study(plan, ["config.yaml"], {})
        return {artifact.fingerprint for artifact in plan.of_stage("encoder")}

    (workplace / "shared").mkdir()
    for copy in ("a", "b"):
        (workplace / copy).mkdir()
        (workplace / copy / "results").symlink_to(workplace / "shared")
    first, before, after = run("a", 3), run("b", 4), run("b", 5)
    assert len(list(Path("results/studies").iterdir())) == 2  # b's edited file has one record
    code, said = gc(capsys, "--yes")
    assert code == 0
    assert f" in {workplace / 'a'})" in said
    assert {path.name for path in finished()} == first | after
    assert before - first - after
    assert gc(capsys, "--forget", "own", "--yes")[0] == 0
    assert not list(Path("results/studies").iterdir())
    assert [path.parts[2] for path in finished()] == ["glyph"]  # which smoke.yaml names too


@pytest.mark.parametrize("text", ["{", "5", "[]", "{}", '{"study": "own", "artifacts": 3}'])
def test_nothing_goes_while_a_record_cannot_be_read(
    own: Plan, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_study(own, ["own.yaml"], {})
    record.write_text(text)
    code, said = gc(capsys, "--yes")
    assert code == 1
    assert f"unclear: {record}: the record of a study cannot be read" in said
    assert len(list(finished())) == 2


def test_nothing_goes_where_studies_were_never_recorded(
    own: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gc(capsys, "--yes")[0] == 1
    Path("results/tables/own").mkdir(parents=True)
    Path("results/studies").mkdir()
    code, said = gc(capsys, "--yes")
    assert code == 1
    assert "results/tables/own: the tables of a study that is neither recorded nor present" in said
    code, said = gc(capsys, "--yes", "--forget", "own")
    assert code == 0
    assert [path.parts[2] for path in finished()] == ["glyph"]  # which smoke.yaml names too


def test_a_study_that_is_let_go(own: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_study(own, ["own.yaml"], {})
    assert "would remove" in gc(capsys, "--forget", "own")[1]
    assert record.exists()
    assert gc(capsys, "--forget", "own", "--yes")[0] == 0
    assert not record.exists()
    assert [path.parts[2] for path in finished()] == ["glyph"]  # which smoke.yaml names too
    assert not Path("results/encoder/judge").exists()


def test_what_is_being_written_or_read_stays(own: Plan) -> None:
    encoder = next(iter(own.of_stage("encoder")))
    item = next(i for i in find_garbage(()) if i.path.name == encoder.fingerprint)
    job = Job.from_json(encoder.job())
    with job.writing() as folder:
        assert not remove(item)
        for name in STAGES["encoder"].outputs:
            (folder / name).write_text("[]")
    reader = next(a for a in own if encoder in a.upstream.values())
    publish(own, "dataset")
    with Job.from_json(reader.job()).writing() as folder:
        assert not remove(item)
        for name in STAGES[reader.stage].outputs:
            (folder / name).write_text("[]")
    verified(job.path, job.stage, job.fingerprint)
    assert remove(item)
    assert not job.path.exists()
    assert not job.state.exists()


def test_leftovers_of_killed_jobs_go(own: Plan) -> None:
    used = {a.path for a in own}
    artifact = next(iter(own.of_stage("encoder")))
    latents = next(iter(own.of_stage("latents")))
    cache = Path("results/cache/latents", latents.fingerprint)
    left = [Path(artifact.path, ".provenance.json.17.tmp"), cache / ".shard.17.tmp"]
    fresh = cache / ".shard-00001.safetensors.18.tmp"
    cache.mkdir(parents=True)
    for file in (*left, fresh, cache / "lock"):
        file.write_text("")
    for file in left:
        os.utime(file, (0, 0))
    with exclusive(cache / "lock2", "cache"):
        assert holder(cache / "lock2")
    found = find_leftovers(used)
    assert {item.path for item in found} == {*left, cache / "lock"}
    assert all(remove(item) for item in found)
    assert [p for p in (*left, fresh, cache / "lock") if p.exists()] == [fresh]
    assert not find_garbage(used)


def test_the_record_holds_the_resolved_study(own: Plan) -> None:
    record = json.loads(record_study(own, ["own.yaml"], {}).read_text())
    assert record["resolved"]["encoders"]["judge"]["train"]["steps"] == 3
    assert record["files"] == ["own.yaml"]


def test_what_names_stand_for_stays(own: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """Even when artifacts go: the name may be in the fingerprints of a copy elsewhere."""
    record_study(own, ["own.yaml"], {})
    record_name("images", "photos", {"images": "0" * 64}, "data")
    assert gc(capsys, "--yes", "--forget", "own")[0] == 0
    assert len(list(finished())) == 1  # the smoke study has the other
    with pytest.raises(DataError, match="not the images that the name `photos` stands for"):
        record_name("images", "photos", {"images": "1" * 64}, "data")


def test_links_that_lead_back_do_not_stop_it(own: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    record_study(own, ["own.yaml"], {})
    for name, target in (("a", "a"), ("up", ".."), ("cache", "cache"), ("state/self", "self")):
        Path("results", name).parent.mkdir(exist_ok=True)
        Path("results", name).symlink_to(target)
    (folder, *_) = finished()
    (folder / "loop").symlink_to("loop")
    (folder / "back").symlink_to(folder.absolute().parent)
    code, said = gc(capsys, "--yes")
    assert code == 0, said
    assert len(list(finished())) == 2
    main(["verify", "--configfile", SMOKE])
    assert "2 artifacts verified, 1 problems" in capsys.readouterr().out  # there is no dataset
    assert gc(capsys, "--yes", "--forget", "own")[0] == 0
    assert len(list(finished())) == 1  # the smoke study has the other


def test_what_a_study_now_calls_otherwise_goes_once_it_is_made_anew(own: Plan) -> None:
    artifact = next(iter(own.of_stage("encoder")))
    old = Path(artifact.path)
    renamed = old.parents[1] / "renamed" / old.name  # as the study names it now
    assert old not in {item.path for item in find_garbage({str(renamed)})}  # see `folder_of`
    assert old not in {item.path for item in find_garbage({artifact.path})}
    shutil.copytree(old, renamed)
    assert old in {item.path for item in find_garbage({str(renamed)})}


def test_letting_go_of_nothing_is_refused(own: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_study(own, ["own.yaml"], {})
    code, said = gc(capsys, "--forget", "owm", "--yes")
    assert code == 2
    assert "--forget owm: no study of that name (did you mean `own`?)" in said
    assert gc(capsys, "--forget", "own", "--evict", "--yes")[0] == 2
    assert record.exists()


def test_files_that_end_meanwhile_are_no_error(own: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [Path("results", "state", "x", ".progress.json.1.tmp"), Path("results/cache/y/lock")]
    monkeypatch.setattr("diffusability.artifacts.gc._all_files", lambda: iter(gone))
    assert find_leftovers({"results/cache/y"}) == []
    assert bytes_of(gone[0]) == 0


def test_a_page_that_was_half_written_goes(own: Plan) -> None:
    left = Path("results/.report-own.html.17.tmp")
    left.write_text("<")
    assert find_leftovers(()) == []
    os.utime(left, (0, 0))
    assert [item.path for item in find_leftovers(())] == [left]
    assert remove(find_leftovers(())[0])
    assert not left.exists()


def test_what_may_not_be_removed_is_said(own: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr("diffusability.artifacts.gc.remove_tree", refused)
    with pytest.raises(ArtifactError, match=r"cannot be written \(Permission denied\)"):
        remove(find_garbage(())[0])


def test_a_link_to_itself_goes_with_its_artifact(own: Plan) -> None:
    path = Path(next(iter(own.of_stage("encoder"))).path)
    (path / "loop").symlink_to("loop")
    (item,) = [item for item in find_garbage(()) if item.path == path]
    assert remove(item)
    assert not path.exists()


def test_locks_that_may_not_be_read_count_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("diffusability.artifacts.lock.os.open", refused)
    assert holder(Path("lock")) == "another process"
