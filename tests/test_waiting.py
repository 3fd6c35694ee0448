"""A silence is named, once it is one."""

import time

from rsl_cli.waiting import Waiting


def test_what_takes_long_is_said_again_and_again_and_what_does_not_is_not(capsys):
    with Waiting("importing", first=0.05, then=0.05):
        time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert 2 <= len(said) <= 4 and set(said) == {"[0 s] importing"}
    with Waiting("nothing", first=5):
        pass
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
