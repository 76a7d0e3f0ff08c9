"""`make soak` in small, so that it works when somebody wants it: the same way, with a hundredth of the lines."""

import os
import subprocess
import sys
import unittest
from pathlib import Path


class Soak(unittest.TestCase):
    def test_a_hundredth(self) -> None:
        script = Path(__file__).with_name("soak.py")
        environment = os.environ | {"SOAK_LINES": "700000"}
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("lines: counted 700000, written 700000", done.stdout)


if __name__ == "__main__":
    unittest.main()
