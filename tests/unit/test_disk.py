"""What errors that leave no room for a file are called, and what is said to do."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mwc.runtime.disk import NO_ROOM, how_to_make_room, raise_if_full
from mwc.runtime.errors import ArtifactError

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from mwc.runtime.errors import ArtifactError
from mwc.runtime.spec import TensorSpec
from mwc.runtime.weight_file import write_weights
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    tensor = TensorSpec("t", "uint8", (1000,))
    write_weights(Path(sys.argv[1]), [(tensor, lambda: np.zeros(1000, np.uint8))])
except ArtifactError as error:
    print(error)
"""


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_file_that_may_not_be_that_large(tmp_path: Path) -> None:
    run = [sys.executable, "-c", LIMITED, str(tmp_path / "w")]
    told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
    size = 128 + 1000  # of the header and of the data
    assert told == (
        f"{tmp_path}/w cannot be written: a file of {size} bytes is not allowed there; raise the "
        "limit on the size of a file (ulimit -f) or write to a file system that takes larger "
        "files.\n"
    )


def test_a_limit_on_files_says_nothing_of_free_space(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="a file as large as it has to be is not allowed") as e:
        raise_if_full(failure(errno.EFBIG), tmp_path / "out")
    assert "free" not in str(e.value)
    assert "ulimit -f" in str(e.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_quota_say_what_is_free(tmp_path: Path, number: int) -> None:
    with pytest.raises(ArtifactError, match=r"No room left .*: 7 bytes were to .* are free there"):
        raise_if_full(failure(number), tmp_path / "out", 7)
    assert how_to_make_room(failure(number)) == "make room there"


def test_other_errors_are_left_to_others(tmp_path: Path) -> None:
    assert errno.EACCES not in NO_ROOM
    raise_if_full(failure(errno.EACCES), tmp_path / "out")
