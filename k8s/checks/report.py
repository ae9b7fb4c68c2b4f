"""Counts passed and failed checks. A check is a function that raises if something is wrong."""

import traceback
from collections.abc import Callable


class Report:
    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self.failed += 1
            print(f"FAILED  {name}\n        {str(error) or traceback.format_exc()}")
        else:
            self.passed += 1
            print(f"ok      {name}")

    def close(self) -> int:
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
