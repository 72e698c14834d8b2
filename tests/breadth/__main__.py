"""Try the architectures of vLLM's registry, and write docs/models.md: ``python -m tests.breadth [NAME ...]``.

Without names it tries those that have no result yet, so that it goes on where it was stopped. Results are of the
installed releases; with others it begins anew.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.breadth.children import try_one
from tests.breadth.results import PAGE, RESULTS, load, outcome, page, save
from tests.breadth.sources import releases, sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures to try again; all that are left")
    parser.add_argument("--logs", type=Path, help="folder for what vLLM logs")
    given = parser.parse_args()
    results = load(RESULTS)
    if results["releases"] != (here := releases()):
        results = {"releases": here, "rows": {}}
    known = sources()
    if unknown := set(given.names) - set(known):
        parser.error(f"no text decoders of vLLM's registry: {', '.join(sorted(unknown))}")
    for name in given.names or [name for name in known if name not in results["rows"]]:
        begun = time.monotonic()
        row = try_one(name, known[name], given.logs)
        rows = results["rows"] | {name: row}
        results["rows"] = {name: rows[name] for name in known if name in rows}
        save(RESULTS, results)
        PAGE.write_text(page(results), encoding="utf-8")
        print(f"{time.monotonic() - begun:4.0f} s  {name}: {outcome(row)} {row}", flush=True)


if __name__ == "__main__":
    main()
