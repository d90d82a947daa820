"""Read one line of an environment file's conda section: a match specification, a channel, a selector. Pure.

py-rattler's lenient reading of match specifications decides what is one; what this file adds is the name of what is
wrong. Names that exist on another platform alone are told here, because an index could only say that it has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reprobox.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from rattler import MatchSpec

DEFAULTS = "defaults"

_LONGEST = 1000
"""Characters of a match specification; py-rattler reads them recursively, and a deep one would end the process."""

_SHAPE = re.compile(r"(?:(?P<channel>[^\s=<>!~\[\]]+)::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?P<rest>.*)", re.DOTALL)
_BUILD = re.compile(r"(?=.*[A-Za-z0-9_*])[A-Za-z0-9_.+*]+|\^[^\s,]+\$")
_PYTHON_VERSION = re.compile(r"[=<>!~]*\d+(\.\d+)*((a|b|rc)\d+)?(\.?\*)?|\*")
_BRACKET_KEYS = ("version", "build", "build_number", "md5", "sha256", "channel")
_SUBDIRS = re.compile(r"/(?:linux|osx|win|noarch|emscripten|wasi|zos|freebsd)(?:-[a-z0-9_]+)?/?$")
_TOKEN = re.compile(r"/t/[^/]+(?=/|$)")

# What is published for Windows or macOS alone and stands in exports of environments made there.
_WINDOWS = re.compile(
    r"^(vc|vc14_runtime|vs20\d\d_(runtime|win.*)|vcomp14|ucrt|wincertstore|win_inet_pton|winpty|pywinpty|pywin32"
    r"|pywin32-ctypes|(console|powershell)_shortcut.*|pyreadline3?|icc_rt|m2w64-.+|m2-.+|msys2-.+"
    r"|libwinpthread|win32_setctime|windows-curses|comtypes|pypiwin32|khronos-opencl-icd-loader)$"
)
_MACOS = re.compile(r"^(appnope|python\.app|pyobjc-.+|applaunchservices|llvm-openmp-osx|khronos)$")
# Channels have builds of some of these for Linux too, but who pins a version of one without its build has an export
# from macOS.
_SELDOM_LINUX = re.compile(
    r"^(libcxx|libcxxabi|clang_osx-.+|clangxx_osx-.+|cctools_osx-.+|ld64_osx-.+|compiler-rt_osx-.+|tapi|sigtool|ld64|cctools)$"
)
# Part of the build of all that needs nothing but one platform's Python or compiler: the same for years.
# Source: exports of environments in public repositories, made on those platforms.
_BUILDS = {
    "Windows": re.compile(r"haa95532|h2bbff1b|he774522|h8cc25b3|hcbf5309|haa244fe|(^|_)win(64|32)(_|$)"),
    "macOS": re.compile(r"hecd8cb5|h9ed2024|hca03da5|h1a28f6b|h6e9494a|(^|_)osx(64|arm64)(_|$)"),
}
_CHANNEL_SLIPS = {
    "default": DEFAULTS,
    "conda_forge": "conda-forge",
    "condaforge": "conda-forge",
    "forge": "conda-forge",
}

_SELECTOR = re.compile(r"#\s*\[([^\[\]#]+)\]\s*$")
_TRUE_HERE = {"linux-64": {"linux", "unix", "linux64", "linux-64", "x86_64", "x86"}}
_TRUE_HERE["linux-aarch64"] = {"linux", "unix", "aarch64", "linux-aarch64"}
_KNOWN_SELECTORS = {
    *_TRUE_HERE["linux-64"], *_TRUE_HERE["linux-aarch64"], "win", "win32", "win64", "win-64", "osx", "osx-64",
    "osx-arm64", "osx64", "arm64",
    "linux32", "linux-ppc64le", "ppc64le", "s390x", "armv7l", "emscripten", "wasi",
}  # fmt: skip


_OPERATORS = {"and", "or", "not", "!", "(", ")"}
_LONGEST_SELECTOR = 100
"""Words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaRequirement:
    """One entry of `dependencies:` that conda would install.

    Attributes:
        text: The match specification, normalised: one text for all that mean the same; without its channel.
        name: Package name.
        channel: Channel that it must come from, or None.
        line: 1-based line in the file that it came from.
        is_version_only: Whether nothing but name and version is asked for.
    """

    text: str
    name: str
    channel: str | None
    line: int
    is_version_only: bool = True

    @property
    def shown(self) -> str:
        """As lock and messages show it."""
        return f"{self.channel}::{self.text}" if self.channel else self.text

    @property
    def constraint(self) -> str:
        """What follows the name."""
        return self.text[len(self.name) :].strip()

    @property
    def version_prefix(self) -> str | None:
        """The version whose releases all will do ("3.11" of `=3.11`); "" for any version, None if it says more."""
        found = re.fullmatch(r"=(\d+(?:\.\d+)*)", self.constraint)
        return "" if not self.constraint else found[1] if found else None


def parse_conda_requirement(text: str, *, source: str, line: int) -> CondaRequirement:
    """Parse one match specification as people write them.

    Args:
        text: Such as "numpy>=1.20", "pytorch::pytorch=1.9.0=py3.9_cuda11.1_0", "python[version='>=3.9']".
        source: The file's name, for messages.
        line: 1-based line, for messages.

    Raises:
        EnvironmentInvalid: It is none, or names a package of another platform.
    """
    where = f"{source}:{line}"
    plain = strip_comment(text)
    found = _SHAPE.fullmatch(plain)
    if not found or (not found["channel"] and re.match(r"\.\.?/|[\w+]+://", plain)):
        raise _unreadable(where, plain)
    platform = find_platform(plain)
    if platform is not None:
        raise EnvironmentInvalid(
            f"{where}: {plain[:200]!r} is {platform}; images are Linux",
            hint="make the file with `conda env export --from-history`, or delete that line",
        )
    name = found["name"].lower()
    specification = _read(name, found["rest"], plain, where)
    build = None if specification.build is None else str(specification.build)
    if build is not None and build.startswith("pypi_"):
        version = str(specification.version or "").lstrip("=")
        raise EnvironmentInvalid(
            f"{where}: {plain[:200]!r} is a project of the package index, not a conda package",
            hint=f"write {name}=={version} below `- pip:`",
        )
    if build is not None and not _BUILD.fullmatch(build):
        raise _unreadable(where, plain, f"{build[:200]!r} is no build")
    inner = specification.channel.name if specification.channel else None
    channel = found["channel"] or inner
    constraint = _render_constraint(specification, build)
    return CondaRequirement(
        text=f"{name}{constraint}",
        name=name,
        channel=None if channel is None else parse_channel(channel, where=where),
        line=line,
        is_version_only=build is None and "[" not in constraint,
    )


def strip_comment(text: str) -> str:
    """Give what a line says before its comment."""
    return re.sub(r"(^|\s)#.*$", "", text).strip()


def find_platform(text: str) -> str | None:
    """Find what other platform a match specification is for, as its name or its build tell; in words, or None."""
    found = _SHAPE.fullmatch(strip_comment(text))
    if not found:
        return None
    name, build = found["name"].lower(), re.search(r"[=\s]([A-Za-z0-9_.]+_\d+)$", found["rest"])
    for kind, names in (("Windows", _WINDOWS), ("macOS", _MACOS)):
        if names.fullmatch(name):
            return f"a {kind} package"
        if build and _BUILDS[kind].search(build[1]):
            return f"a build for {kind}"
    if _SELDOM_LINUX.fullmatch(name) and re.fullmatch(r"\s*={1,2}\s*\d[\w.]*", found["rest"]):
        return "a macOS package"
    return None


def has_platform_build(text: str) -> bool:
    """Whether a match specification names a build that is not one for all platforms (`py_0`, `pyhd8ed1ab_0`)."""
    found = re.fullmatch(r"[^\s=<>!~\[\]]+=[^=<>!~,|]+=([A-Za-z0-9_.]+)", strip_comment(text))
    return bool(found and not re.fullmatch(r"(py|pyh\w*)_\d+|\d+|pypi_\d+", found[1]))


def _read(name: str, rest: str, plain: str, where: str) -> MatchSpec:
    from rattler import MatchSpec

    if len(plain) > _LONGEST:
        raise _unreadable(where, plain, f"it is longer than {_LONGEST} characters")
    rest = re.sub(r"\s+", " ", rest).strip()
    if name == "python":
        _require_python(re.split(r"[\s\[]|(?<=[\d*])=", rest.lstrip("=<>!~ "))[0], plain, where)
    keys = re.findall(r"(\w+)\s*=", rest.partition("[")[2])
    unknown = next((key for key in keys if key not in _BRACKET_KEYS), None)
    if unknown:
        raise _unreadable(where, plain, f"{unknown!r} cannot be asked for")
    rest = re.sub(r"\s*([=<>!~]{1,2}|,|\|)\s*", r"\1", rest)
    # conda takes a version that ends in a dot for the releases below it.
    rest = re.sub(r"(?<=\d)\.(?=$|[,|=\s])", "", rest)
    separator = "" if not rest or rest[0] in "=<>!~[" else " "
    try:
        specification = MatchSpec(f"{name}{separator}{rest}", strict=False)
    except Exception as error:  # noqa: BLE001 - the library has one class for each of its parsers, none in common
        raise _unreadable(where, plain, (str(error).splitlines() or [""])[0][:200]) from None
    if specification.name is None or str(specification.name.normalized) != name:
        raise _unreadable(where, plain)
    return specification


def _require_python(version: str, plain: str, where: str) -> None:
    """Require that a version of Python looks like one.

    Raises:
        EnvironmentInvalid: It does not; also `3.1*`, which conda takes for 3.1 and people for 3.10 and later.
    """
    if re.search(r"['\"]", plain) and "[" not in plain:
        raise EnvironmentInvalid(
            f"{where}: cannot read the requirement {plain[:200]!r}: quotes have no place in it",
            hint="write " + re.sub(r"['\"]", "", plain)[:200],
        )
    for part in re.split(r"[,|]", version.strip("'\"() ")):
        if part and (not _PYTHON_VERSION.fullmatch(part) or part == "3.1*"):
            raise EnvironmentInvalid(
                f"{where}: cannot read the requirement {plain[:200]!r}: {part!r} is no version of Python",
                hint=_hint_of(plain) or "write it as python=3.11 or python>=3.10",
            )


def _render_constraint(specification: MatchSpec, build: str | None) -> str:
    """Render what follows the name, in the one way that this meaning is always written."""
    version = str(specification.version or "*")
    if "|" in version or "(" in version:
        told = f" {version}"
    else:
        # py-rattler writes `=1.2`, `1.2.*` and `==1.2.*` as `1.2.*`.
        parts = {
            f"={part[:-2]}" if part.endswith(".*") and part[0] not in "=<>!~" else part for part in version.split(",")
        }
        parts -= {"*"}
        # ">" sorts behind "=" and "<": lower limits first, as people write them.
        told = ",".join(sorted(parts, reverse=True))
    if build is not None:
        exact = re.fullmatch(r"==([^,|]+)", told)
        fuzzy = re.fullmatch(r"=([^,|]+)", told)
        if exact:
            told = f"={exact[1]}={build}"
        elif fuzzy:
            told = f"={fuzzy[1]}.*={build}"
        else:
            told = f"{told} {build}" if told else f"=*={build}"
    extra = {key: getattr(specification, key) for key in ("build_number", "md5", "sha256")}
    inner = ",".join(f'{key}="{_hex(value)}"' for key, value in extra.items() if value is not None)
    return f"{told}[{inner}]" if inner else told


def _hex(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _unreadable(where: str, plain: str, reason: str = "") -> EnvironmentInvalid:
    told = f"{where}: cannot read the requirement {plain[:200]!r}" + (f": {reason}" if reason else "")
    return EnvironmentInvalid(told, hint=_hint_of(plain) or "write it as name, name=1.2 or name>=1.2")


def _hint_of(text: str) -> str | None:
    if "{{" in text or "{%" in text:
        return "this is a template: write what it stands for"
    package = re.fullmatch(r"\w+://\S*/([^/]+?)-([^/-]+)-([^/-]+?)(?:\.conda|\.tar\.bz2)(?:#\w+)?", text)
    if package:
        return f"write {package[1]}={package[2]}={package[3]}, and its channel below `channels:`"
    if re.match(r"git\+|https?://|\.\.?/|-e\b|-r\b|-f\b|--|[\w.-]+\s*@", text):
        return "addresses, paths and options belong below `- pip:`"
    extra = re.match(r"([\w.-]+)\[\s*[\w.,\s-]+\]\s*([=<>!~]*)", text)
    if extra:
        return "extras are known to pip alone: move that line below `- pip:`"
    slip = re.match(r"([A-Za-z0-9_.-]+)\s*(?:=>|=<|<=>)\s*(\S*)", text)
    if slip:
        return f"write {slip[1]}>={slip[2]}" if ">" in text else f"write {slip[1]}<={slip[2]}"
    caret = re.match(r"([\w.-]+)\s*=?\^\s*(\d\S*)", text)
    if caret:
        return f"write {caret[1]}>={caret[2]}, and what it must stay below"
    pair = re.fullmatch(r"([\w.-]+)\s*([<>]=?\s*[\w.*]+)\s*([<>!]=?\s*[\w.*]+)", text)
    if pair:
        return f"write {pair[1]}{pair[2]},{pair[3]}".replace(" ", "").replace("write", "write ")
    colon = re.fullmatch(r"([\w.-]+)\s*:\s*(\d\S*)", text)
    return f"write {colon[1]}={colon[2]}" if colon else None


def parse_channel(text: str, *, where: str) -> str:
    """Parse a channel: a name such as "conda-forge" or "pytorch/label/nightly", or a URL.

    Args:
        text: As written.
        where: File and line, for messages.

    Returns:
        Name or URL, without a trailing slash, a platform's folder, or credentials.

    Raises:
        EnvironmentInvalid: It is empty, or a slip that is well known.
    """
    name = text.strip()
    if _is_url(name):
        name = _TOKEN.sub("", _SUBDIRS.sub("", name.rstrip("/")))
        return re.sub(r"(://)[^/]*@", r"\1", name)
    name = _SUBDIRS.sub("", "/" + name.strip("/"))[1:]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", name) or ".." in name.split("/"):
        raise EnvironmentInvalid(
            f"{where}: {text[:200]!r} is no channel", hint="write a name such as conda-forge, or a URL"
        )
    if name in _CHANNEL_SLIPS:
        raise EnvironmentInvalid(f"{where}: there is no channel {name!r}", hint=f"did you mean {_CHANNEL_SLIPS[name]}?")
    return name


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    whole = re.fullmatch(r"[!-~]+", text) and parts.scheme in ("http", "https", "file", "s3", "oci")
    return bool(whole and "://" in text and (parts.hostname or parts.scheme == "file"))


def check_selector(line: str, *, platform: str, where: str) -> bool:
    """Check whether a line's selector (`# [linux]`, as conda-build and conda-lock take it) holds for a platform.

    Args:
        line: The line as it stands in the file.
        platform: Conda's name of the target.
        where: File and line, for messages.

    Returns:
        True where there is no selector.

    Raises:
        EnvironmentInvalid: It asks for something else than platforms.
    """
    found = _SELECTOR.search(line)
    if not found:
        return True
    words = re.findall(r"[()!]|[A-Za-z0-9_.-]+|\S", found[1])
    strange = [word for word in words if word not in _KNOWN_SELECTORS and word not in _OPERATORS]
    other = [word for word in strange if not re.fullmatch(r"py[0-9]*|np|cuda\w*|[<>=.\d\"']+", word)]
    if other and not (_KNOWN_SELECTORS | _OPERATORS - {"(", ")"}).issuperset(words[:2]):
        # A remark in brackets, not a selector.
        return True
    if len(words) > _LONGEST_SELECTOR:
        raise EnvironmentInvalid(f"{where}: the selector is too long", hint="write it as # [linux]")
    if strange:
        raise EnvironmentInvalid(
            f"{where}: the selector [{found[1].strip()[:200]}] asks for {strange[0]!r}; only platforms can be "
            "selected by",
            hint="leave the line in without the selector, or out",
        )
    true = _TRUE_HERE[platform]
    expression = []
    for word in words:
        if word in _OPERATORS:
            expression.append("not" if word == "!" else word)
        else:
            expression.append(str(word in true))
    answer = _evaluate(expression)
    if answer is None:
        raise EnvironmentInvalid(
            f"{where}: cannot read the selector [{found[1].strip()[:200]}]", hint="write it as # [linux]"
        )
    return answer


def _evaluate(words: list[str]) -> bool | None:
    """Evaluate words of `True`, `False`, `not`, `and`, `or` and parentheses; None where they make no sense."""
    position = 0

    def peek() -> str:
        return words[position] if position < len(words) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return words[position - 1]

    def atom() -> bool | None:
        if peek() == "not":
            take()
            inner = atom()
            return None if inner is None else not inner
        if peek() == "(":
            take()
            inner = either()
            return inner if peek() == ")" and take() else None
        return take() == "True" if peek() in ("True", "False") else None

    def both() -> bool | None:
        value = atom()
        while value is not None and peek() == "and":
            take()
            right = atom()
            value = None if right is None else value and right
        return value

    def either() -> bool | None:
        value = both()
        while value is not None and peek() == "or":
            take()
            right = both()
            value = None if right is None else value or right
        return value

    answer = either()
    return answer if position == len(words) else None
