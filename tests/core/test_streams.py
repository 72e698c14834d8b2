"""What other programs write to standard error is kept from the user, and what Python writes is not."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, subprocess, sys
from sparse_tasks.core.streams import Chatter, own_standard_error
if "program" in sys.argv:
    own_standard_error()
def child(text, wait=False):
    script = f"import sys; {'sys.stdin.read();' * wait} sys.stderr.write({text!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    return process if wait else process.communicate()
print("first", file=sys.stderr)
chatter = Chatter()
with chatter.diverted():
    child("\\x1b[31mred\\x1b[0m\\r100%\\n\\n")
    print("ours", file=sys.stderr)
    start = chatter.size
    os.write(2, b"abc\\n \\xff\\n")
    print(chatter.lines(), chatter.lines(start))
    with chatter.diverted():
        os.write(2, b"still\\n")
    os.write(2, b"more\\n")
    late = child("late", wait=True)
    print(chatter.lines()[-2:])
late.communicate()
os.write(2, b"C again\\n")
print("last", file=sys.stderr)
print(chatter.lines(), chatter.size)
chatter.restore()
"""


def test_only_output_of_libraries_is_captured() -> None:
    for arguments in ([], ["program"]):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines() == ["first", "ours", "C again", "last"]
        assert done.stdout.splitlines() == [
            "['red', '100%', 'abc', '\ufffd'] ['abc', '\ufffd']",
            "['still', 'more']",
            "[] 0",
        ]


def test_without_standard_error_nothing_is_diverted() -> None:
    script = "import os, sys; from sparse_tasks.core.streams import Chatter\nwith Chatter().diverted(): print('ok')"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "ok\n"
