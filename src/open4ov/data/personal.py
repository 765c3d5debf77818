"""Personal data in texts, found by rule: masked, or the sample dropped.

E-mail addresses, telephone numbers (also Chinese mobile numbers), Chinese identity numbers (checksum of GB 11643-1999),
card numbers (Luhn), IP addresses, and Chinese licence plates (GA 36). Names and addresses are not looked for: no rule
finds them without a model. Tags of medical images (`PatientName`, ...) are matched by their names.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any, Literal, cast

Action = Literal["mask", "drop"]
Kind = Literal["email", "phone", "id_number", "licence_plate", "card", "ip_address", "identity_tags"]
KINDS: tuple[Kind, ...] = ("email", "id_number", "card", "phone", "ip_address", "licence_plate", "identity_tags")

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"

_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "email": re.compile(
        r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
    ),
    "id_number": re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])"),
    "card": re.compile(r"(?<![\d.+-])(?:\d[ -]?){12,18}\d(?![\d-])"),
    "phone": re.compile(
        r"(?<![\d.+-])(?:"
        r"(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}"  # a Chinese mobile number
        r"|0\d{2,3}[ -]\d{7,8}"  # a Chinese landline with its area code
        r"|400[ -]?\d{3}[ -]?\d{4}"
        r"|\+[1-9]\d{0,2}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # international
        r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"  # North America
        r")(?![\d-])"
    ),
    "ip_address": re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)"
    ),
    "licence_plate": re.compile(
        r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-HJ-NP-Z][ ·•.]?"
        r"(?:[DF][A-HJ-NP-Z0-9]\d{4}|\d{5}[DF]|[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳领])(?![A-Z0-9])"
    ),
}

_TAGS = re.compile(
    r"^(?:(?:other)?patient(?:s?name|id|ids|birthdate|birthtime|address|telephonenumbers|comments|mothersbirthname)"
    r"|(?:referring|performing|requesting)?physicians?(?:ofrecord|name|address|telephonenumbers)+"
    r"|(?:operators|physiciansofrecord|nameofphysicians?readingstudy)(?:name)?|issuerofpatientid"
    r"|accessionnumber|institution(?:name|address|aldepartmentname)|stationname|deviceserialnumber"
    r"|(?:study|series|sop|frameofreference)(?:instance)?uid|studyid|insuranceplanidentification"
    r"|militaryrank|responsibleperson|(?:study|series|acquisition|content|birth)date|ethnicgroup"
    r"|gps\w*|gpsinfo|artist|cameraownername|ownername|bodyserialnumber|lensserialnumber|serialnumber|hostcomputer)$"
)


def found(text: str) -> Iterator[tuple[Kind, int, int]]:
    """(kind, begin, end) of personal data in a text; what two rules claim belongs to the earlier one in KINDS."""
    taken: list[tuple[int, int]] = []
    for kind in KINDS:
        pattern = _PATTERNS.get(kind)
        for match in pattern.finditer(text) if pattern else ():
            begin, end = match.span()
            if _VALID.get(kind, _always)(match.group()) and all(end <= a or begin >= b for a, b in taken):
                taken.append((begin, end))
                yield kind, begin, end


def mask(text: str, kinds: Mapping[Kind, Action]) -> tuple[str, Counter[str]]:
    """The text with personal data of these kinds replaced by `[kind]`, and how many of each were there."""
    counts: Counter[str] = Counter()
    pieces = [(begin, end, kind) for kind, begin, end in found(text) if kind in kinds]
    for begin, end, kind in sorted(pieces, reverse=True):
        counts[kind] += 1
        text = f"{text[:begin]}[{kind}]{text[end:]}"
    return text, counts


def clean(value: Any, kinds: Mapping[Kind, Action]) -> tuple[Any, Counter[str]]:
    """`mask` for whatever JSON holds: the texts in it, and the values of tags that name a person or a device."""
    if isinstance(value, str):
        return mask(value, kinds)
    counts: Counter[str] = Counter()
    if isinstance(value, list):
        items: list[Any] = []
        for item in cast("list[Any]", value):
            kept, more = clean(item, kinds)
            items.append(kept)
            counts += more
        return items, counts
    if not isinstance(value, dict):
        return value, counts
    made: dict[str, Any] = {}
    for key, item in cast("dict[str, Any]", value).items():
        if "identity_tags" in kinds and item not in (None, "") and identity_tag(key):
            made[key] = "[identity_tags]"
            counts["identity_tags"] += 1
            continue
        kept, more = clean(item, kinds)
        made[key] = kept
        counts += more
    return made, counts


def to_drop(found: Mapping[str, int], kinds: Mapping[Kind, Action]) -> list[str]:
    """The kinds among those found that the sample is dropped for."""
    return sorted(kind for kind in found if kinds.get(cast("Kind", kind)) == "drop")


def identity_tag(name: str) -> bool:
    """Whether a tag of DICOM or EXIF (in any spelling: PatientName, patient_name) names a person, place or device."""
    return bool(_TAGS.match(re.sub(r"[^a-z]", "", name.casefold())))


def luhn(digits: str) -> bool:
    """The check of card numbers: every second digit from the right doubled, the sum of digits divisible by 10."""
    total = 0
    for place, digit in enumerate(int(c) for c in reversed(digits)):
        double = digit * (1 + place % 2)
        total += double - 9 * (double > 9)
    return total % 10 == 0


def chinese_id(text: str) -> bool:
    """Whether 18 characters are a Chinese identity number: a possible birthday, a check digit of ISO 7064 11-2."""
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text, strict=False))
    return 1900 <= born.year <= 2100 and _ID_CHECKS[total % 11] == text[17].upper()


def _card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _always(_: str) -> bool:
    return True


_VALID: dict[Kind, Callable[[str], bool]] = {"id_number": chinese_id, "card": _card, "ip_address": _address}
