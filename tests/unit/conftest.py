"""The vocabulary of the fake model, read once for all tests that need one."""

import pytest
from fake_decoder import fake_spec, fake_tokenizer

from mwc.runtime.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """`fake_spec`'s, written and read."""
    return fake_tokenizer(tmp_path_factory.mktemp("tokenizer"), fake_spec())
