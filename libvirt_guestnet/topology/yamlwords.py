"""What is wrong with a YAML text, for whoever wrote it: the parser's own words are for those who know its grammar."""

from __future__ import annotations

import yaml

# What libyaml says. {line} and {column} are where that begins which it cannot go on with.
_WORDS = {
    "mapping values are not allowed in this context": "a ':' cannot stand here: indent this line like those beside it, "
    "and write KEY: VALUE, with a blank behind the ':', in the one before; a text that has ': ' in it needs quotes",
    "did not find expected '-' indicator": "this line stands in the list that begins in line {line}: begin it with '- '"
    " in column {column}, or indent it like the keys of an item",
    "did not find expected ',' or ']'": "expected ',' or ']': the '[' in line {line}, column {column} is still open",
    "did not find expected ',' or '}'": "expected ',' or '}}': the '{{' in line {line}, column {column} is still open",
    "did not find expected node content": "expected a value; one that begins with ':', such as ::1, needs quotes",
    "found unexpected ':'": "a value that ends with ':', such as fd00::, needs quotes",
    "found character that cannot start any token": "a value that begins with this character needs quotes",
}
_KEY = "did not find expected key"
# The place to look at is where these begin.
_BEGUN = {
    "found unexpected end of stream": "this quote is never closed",
    "could not find expected ':'": "this line is not KEY: VALUE",
}


def explain(error: yaml.YAMLError, text: str) -> tuple[int, int, str]:
    """Line, column and what to do about an error in the text."""
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    if begun and problem in _BEGUN:
        mark, words = begun, _BEGUN[problem]
    elif mark and text[mark.index : mark.index + 1] == "\t":
        words = "here is a tab; indent lines with spaces only"
    elif mark and begun and problem == _KEY:
        words = _no_key(text[: mark.index].rpartition("\n")[2]).format(line=begun.line + 1, column=begun.column + 1)
    elif begun and problem in _WORDS:
        words = _WORDS[problem].format(line=begun.line + 1, column=begun.column + 1)
    else:
        context = getattr(error, "context", None)
        words = _WORDS.get(problem, f"{context}, {problem}" if context else problem)
    place = mark or begun
    return (place.line + 1 if place else 1), (place.column + 1 if place else 1), f"not valid YAML: {words}"


def _no_key(before: str) -> str:
    if before.strip():
        return "nothing can follow here: a value in quotes or brackets ends its line"
    return (
        "this line belongs to nothing above it: it is indented like no key there, or its '- ' is too much "
        "(the keys around it begin in column {column}, as in line {line})"
    )
