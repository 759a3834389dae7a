#!/usr/bin/env python3
"""Whether what README.md tells a reader to type exists: each `make TARGET`, each `amqptasks COMMAND`."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
OPTIONS_WITH_VALUE = {"-A", "-b", "-n", "--app", "--broker", "--workdir"}


def commands(code: str) -> tuple[set[str], set[str]]:
    """The targets of make and the subcommands of amqptasks that occur in `code`."""
    targets, subcommands = set(), set()
    for line in code.splitlines():
        words = line.partition("#")[0].removeprefix("$ ").split()
        if words[:1] == ["make"]:
            targets |= {word for word in words[1:] if "=" not in word and not word.startswith("-")}
        if words and words[0].rpartition("/")[2] == "amqptasks":
            rest = iter(words[1:])
            for word in rest:
                if word in OPTIONS_WITH_VALUE:
                    next(rest, None)
                elif not word.startswith("-"):
                    subcommands.add(word)
                    break
    return targets, subcommands


def fails(*command: str) -> bool:
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode != 0


def main() -> int:
    code = "\n".join(block or inline for block, inline in CODE.findall((ROOT / "README.md").read_text()))
    targets, subcommands = commands(code)
    amqptasks = str(Path(sys.executable).with_name("amqptasks"))
    wrong = [f"make {name}" for name in sorted(targets) if fails("make", "-n", name)]
    wrong += [f"amqptasks {name}" for name in sorted(subcommands) if fails(amqptasks, name, "--help")]
    if wrong:
        print(f"README.md names what does not exist: {', '.join(wrong)}", file=sys.stderr)
        return 1
    print(f"README.md: {len(targets)} make targets and {len(subcommands)} commands exist")
    return 0


if __name__ == "__main__":
    sys.exit(main())
