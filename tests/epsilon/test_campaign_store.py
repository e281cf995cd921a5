"""The file of results: nothing lost or doubled whatever happens to its writer, and read by anyone at any time."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pandas
import pytest
from filelock import FileLock

from epsilon.campaign.export import export, read_files
from epsilon.campaign.schema import COLUMNS
from epsilon.campaign.store import ResultStore, StoreError, metadata, read

HERE = Path(__file__).parent


def row(number: int, **values: object) -> dict:
    """Return a row of the right shape; its content does not matter to the store."""
    filled = {
        name: {"TEXT": "x", "INTEGER": number, "REAL": number / 8, "BLOB": b"\x01\x80"}[c.type] for name, c in COLUMNS.items()
    }
    return filled | {"key": f"{number:032x}", "seed": 2**63 - 1 - number, "bit": None, "alpha": None} | values


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **options)


def sound(path: Path) -> bool:
    with sqlite3.connect(path) as file:
        return file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "it's 100%?.sqlite"
    with ResultStore(path) as store:
        store.begin_campaign({"name": "mine"}, [row(1)["key"]])
        store.add([row(1), row(2, bit=7)], seconds=1.5, worker="me")
        assert store.keys() == {row(1)["key"], row(2)["key"]}
    found = read(path)
    assert list(found) == list(COLUMNS)
    by_key = {values["key"]: values for values in found.to_dict("records")}
    for number, bit in ((1, None), (2, 7)):
        for name, value in row(number, bit=bit).items():
            here = by_key[f"{number:032x}"][name]
            assert pandas.isna(here) if value is None else here == value, name
    assert [values["key"] for values in read(path, current=True).to_dict("records")] == [row(1)["key"]]
    assert metadata(path) == {"format": "epsilon-campaign", "version": 1, "campaign": {"name": "mine"}}
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT rows, seconds, worker FROM timing").fetchall() == [(2, 1.5, "me")]


def test_the_order_of_rows_is_not_that_of_their_coming(tmp_path):
    for name, numbers in (("up", range(9)), ("down", reversed(range(9)))):
        with ResultStore(tmp_path / name) as store:
            for number in numbers:
                store.add([row(number)])
    pandas.testing.assert_frame_equal(read(tmp_path / "up"), read(tmp_path / "down"))


def test_a_unit_is_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "r.sqlite"
    with ResultStore(path) as store:
        store.add([row(1)])
        with pytest.raises(StoreError, match="UNIQUE"):
            store.add([row(2), row(1)])
        assert store.keys() == {row(1)["key"]}
        with pytest.raises(ValueError, match="these differ: key, surplus"):
            store.add([{name: value for name, value in row(3, surplus=1).items() if name != "key"}])
        store.add([row(4)])
    assert len(read(path)) == 2


def test_one_writer_at_a_time_and_readers_meanwhile(tmp_path):
    path = tmp_path / "r.sqlite"
    with ResultStore(path) as store:
        store.add([row(1)])
        with pytest.raises(StoreError, match="Another campaign is writing"):
            ResultStore(path)
        other = python("import sys; from epsilon.campaign.store import *; ResultStore(sys.argv[1])", path)
        assert "Another campaign is writing" in other.communicate()[1]
        # What another process reads while this one writes.
        reader = python("import sys; from epsilon.campaign.store import *; print(len(read(sys.argv[1])))", path)
        for number in range(2, 40):
            store.add([row(number)])
        said = reader.communicate()
        assert said[0].strip().isdigit(), said
        store.add([row(50)])
    with ResultStore(path) as store:
        assert len(store.keys()) == 40


def test_a_killed_writer_leaves_whole_units_and_no_lock(tmp_path):
    path = tmp_path / "r.sqlite"
    code = """
        import sys
        from epsilon.campaign.store import ResultStore
        from test_campaign_store import row
        with ResultStore(sys.argv[1]) as store:
            for unit in range(10**9):
                store.add([row(3 * unit + part) for part in range(3)])
                print(unit, flush=True)
    """
    for _ in range(3):
        path.unlink(missing_ok=True)
        with python(code, path) as writer:
            for _ in range(5):
                seen = int(writer.stdout.readline())
            writer.kill()
        found = read(path)
        assert len(found) % 3 == 0
        assert len(found) >= 3 * (seen + 1)
        assert sound(path)
        with ResultStore(path) as store:
            assert len(store.keys()) == len(found)


def test_a_journal_that_was_left_is_undone(tmp_path):
    """Stop SQLite between writing pages and committing: the pages are in the file already, and the journal knows the old ones."""
    path, copy = tmp_path / "r.sqlite", tmp_path / "copy.sqlite"
    with ResultStore(path) as store:
        store.add([row(number) for number in range(200)])
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA cache_size = 2")  # so that pages spill into the file before the end
    file.execute("BEGIN IMMEDIATE")
    file.execute("UPDATE runs SET network = 'damaged'")
    for suffix in ("", "-journal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    file.close()
    assert copy.read_bytes().count(b"damaged") > 0
    assert set(read(copy).network) == {"x"}
    assert sound(copy)


def test_a_full_disk_is_a_sentence_and_the_file_still_opens(tmp_path):
    path = tmp_path / "r.sqlite"
    code = """
        import resource, sys
        from epsilon.campaign.store import ResultStore, StoreError
        from test_campaign_store import row
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        with ResultStore(sys.argv[1]) as store:
            for number in range(10_000):
                try:
                    store.add([row(number, scores="s" * 5000)])
                except StoreError as error:
                    print(number, error)
                    break
    """
    out, err = python(code, path).communicate()
    number, sentence = out.split(" ", 1)
    assert "the disk is probably full" in sentence, (out, err)
    assert "what was finished before is kept" in sentence
    assert "Traceback" not in err
    assert sound(path)
    assert len(read(path)) == int(number) > 10
    with ResultStore(path) as store:  # on a disk with room again
        store.add([row(int(number))])


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_read_only_folder_is_a_sentence_and_its_files_can_be_read(tmp_path):
    path = tmp_path / "folder" / "r.sqlite"
    path.parent.mkdir()
    with ResultStore(path) as store:
        store.add([row(1)])
    for left in path.parent.glob(".*.lock"):
        left.unlink()
    path.chmod(0o444)
    path.parent.chmod(0o555)
    code = """
        import os, sys
        from epsilon.campaign.store import ResultStore, StoreError, read
        if os.geteuid() == 0:
            import pyarrow  # what is imported later must be found before other rights are taken
            import pandas
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
        try:
            ResultStore(sys.argv[1])
        except StoreError as error:
            print(error)
        print(len(read(sys.argv[1])))
    """
    # Everything above the folder belongs to the one user who runs the tests.
    above = [folder for folder in path.parents if not folder.stat().st_mode & 0o001]
    rights = {folder: folder.stat().st_mode for folder in above}
    try:
        for folder in above:
            folder.chmod(rights[folder] | 0o001)
        out, err = python(code, path).communicate()
    finally:
        for folder, mode in rights.items():
            folder.chmod(mode)
        path.parent.chmod(0o755)
    assert out.splitlines() == [f"The folder {path.parent} cannot be written: Permission denied", "1"], err


def test_files_of_something_else(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at as if it were one" * 20)
    with sqlite3.connect(tmp_path / "other") as file:
        file.execute("CREATE TABLE runs (key TEXT)")
    with sqlite3.connect(tmp_path / "meta") as file:
        file.execute("CREATE TABLE meta (version INTEGER, configuration TEXT)")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    for name in ("text", "other", "meta"):
        before = (tmp_path / name).read_bytes()
        for use in (ResultStore, read, metadata):
            with pytest.raises(StoreError, match="is no file of results of a campaign"):
                use(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(StoreError, match="is a folder"):
        ResultStore(tmp_path / "folder")
    with pytest.raises(StoreError, match="There is no folder"):
        ResultStore(tmp_path / "missing" / "r.sqlite")
    with pytest.raises(StoreError, match="There is no file of results"):
        read(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    with pytest.raises(StoreError, match="is no file of results"):
        read(tmp_path / "empty")
    ResultStore(tmp_path / "empty").close()
    assert read(tmp_path / "empty").empty


@pytest.mark.parametrize("change", ["UPDATE meta SET value = '2' WHERE name = 'version'", "ALTER TABLE runs DROP COLUMN sdc"])
def test_files_of_another_version(tmp_path, change):
    path = tmp_path / "r.sqlite"
    ResultStore(path).close()
    with sqlite3.connect(path) as file:
        file.execute(change)
    for use in (ResultStore, read):
        with pytest.raises(StoreError, match="written by another version"):
            use(path)


LATER = [name for name, column in COLUMNS.items() if column.later]
BEFORE = [name for name in COLUMNS if name not in LATER]


def begun_before(path: Path) -> None:
    """Make a file of results as they were before the columns that came later, with one row."""
    with ResultStore(path) as store:
        store.begin_campaign({"name": "before"}, [row(1)["key"], row(2)["key"]])
    with closing(sqlite3.connect(path)) as file:
        for name in LATER:
            file.execute(f"ALTER TABLE runs DROP COLUMN {name}")
    insert_as_before(path, 1)


def insert_as_before(path: Path, number: int) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        values = [row(number)[name] for name in BEFORE]
        file.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(BEFORE))})", values)


def test_a_file_from_before_a_column_is_read_as_it_is(tmp_path):
    path = tmp_path / "r.sqlite"
    begun_before(path)
    before = path.read_bytes()
    found = read(path)
    assert list(found) == list(COLUMNS)
    assert found[LATER].isna().all(axis=None)
    assert found[BEFORE].notna().sum(axis=None) == len(BEFORE) - 2  # bit and alpha
    assert metadata(path)["campaign"] == {"name": "before"}
    assert export(path, tmp_path / "r.csv") == export(path, tmp_path / "r.parquet", current=True) == 1
    assert list(pandas.read_csv(tmp_path / "r.csv")) == list(COLUMNS)
    assert path.read_bytes() == before


def test_a_campaign_from_before_a_column_ends_undisturbed_and_goes_on_with_it(tmp_path):
    path = tmp_path / "r.sqlite"
    begun_before(path)
    with FileLock(tmp_path / ".r.sqlite.lock"):  # it is still running
        with pytest.raises(StoreError, match="Another campaign is writing"):
            ResultStore(path)
        assert len(read(path)) == 1
        insert_as_before(path, 2)
        assert len(read(path)) == 2
    for _ in range(2):  # the column is added once
        with ResultStore(path) as store:
            assert {row(1)["key"], row(2)["key"]} <= store.keys()
    with ResultStore(path) as store:
        store.add([row(3)])
    found = read(path).set_index("key").sort_index()
    for name in LATER:
        assert found[name].isna().tolist() == [True, True, False]
        assert found[name][row(3)["key"]] == row(3)[name]
    assert found.correct.tolist() == [1, 2, 3]
    assert sound(path)


def test_export_gives_the_same_rows(tmp_path):
    path = tmp_path / "r.sqlite"
    with ResultStore(path) as store:
        store.begin_campaign({}, [row(1)["key"]])
        store.add([row(number, scores='[["a, \\"b\\"", 1]]') for number in range(5)])
    assert export(path, tmp_path / "r.csv") == export(path, tmp_path / "r.parquet") == 5
    found = read(path)
    parquet = pandas.read_parquet(tmp_path / "r.parquet")
    assert parquet.correct_bits[0] == b"\x01\x80"
    csv = pandas.read_csv(tmp_path / "r.csv", dtype={"seed": "int64", "key": str, "bit": "Int64", "correct_bits": str})
    assert set(csv.correct_bits) == {"0180"}
    for table in (parquet, csv):
        assert list(table) == list(COLUMNS)
        for name in ("key", "seed", "scores", "rate", "correct"):
            assert table[name].tolist() == found[name].tolist()
        assert table.bit.isna().all()
    assert export(path, tmp_path / "one.csv", current=True) == 1
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet, not to 'r\.xlsx'"):
        export(path, tmp_path / "r.xlsx")
    with pytest.raises(OSError, match="No such file"):
        export(path, tmp_path / "missing" / "r.csv")


def test_files_are_read_as_one_table(tmp_path):
    for name, numbers in (("a", range(3)), ("b", range(2, 6))):
        with ResultStore(tmp_path / f"{name}.sqlite") as store:
            store.add([row(number) for number in numbers])
    export(tmp_path / "b.sqlite", tmp_path / "b.parquet")
    both = read_files([tmp_path / "a.sqlite", tmp_path / "b.parquet"])
    assert sorted(both.key) == [row(number)["key"] for number in range(6)]
    assert both.dtypes.equals(read(tmp_path / "a.sqlite").dtypes)


def test_what_is_no_table_of_results(tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    pandas.DataFrame({"key": ["a"]}).to_parquet(tmp_path / "other.parquet", engine="pyarrow")
    for name, said in (
        ("text", "is no Parquet file of results"),
        ("other", "has no column 'configuration'"),
        ("no", "There is no file"),
    ):
        with pytest.raises(ValueError, match=said):
            read_files([tmp_path / f"{name}.parquet"])
