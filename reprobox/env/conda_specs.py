"""Read one line of an environment file's conda section: a match specification, a channel, a selector. Pure.

py-rattler's lenient reading of match specifications decides what is one; what this file adds is the name of what is
wrong. Names that exist on another platform alone are told here, because an index could only say that it has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reprobox.errors import EnvironmentInvalid

DEFAULTS = "defaults"

_SHAPE = re.compile(r"(?:(?P<channel>[^\s=<>!~\[\]]+)::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?P<rest>.*)", re.DOTALL)
_PLAIN_VERSION = re.compile(r"={1,2}\s*(\d+(?:\.\d+)*)(?:\.\*)?=?")
_SUBDIRS = re.compile(r"/(?:linux|osx|win|noarch|emscripten|wasi|zos|freebsd)(?:-[a-z0-9_]+)?/?$")
_TOKEN = re.compile(r"/t/[^/]+(?=/|$)")

# What is published for Windows or macOS alone and stands in exports of environments made there.
_WINDOWS = re.compile(
    r"^(vc|vc14_runtime|vs20\d\d_(runtime|win.*)|vcomp14|ucrt|wincertstore|win_inet_pton|winpty|pywinpty|pywin32"
    r"|pywin32-ctypes|menuinst|console_shortcut|powershell_shortcut|pyreadline3?|icc_rt|m2w64-.+|m2-.+|msys2-.+"
    r"|libwinpthread|win32_setctime|windows-curses|comtypes|pypiwin32|khronos-opencl-icd-loader)$"
)
_MACOS = re.compile(
    r"^(appnope|libcxx|python\.app|pyobjc-.+|applaunchservices|libcxxabi|llvm-openmp-osx|clang_osx-.+|clangxx_osx-.+"
    r"|cctools_osx-.+|ld64_osx-.+|compiler-rt_osx-.+|tapi|sigtool|ld64|cctools|khronos)$"
)
_CHANNEL_SLIPS = {
    "default": DEFAULTS,
    "conda_forge": "conda-forge",
    "condaforge": "conda-forge",
    "forge": "conda-forge",
}

_SELECTOR = re.compile(r"#\s*\[\s*([A-Za-z0-9_ !()=<>.\-\"']+?)\s*\]\s*$")
_TRUE_HERE = {"linux-64": {"linux", "unix", "linux64", "linux-64", "x86_64", "x86"}}
_TRUE_HERE["linux-aarch64"] = {"linux", "unix", "aarch64", "arm64", "linux-aarch64"}
_KNOWN_SELECTORS = {
    *_TRUE_HERE["linux-64"], *_TRUE_HERE["linux-aarch64"], "win", "win32", "win64", "win-64", "osx", "osx-64",
    "osx-arm64",
    "linux32", "linux-ppc64le", "ppc64le", "s390x", "armv7l", "emscripten", "wasi",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaRequirement:
    """One entry of `dependencies:` that conda would install.

    Attributes:
        text: The match specification, normalised: name in lower case, single blanks, no channel.
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
        """Its version where only that is asked for ("3.11" of `=3.11.*`); "" without any, None if it says more."""
        found = _PLAIN_VERSION.fullmatch(self.constraint)
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
    from rattler import MatchSpec

    where = f"{source}:{line}"
    plain = re.sub(r"(^|\s)#.*$", "", text).strip()
    found = _SHAPE.fullmatch(plain)
    if not found or re.match(r"\.\.?/|[\w+]+://", plain):
        raise EnvironmentInvalid(
            f"{where}: cannot read the requirement {plain[:200]!r}",
            hint=_hint_of(plain) or "write it as name, name=1.2 or name>=1.2",
        )
    name, rest = found["name"].lower(), re.sub(r"\s+", " ", found["rest"]).strip()
    rest = re.sub(r"\s*([=<>!~]{1,2}|,|\|)\s*", r"\1", rest)
    separator = "" if not rest or rest[0] in "=<>!~[" else " "
    normal = f"{name}{separator}{rest}"
    try:
        specification = MatchSpec(normal, strict=False)
    except Exception as error:  # noqa: BLE001 - the library has one class for each of its parsers, none in common
        reason = (str(error).splitlines() or [""])[0]
        raise EnvironmentInvalid(
            f"{where}: cannot read the requirement {plain[:200]!r}: {reason}",
            hint=_hint_of(plain) or "write it as name, name=1.2 or name>=1.2",
        ) from None
    _require_linux(name, plain, where)
    channel = None if found["channel"] is None else parse_channel(found["channel"], where=where)
    return CondaRequirement(
        text=normal,
        name=name,
        channel=channel,
        line=line,
        is_version_only=specification.build is None and "[" not in normal,
    )


def _hint_of(text: str) -> str | None:
    if re.match(r"git\+|https?://|\.\.?/|-e\b|-r\b|--", text):
        return "addresses, paths and options belong below `- pip:`"
    slip = re.match(r"([A-Za-z0-9_.-]+)\s*(?:=>|=<|<=>)\s*(\S*)", text)
    if slip:
        return f"write {slip[1]}>={slip[2]}" if ">" in text else f"write {slip[1]}<={slip[2]}"
    return None


def _require_linux(name: str, text: str, where: str) -> None:
    """Require that a package is not of another platform alone.

    Raises:
        EnvironmentInvalid: It is.
    """
    for kind, names in (("Windows", _WINDOWS), ("macOS", _MACOS)):
        if names.fullmatch(name):
            raise EnvironmentInvalid(
                f"{where}: {text!r} is a {kind} package; images are Linux",
                hint=f"this file looks like an export from {kind}: make it with `conda env export --from-history`, "
                "or delete such lines",
            )


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
    if re.match(r"[a-z+]+://", name):
        name = _TOKEN.sub("", _SUBDIRS.sub("", name.rstrip("/")))
        return re.sub(r"(://)[^/@]*@", r"\1", name)
    name = _SUBDIRS.sub("", "/" + name.strip("/"))[1:]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", name) or ".." in name.split("/"):
        raise EnvironmentInvalid(f"{where}: {text!r} is no channel", hint="write a name such as conda-forge, or a URL")
    if name in _CHANNEL_SLIPS:
        raise EnvironmentInvalid(f"{where}: there is no channel {name!r}", hint=f"did you mean {_CHANNEL_SLIPS[name]}?")
    return name


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
    if not any(word in _KNOWN_SELECTORS or re.match(r"py[0-9]*$|np$|cuda", word) for word in words):
        # A remark in brackets, not a selector.
        return True
    true = _TRUE_HERE[platform]
    expression = []
    for word in words:
        if word in ("and", "or", "not", "(", ")"):
            expression.append(word)
        elif word == "!":
            expression.append("not")
        elif word in _KNOWN_SELECTORS:
            expression.append(str(word in true))
        else:
            raise EnvironmentInvalid(
                f"{where}: the selector [{found[1]}] asks for {word!r}; only platforms can be selected by",
                hint="leave the line in without the selector, or out",
            )
    answer = _evaluate(expression)
    if answer is None:
        raise EnvironmentInvalid(f"{where}: cannot read the selector [{found[1]}]", hint="write it as # [linux]")
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
