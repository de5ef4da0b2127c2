"""The same commands give the same bytes."""

from pathlib import Path

from commands import TINY, Command, artifacts


def test_the_same_commands_give_byte_equal_artifacts(reflow: Command, chain: Path, tmp_path: Path) -> None:
    reflow("train", TINY, "--out", tmp_path / "base")
    reflow("couple", tmp_path / "base", "--out", tmp_path / "pairs")
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")
    assert artifacts(tmp_path / "pairs") == artifacts(chain / "pairs")
