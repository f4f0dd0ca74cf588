#!/usr/bin/env python3
"""Makes tests/scorecard.md of tests/scorecard.rows and what `cargo test` said.

    cargo test --workspace --no-fail-fast 2>&1 | python3 tests/scorecard.py

A row whose tests did not run this time keeps its last result. Results belong to the short form of the tests, unless
FLOTILLA_FULL_ROUNDS is set.
"""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROWS, TABLE = HERE / "scorecard.rows", HERE / "scorecard.md"
NOT_RUN = "not run"


def sections():
    """Each section's name with its rows: name, what it asks, tests, why there is none."""
    found = []
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("== "):
            found.append((line[3:], []))
            continue
        name, asks, tests = (part.strip() for part in line.split(" | "))
        missing = re.fullmatch(r"not yet(?:: (.*))?", tests)
        named = [] if missing else [test.strip() for test in tests.split(",")]
        found[-1][1].append((name, asks, named, (missing.group(1) or "") if missing else ""))
    return found


def target_and_name(test):
    """The name of the test's binary, and the test's name in it, by the path of its source."""
    path, function = test.split("::")
    parts = list(Path(path).with_suffix("").parts)
    if "src" in parts:
        at = parts.index("src")
        target, modules = parts[at - 1], parts[at + 1:]
    else:
        at = parts.index("tests", 1)
        target, modules = parts[at + 1], parts[at + 2:]
    return target, "::".join([*modules, function])


def results(output):
    """What each test of each binary came to."""
    seen, target = {}, None
    for line in output:
        running = re.match(r"\s+Running .*\(.*?/deps/(.+)-[0-9a-f]+\)", line)
        if running:
            target = running.group(1)
        ended = re.match(r"test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", line)
        if ended and target:
            seen[target, ended.group(1)] = {"ok": "passed", "FAILED": "FAILED"}.get(ended.group(2), NOT_RUN)
    return seen


def earlier():
    """The results in the table as it stands, by row."""
    if not TABLE.exists():
        return {}
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", TABLE.read_text(encoding="utf-8"), re.M)
    return dict(rows)


def result_of(named, seen, before):
    """One row's result: the worst of its tests'; the last one where none of them ran."""
    if not named:
        return "not yet"
    now = [seen.get(target_and_name(test)) for test in named]
    if "FAILED" in now:
        return "FAILED"
    if all(result == "passed" for result in now):
        return "passed"
    return before if before in ("passed", "FAILED") else NOT_RUN


def main():
    seen, before = results(sys.stdin), earlier()
    form = "full" if os.environ.get("FLOTILLA_FULL_ROUNDS") else "short"
    lines = [
        "# Scorecard",
        "",
        "Each row of the public examination of a sharded Raft service, the test that shows it, and what the test came",
        "to when it last ran. Made by `tests/scorecard.py` of `tests/scorecard.rows`; edit the latter. Tests run a few",
        "rounds by default; `FLOTILLA_FULL_ROUNDS=1` runs as many as the rows ask for.",
        "",
    ]
    totals = {}
    for section, rows in sections():
        lines += [f"## {section}", "", "| Row | Asks | Test | Result |", "|---|---|---|---|"]
        for name, asks, named, why in rows:
            key = f"{section.split(' (')[0]}: {name}"
            result = result_of(named, seen, before.get(key, NOT_RUN))
            totals[result] = totals.get(result, 0) + 1
            tests = "<br>".join(f"`{test}`" for test in named) or (why or "–")
            lines.append(f"| {key} | {asks} | {tests} | {result} |")
        lines.append("")
    summary = ", ".join(f"{count} {result}" for result, count in sorted(totals.items()))
    lines[5:5] = ["", f"In the {form} form: {summary}."]
    TABLE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main()
