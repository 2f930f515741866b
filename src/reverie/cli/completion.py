"""`reverie completion`: a static completion script, from the catalog and the parsers themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reverie import catalog
from reverie.cli.app import COMMANDS, OK
from reverie.cli.flags import JSON, QUIET, Flag, Parsed, parse
from reverie.cli.screen import Screen
from reverie.errors import InvalidOption

SHELLS = ("bash", "zsh", "fish")
SHELL = Flag("shell", str | None, None, f"One of {', '.join(SHELLS)}.", "arguments", positional=True, metavar="SHELL")


@dataclass(frozen=True)
class Word:
    """A word that may stand there, and what it means."""

    text: str
    meaning: str = ""
    values: tuple[str, ...] = ()


def run(argv: list[str], screen: Screen) -> int:
    """Print the script."""
    parsed: Parsed = parse(
        [SHELL, QUIET, JSON], argv, prog="reverie completion", description="Print a completion script."
    )
    shell = parsed["shell"]
    if shell not in SHELLS:
        raise InvalidOption(f"reverie completion: expected one of {', '.join(SHELLS)}, got {shell!r}")
    words = vocabulary()
    script = _fish(words) if shell == "fish" else _bash(words, zsh=shell == "zsh")
    screen.result({"shell": shell, "script": script}, script)
    return OK


def vocabulary() -> dict[str, list[Word]]:
    """What may follow each command; `fit NAME` for what may follow a family."""
    from reverie.cli import compare, data, evaluate, fit, sample
    from reverie.cli.recipes import recipe_flags, training_flags
    from reverie.data.sources.bundled import NAMES
    from reverie.store import recipe_class

    source, common = data.data_flags(), [QUIET, JSON]
    names = [Word(name) for name in NAMES]
    families = [Word(row.name, row.summary) for row in catalog.families().values()]
    out: dict[str, list[Word]] = {
        "fit": [*families, *_words([fit.RESUME, *training_flags({})])],
        "sample": _words(sample.FLAGS),
        "evaluate": [*names, *_words([evaluate.LEVEL, evaluate.ROWS, evaluate.SEED, evaluate.OUT, *common, *source])],
        "compare": [
            *names,
            *families,
            *_words(
                [
                    compare.MODELS,
                    compare.SET,
                    compare.SEED,
                    evaluate.LEVEL,
                    evaluate.ROWS,
                    compare.OUT,
                    *common,
                    *source,
                ]
            ),
        ],
        "models": _words(common),
        "info": _words(common),
        "doctor": _words(common),
        "completion": [Word(shell) for shell in SHELLS],
    }
    for row in catalog.families().values():
        cls = recipe_class(row.name)
        flags = [*fit.ITS_OWN, *recipe_flags(cls, {}), *training_flags(cls.defaults), *source]
        out[f"fit {row.name}"] = [*names, *_words(flags)]
    return out


def _words(flags: Sequence[Flag]) -> list[Word]:
    return [Word(word, flag.help, flag.choices) for flag in flags for word in flag.words]


def _bash(words: Mapping[str, Sequence[Word]], *, zsh: bool) -> str:
    """One function for both shells: zsh reads bash completions through bashcompinit."""
    cases: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    for place, choices in words.items():
        cases.append(f'    "{place}") words="{" ".join(choice.text for choice in choices)}" ;;')
        values |= {choice.text: choice.values for choice in choices if choice.values}
    after = [f'    {flag}) words="{" ".join(options)}" ;;' for flag, options in values.items()]
    lines = [
        "# Completion of reverie. Load it with:  source <(reverie completion " + ("zsh" if zsh else "bash") + ")",
        *(["autoload -U +X bashcompinit && bashcompinit"] if zsh else []),
        "_reverie() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words="" place="${COMP_WORDS[1]}"',
        '  [ "$place" = fit ] && [ "$COMP_CWORD" -gt 2 ] && place="fit ${COMP_WORDS[2]}"',
        '  [ "$COMP_CWORD" -eq 1 ] && place=""',
        '  case "$place" in',
        f'    "") words="{" ".join([*COMMANDS, "--help", "--version"])}" ;;',
        *cases,
        "  esac",
        '  case "$before" in',
        *after,
        "  esac",
        '  COMPREPLY=($(compgen -W "$words" -- "$word"))',
        '  case "$word" in -*) ;; *) COMPREPLY+=($(compgen -f -- "$word")) ;; esac',
        "}",
        "complete -o default -F _reverie reverie",
    ]
    return "\n".join(lines) + "\n"


def _fish(words: Mapping[str, Sequence[Word]]) -> str:
    lines = ["# Completion of reverie. Load it with:  reverie completion fish | source"]
    for name, known in COMMANDS.items():
        lines.append(f"complete -c reverie -n __fish_use_subcommand -a {name} -d {_quoted(known.line)}")
    for place, choices in words.items():
        command, _, family = place.partition(" ")
        seen = f"__fish_seen_subcommand_from {command}" + (
            f"; and __fish_seen_subcommand_from {family}" if family else ""
        )
        for choice in choices:
            word = choice.text
            kind = (
                f"-l {word[2:]}"
                if word.startswith("--")
                else f"-s {word[1:]}"
                if word.startswith("-")
                else f"-a {word}"
            )
            options = f" -x -a {_quoted(' '.join(choice.values))}" if choice.values else ""
            meaning = f" -d {_quoted(choice.meaning.splitlines()[0])}" if choice.meaning else ""
            lines.append(f"complete -c reverie -n {_quoted(seen)} {kind}{options}{meaning}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
